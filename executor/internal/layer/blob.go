package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/executor/internal/decompress"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// Blob is a layer being written to a file, or one that was. It is a v1.Layer
// from the start: Compressed follows the file as it grows, so that an upload
// runs beside the writing, and Digest, DiffID and Size return
// stream.ErrNotComputed until the writing is done.
type Blob struct {
	path string
	how  Compression

	mu      sync.Mutex
	grown   *sync.Cond
	written int64
	done    bool
	err     error
	digest  v1.Hash
	diffID  v1.Hash

	contents *progress.Contents // nil unless Fill wrote it
}

var _ v1.Layer = (*Blob)(nil)

// NewBlob returns a layer that will be written to a new file in dir.
func NewBlob(dir string, how Compression) (*Blob, error) {
	f, err := os.CreateTemp(dir, "layer-*.tar")
	if err != nil {
		return nil, fmt.Errorf("spool layer: %w", err)
	}
	b := &Blob{path: f.Name(), how: how}
	b.grown = sync.NewCond(&b.mu)
	return b, f.Close()
}

// Fill writes the changes of fsys as the layer's content. It must be called
// once. When it returns nothing reads fsys any more. Readers of the layer see
// its error.
func (b *Blob) Fill(ctx context.Context, fsys rootfs.FS, changes []snapshot.Change, opt WriteOptions) error {
	opt.contents = &progress.Contents{}
	sums, err := b.fill(ctx, fsys, changes, opt)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.contents = opt.contents
	b.done, b.err = true, err
	b.digest = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sums.Digest)}
	b.diffID = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sums.DiffID)}
	b.grown.Broadcast()
	return err
}

func (b *Blob) fill(ctx context.Context, fsys rootfs.FS, changes []snapshot.Change, opt WriteOptions) (Sums, error) {
	f, err := os.OpenFile(b.path, os.O_WRONLY, 0)
	if err != nil {
		return Sums{}, fmt.Errorf("spool layer: %w", err)
	}
	index, err := os.Create(b.indexPath())
	if err != nil {
		return Sums{}, errors.Join(fmt.Errorf("spool layer index: %w", err), f.Close())
	}
	opt.index, err = newIndexWriter(index)
	if err != nil {
		return Sums{}, errors.Join(err, f.Close(), index.Close())
	}
	c, err := NewCompressor(&growing{b, f}, b.how)
	if err != nil {
		return Sums{}, errors.Join(err, f.Close(), opt.index.close(), index.Close())
	}
	werr := Write(ctx, c, fsys, changes, opt)
	sums, cerr := c.Close()
	if err := errors.Join(werr, cerr, f.Close(), opt.index.close(), index.Close()); err != nil {
		return Sums{}, err
	}
	return sums, nil
}

func (b *Blob) indexPath() string { return b.path + ".index" }

// Index returns the index of the layer, as WriteIndex would write it, once the
// layer is written.
func (b *Blob) Index() (io.ReadCloser, error) {
	b.mu.Lock()
	for !b.done {
		b.grown.Wait()
	}
	err := b.err
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(b.indexPath())
	if err != nil {
		return nil, fmt.Errorf("read spooled layer index: %w", err)
	}
	return f, nil
}

// growing writes to the file and wakes those who read it.
type growing struct {
	b *Blob
	f *os.File
}

func (g *growing) Write(p []byte) (int, error) {
	n, err := g.f.Write(p)
	g.b.mu.Lock()
	g.b.written += int64(n)
	g.b.grown.Broadcast()
	g.b.mu.Unlock()
	return n, err
}

// Remove deletes the file. The layer can no longer be read.
func (b *Blob) Remove() error { return errors.Join(os.Remove(b.path), os.Remove(b.indexPath())) }

// Contents says what Fill has put into the layer; nil unless it has ended well.
func (b *Blob) Contents() *progress.Contents {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.computed() != nil {
		return nil
	}
	return b.contents
}

// Written returns how many compressed bytes there are so far.
func (b *Blob) Written() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written
}

func (b *Blob) computed() error {
	switch {
	case b.err != nil:
		return b.err
	case !b.done:
		return stream.ErrNotComputed
	}
	return nil
}

// Digest implements v1.Layer.
func (b *Blob) Digest() (v1.Hash, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.digest, b.computed()
}

// DiffID implements v1.Layer.
func (b *Blob) DiffID() (v1.Hash, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.diffID, b.computed()
}

// Size implements v1.Layer.
func (b *Blob) Size() (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written, b.computed()
}

// MediaType implements v1.Layer.
func (b *Blob) MediaType() (types.MediaType, error) {
	if b.how.Zstd {
		return types.OCILayerZStd, nil
	}
	return types.OCILayer, nil
}

// Compressed implements v1.Layer. The reader waits for what is yet to be
// written, and may be opened as often as needed.
func (b *Blob) Compressed() (io.ReadCloser, error) {
	f, err := os.Open(b.path)
	if err != nil {
		return nil, fmt.Errorf("read spooled layer: %w", err)
	}
	return &follower{b: b, f: f}, nil
}

// Uncompressed implements v1.Layer.
func (b *Blob) Uncompressed() (io.ReadCloser, error) {
	rc, err := b.Compressed()
	if err != nil {
		return nil, err
	}
	zr, _, err := decompress.New(rc, decompress.Gzip, decompress.Zstd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read spooled layer: %w", err), rc.Close())
	}
	return &unzipped{zr, rc}, nil
}

type unzipped struct {
	io.ReadCloser
	under io.Closer
}

func (u *unzipped) Close() error { return errors.Join(u.ReadCloser.Close(), u.under.Close()) }

// follower reads a file up to what has been written and waits for more. Close
// from another goroutine ends a wait.
type follower struct {
	b      *Blob
	f      *os.File
	off    int64
	closed bool
}

func (r *follower) Read(p []byte) (int, error) {
	r.b.mu.Lock()
	for r.off == r.b.written && !r.b.done && !r.closed {
		r.b.grown.Wait()
	}
	avail, err, closed := r.b.written-r.off, r.b.err, r.closed
	r.b.mu.Unlock()
	switch {
	case closed:
		return 0, os.ErrClosed
	case err != nil:
		return 0, err
	case avail == 0:
		return 0, io.EOF
	}
	n, err := r.f.Read(p[:min(int64(len(p)), avail)])
	r.off += int64(n)
	return n, err
}

// Seek implements io.Seeker from the start of the layer.
func (r *follower) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart || offset < 0 {
		return 0, fmt.Errorf("read spooled layer: %w", errors.ErrUnsupported)
	}
	n, err := r.f.Seek(offset, io.SeekStart)
	r.off = n
	return n, err
}

func (r *follower) Close() error {
	r.b.mu.Lock()
	r.closed = true
	r.b.grown.Broadcast()
	r.b.mu.Unlock()
	return r.f.Close()
}
