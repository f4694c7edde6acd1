package cache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is the layer of an entry. What is read from it is verified: an error
// comes in place of the end if it is not what the entry says.
type layer struct {
	desc   v1.Descriptor
	diffID v1.Hash
	open   func() (io.ReadCloser, error)
	exists func() (bool, error)
}

var _ v1.Layer = (*layer)(nil)

func (l *layer) Digest() (v1.Hash, error) { return l.desc.Digest, nil }

func (l *layer) DiffID() (v1.Hash, error) { return l.diffID, nil }

func (l *layer) Size() (int64, error) { return l.desc.Size, nil }

func (l *layer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }

func (l *layer) Compressed() (io.ReadCloser, error) {
	rc, err := l.open()
	if err != nil {
		return nil, fmt.Errorf("read cached layer %s: %w", l.desc.Digest, err)
	}
	return verify(rc, l.desc.Digest)
}

func (l *layer) Uncompressed() (io.ReadCloser, error) {
	plain, err := partial.CompressedToLayer(compressedOnly{l})
	if err != nil {
		return nil, err
	}
	rc, err := plain.Uncompressed()
	if err != nil {
		return nil, err
	}
	return verify(rc, l.diffID)
}

// Exists says whether the store still has the layer.
func (l *layer) Exists() (bool, error) { return l.exists() }

// compressedOnly hides Uncompressed, so that partial decompresses.
type compressedOnly struct{ l *layer }

func (c compressedOnly) Digest() (v1.Hash, error)            { return c.l.Digest() }
func (c compressedOnly) Size() (int64, error)                { return c.l.Size() }
func (c compressedOnly) MediaType() (types.MediaType, error) { return c.l.MediaType() }
func (c compressedOnly) Compressed() (io.ReadCloser, error)  { return c.l.Compressed() }

// verify returns rc, which ends with an error if its bytes do not have the
// digest want.
func verify(rc io.ReadCloser, want v1.Hash) (io.ReadCloser, error) {
	h, err := v1.Hasher(want.Algorithm)
	if err != nil {
		_ = rc.Close()
		return nil, err
	}
	return &verifier{ReadCloser: rc, hash: h, want: want}, nil
}

type verifier struct {
	io.ReadCloser
	hash hash.Hash
	want v1.Hash
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.hash.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(v.hash.Sum(nil)); got != v.want.Hex {
			return n, fmt.Errorf("cached layer is corrupt: its digest is sha256:%s and not %s", got, v.want)
		}
	}
	return n, err
}
