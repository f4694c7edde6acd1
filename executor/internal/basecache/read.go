package basecache

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// blobs are the contents of an image, by their digests. They are not verified.
type blobs interface {
	blob(digest v1.Hash) (io.ReadCloser, error)
}

// blobDir is an OCI image layout.
type blobDir string

func (b blobDir) blob(digest v1.Hash) (io.ReadCloser, error) {
	if digest.Algorithm != "sha256" || filepath.Base(digest.Hex) != digest.Hex {
		return nil, fmt.Errorf("%s is not a SHA-256 digest", digest)
	}
	return os.Open(filepath.Join(string(b), "blobs", digest.Algorithm, digest.Hex))
}

// archive is an archive for docker load that names blobs as go-containerregistry
// does.
type archive struct {
	path string
	at   map[string]span
}

type span struct{ offset, size int64 }

// openArchive looks what is where in an archive.
func openArchive(path string) (*archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	at, err := spans(f)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	return &archive{path: path, at: at}, nil
}

// spans says where the files in a tar archive are.
func spans(f io.ReadSeeker) (map[string]span, error) {
	at := map[string]span{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil {
			return nil, err
		}
		// The reader does not read ahead: the content begins here.
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			at[h.Name] = span{offset, h.Size}
		}
	}
}

func (a *archive) blob(digest v1.Hash) (io.ReadCloser, error) {
	s, ok := a.at[layerName(digest)]
	if !ok {
		s, ok = a.at[digest.String()]
	}
	if !ok {
		return nil, fmt.Errorf("the archive has no %s", digest)
	}
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, s.offset, s.size), f}, nil
}

// layerName is the name of a layer in an archive. It ends so however the layer
// is compressed.
func layerName(digest v1.Hash) string { return digest.Hex + ".tar.gz" }

// verified fails at its end if what was read has not the digest.
type verified struct {
	io.ReadCloser
	sum  hash.Hash
	want v1.Hash
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.want.Hex || v.want.Algorithm != "sha256" {
			return n, fmt.Errorf("the content of %s in the cache of base images has the digest sha256:%s: remove the entry, or run the warmer with --force", v.want, got)
		}
	}
	return n, err
}

func openBlob(b blobs, digest v1.Hash) (io.ReadCloser, error) {
	rc, err := b.blob(digest)
	if err != nil {
		return nil, err
	}
	return &verified{ReadCloser: rc, sum: sha256.New(), want: digest}, nil
}

func readBlob(b blobs, digest v1.Hash, limit int64) ([]byte, error) {
	rc, err := openBlob(b, digest)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rc.Close() }()
	return readLimited(rc, limit)
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readLimited(f, limit)
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return raw, err
}

// cached is an image in the directory.
type cached struct {
	blobs    blobs
	manifest []byte
	config   []byte
	parsed   v1.Manifest
}

var _ partial.CompressedImageCore = (*cached)(nil)

func (c *cached) RawConfigFile() ([]byte, error) { return c.config, nil }
func (c *cached) RawManifest() ([]byte, error)   { return c.manifest, nil }

// MediaType is that of the manifest, which an OCI manifest need not say.
func (c *cached) MediaType() (types.MediaType, error) {
	if c.parsed.MediaType == "" {
		return types.OCIManifestSchema1, nil
	}
	return c.parsed.MediaType, nil
}

// LayerByDigest returns a layer or the config of the image.
func (c *cached) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	for _, d := range append([]v1.Descriptor{c.parsed.Config}, c.parsed.Layers...) {
		if d.Digest == digest {
			return &cachedLayer{c.blobs, d}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", digest)
}

type cachedLayer struct {
	blobs blobs
	desc  v1.Descriptor
}

func (l *cachedLayer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l *cachedLayer) Size() (int64, error)                { return l.desc.Size, nil }
func (l *cachedLayer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
func (l *cachedLayer) Compressed() (io.ReadCloser, error)  { return openBlob(l.blobs, l.desc.Digest) }

// drain reads a layer to its end.
func drain(l v1.Layer) error {
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, rc)
	return errors.Join(err, rc.Close())
}
