// Package toc reads the table of contents that some layers have, and of a layer no
// more than that: eStargz (stargz-snapshotter, docs/estargz.md), which is gzip, and
// zstd:chunked. The layer's descriptor in the manifest has the table's digest.
//
// A table is what somebody said of a layer. Nothing proves that the layer's content
// agrees with it but reading that.
package toc

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/decompress"
)

// Annotations of the descriptors of layers.
const (
	annotationStargz   = "containerd.io/snapshot/stargz/toc.digest"
	annotationPosition = "io.github.containers.zstd-chunked.manifest-position"
	annotationChecksum = "io.github.containers.zstd-chunked.manifest-checksum"
	// What stargz-snapshotter calls them.
	annotationPosition2 = "io.containers.zstd-chunked.manifest-position"
	annotationChecksum2 = "io.containers.zstd-chunked.manifest-checksum"
)

// Limits of a table, in bytes.
const (
	maxJSON  = 1 << 30
	maxTable = 256 << 20 // compressed
	// maxContent is how large a file is that is read by the table.
	maxContent = 256 << 10
	// maxRest is how much is read of a layer, compressed, to see how it ends.
	maxRest = 8 << 20
)

// ErrDigest is wrapped by the error of a table that is not the one that the manifest
// names.
var ErrDigest = errors.New("the table of contents is not the one that the manifest names")

// errForm is the error of a blob that is not what its annotations say.
var errForm = errors.New("the layer is not of the form that its annotations say")

// Blob is a layer as it is stored.
type Blob interface {
	// Range reads the bytes from one offset up to another. An error is also that the
	// registry gives no parts.
	Range(ctx context.Context, from, to int64) (io.ReadCloser, error)
}

// Ref is what a manifest says of the table of a layer.
type Ref struct {
	// Digest is the table's: of its JSON in eStargz, compressed in zstd:chunked.
	Digest v1.Hash
	size   int64 // of the layer
	// Where it is in a zstd:chunked layer.
	zstd                 bool
	offset, length, json int64
}

// Find reads the descriptor of a layer. It reports false if that has no table, or none
// of a form that is known.
func Find(desc v1.Descriptor) (Ref, bool) {
	ref := Ref{size: desc.Size}
	a := desc.Annotations
	if sum, ok := a[annotationStargz]; ok {
		var err error
		ref.Digest, err = v1.NewHash(sum)
		return ref, err == nil && ref.Digest.Algorithm == "sha256"
	}
	for _, names := range [][2]string{{annotationPosition, annotationChecksum}, {annotationPosition2, annotationChecksum2}} {
		if at, ok := a[names[0]]; ok {
			return ref.position(at, a[names[1]])
		}
	}
	return ref, false
}

// position reads "offset:length:length of the JSON:type".
func (r Ref) position(at, sum string) (Ref, bool) {
	var n [4]int64
	parts := strings.Split(at, ":")
	if len(parts) != len(n) {
		return r, false
	}
	for i, p := range parts {
		var err error
		if n[i], err = strconv.ParseInt(p, 10, 64); err != nil || n[i] < 0 {
			return r, false
		}
	}
	var err error
	r.Digest, err = v1.NewHash(sum)
	r.zstd, r.offset, r.length, r.json = true, n[0], n[1], n[2]
	inside := r.offset <= r.size && r.length <= r.size-r.offset
	return r, err == nil && r.Digest.Algorithm == "sha256" && inside && n[3] == 1
}

// Annotations are those of a layer that say of its table, and hold for the layer wherever
// it is: nil if there are none.
func Annotations(of map[string]string) map[string]string {
	var out map[string]string
	for _, name := range []string{annotationStargz, annotationPosition, annotationChecksum, annotationPosition2, annotationChecksum2} {
		if v, ok := of[name]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[name] = v
		}
	}
	return out
}

// Content reads what a regular file holds, up to 256 KiB, and verifies it by the table.
type Content func() ([]byte, error)

// Read calls each for the tar headers of a layer in their order, as a tar reader would
// give them but for fractions of a second, which the tables of eStargz do not have.
// The headers are valid until it returns. content is nil but for files of which want says
// so and of which the table says where they are. Only if there is no error is the table
// verified.
func Read(ctx context.Context, b Blob, ref Ref, want func(name string) bool, each func(h *tar.Header, content Content) error) error {
	r := &reader{ctx: ctx, b: b, ref: ref, want: want, each: each}
	if ref.zstd {
		return r.chunked()
	}
	return r.stargz()
}

type reader struct {
	ctx  context.Context //nolint:containedctx // for the time of one call
	b    Blob
	ref  Ref
	want func(name string) bool
	each func(h *tar.Header, content Content) error

	end  int64 // of what the layer's files are in
	tail tail
	last last
}

// last is where what the layer's files hold ends.
type last struct {
	span
	file  int64 // size of the file that it is of; 0: there is none
	after int   // entries behind it
}

// entry takes an entry of the table.
func (r *reader) entry(e *entry) error {
	if e.chunk {
		return r.chunk(e)
	}
	if e.h.Typeflag != tar.TypeReg || e.h.Size == 0 {
		r.last.after++
		return r.each(&e.h, nil)
	}
	if e.span.offset >= r.end || e.span.size > e.h.Size {
		return fmt.Errorf("%w: /%s is not in it", errForm, e.h.Name)
	}
	r.last = last{span: e.span, file: e.h.Size}
	var content Content
	if e.sum != "" && e.h.Size <= maxContent {
		content = func() ([]byte, error) { return r.content(e.span, e.h.Size, e.sum) }
	}
	return r.each(&e.h, content)
}

// chunk takes a further part of the file before.
func (r *reader) chunk(e *entry) error {
	if r.last.after > 0 || e.span.offset >= r.end || e.span.at >= r.last.file || e.span.size > r.last.file-e.span.at {
		return fmt.Errorf("%w: a part of /%s is out of place", errForm, e.h.Name)
	}
	r.last.span = e.span
	return nil
}

// content reads a file. Its chunks lie one behind another.
func (r *reader) content(at span, size int64, sum string) ([]byte, error) {
	const frames = 4 << 10 // what streams have besides
	plain := at.inner + size
	if plain > maxRest {
		return nil, fmt.Errorf("%w: a file begins too far in a stream", errForm)
	}
	rc, err := r.open(at.offset, min(r.end, at.offset+plain+plain/64+frames))
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	body := make([]byte, size)
	if err = skipped(rc, at.inner); err == nil {
		_, err = io.ReadFull(rc, body)
	}
	if err != nil {
		return nil, fmt.Errorf("read a file by the table of contents: %w", err)
	}
	if got := sha256.Sum256(body); sum != "sha256:"+hex.EncodeToString(got[:]) {
		return nil, fmt.Errorf("%w: a file is not what the table says", errForm)
	}
	return body, nil
}

func skipped(r io.Reader, n int64) error {
	_, err := io.CopyN(io.Discard, r, n)
	return err
}

// plainReader decompresses a part of a blob.
type plainReader struct {
	io.ReadCloser
	raw io.Closer
}

func (p plainReader) Close() error { return errors.Join(p.ReadCloser.Close(), p.raw.Close()) }

// open decompresses what is between two offsets.
func (r *reader) open(from, to int64) (io.ReadCloser, error) {
	rc, err := r.part(from, to)
	if err != nil {
		return nil, err
	}
	plain, format, err := decompress.New(rc, decompress.Gzip, decompress.Zstd)
	if err == nil && format == decompress.None {
		err = fmt.Errorf("%w: no compressed stream begins at %d", errForm, from)
	}
	if err != nil {
		return nil, errors.Join(err, rc.Close())
	}
	return plainReader{plain, rc}, nil
}

// tail is the end of a blob, which is read first.
type tail struct {
	from int64
	b    []byte
}

// part reads what is between two offsets, and asks the registry for what is not at hand.
func (r *reader) part(from, to int64) (io.ReadCloser, error) {
	if from > to || from < 0 || to > r.ref.size {
		return nil, fmt.Errorf("%w: it has no bytes %d to %d", errForm, from, to)
	}
	if r.tail.b == nil || to <= r.tail.from {
		return r.b.Range(r.ctx, from, to)
	}
	have := r.tail.b[max(0, from-r.tail.from) : to-r.tail.from]
	if from >= r.tail.from {
		return io.NopCloser(bytes.NewReader(have)), nil
	}
	rc, err := r.b.Range(r.ctx, from, r.tail.from)
	if err != nil {
		return nil, err
	}
	return joined{io.MultiReader(rc, bytes.NewReader(have)), rc}, nil
}

type joined struct {
	io.Reader
	io.Closer
}

// bounded is an error where LimitReader ends.
type bounded struct {
	r    io.Reader
	left int64
}

// errLong is the error of a table that is too large.
var errLong = errors.New("the table of contents is too large")

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errLong
	}
	return n, err
}
