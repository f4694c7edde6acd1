package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/stream"

	"github.com/kilnhook/kiln/executor/internal/decompress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Extract applies a layer as it is stored, gzip, zstd or plain by its magic
// bytes, and checks that its content is what the diff id says. Decompression
// and hashing run beside the writing of files. The layer's own reader checks
// the digest. progress, if not nil, is told of compressed bytes.
func Extract(ctx context.Context, fsys rootfs.FS, l v1.Layer, opt ApplyOptions, progress func(done int64)) error {
	err := unpack(ctx, l, progress, func(r io.Reader) error { return Apply(ctx, fsys, r, opt) })
	if err != nil {
		return fmt.Errorf("extract layer%w", err)
	}
	return nil
}

// unpack decompresses a layer for read, which need not read all of it, and
// verifies it to its end.
func unpack(ctx context.Context, l v1.Layer, progress func(done int64), read func(io.Reader) error) error {
	name := "" // known before the content is, but for a layer that is still being written
	want, err := l.DiffID()
	if err == nil {
		name = " " + want.String()
	} else if !errors.Is(err, stream.ErrNotComputed) {
		return fmt.Errorf(": %w", err)
	}
	sum, err := unpacked(ctx, l, progress, read)
	if err == nil {
		want, err = l.DiffID()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if got := fmt.Sprintf("%x", sum); got != want.Hex {
		return fmt.Errorf(": the content's diff id is sha256:%s, the image config says %s", got, want)
	}
	return nil
}

// unpacked returns the hash of the uncompressed layer.
func unpacked(ctx context.Context, l v1.Layer, progress func(done int64), read func(io.Reader) error) ([]byte, error) {
	rc, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	raw := &counter{ctx: ctx, r: rc, report: progress}
	plain, _, err := decompress.New(raw, decompress.Gzip, decompress.Zstd)
	if err != nil {
		return nil, err
	}
	ahead := newReadAhead(plain)
	if err = read(ahead); err == nil {
		_, err = io.Copy(io.Discard, ahead)
	}
	sum := ahead.stop()
	plain.Close()
	if err == nil {
		// What follows the compressed stream counts for its digest.
		_, err = io.Copy(io.Discard, raw)
	}
	return sum, err
}

type counter struct {
	ctx    context.Context //nolint:containedctx // io.Reader has no room for it
	r      io.Reader
	n      int64
	report func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.report != nil && n > 0 {
		c.report(c.n)
	}
	return n, err
}

// readAhead reads and hashes on a goroutine of its own, a few chunks ahead.
type readAhead struct {
	full, free chan []byte
	quit       chan struct{}
	done       chan struct{}
	err        error // of the source; valid once full is closed
	cur, whole []byte
	sum        hash.Hash
}

const (
	aheadChunk = 256 << 10
	aheadDepth = 4
)

func newReadAhead(r io.Reader) *readAhead {
	a := &readAhead{
		full: make(chan []byte, aheadDepth), free: make(chan []byte, aheadDepth),
		quit: make(chan struct{}), done: make(chan struct{}), sum: sha256.New(),
	}
	for range aheadDepth {
		a.free <- make([]byte, aheadChunk)
	}
	go a.fill(r)
	return a
}

func (a *readAhead) fill(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.quit:
			return
		}
		n, err := fillBuffer(r, buf[:aheadChunk])
		a.sum.Write(buf[:n])
		if n > 0 {
			a.full <- buf[:n]
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				a.err = err
			}
			return
		}
	}
}

// fillBuffer is io.ReadFull, but an io.ErrUnexpectedEOF is the source's own:
// a truncated stream.
func fillBuffer(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func (a *readAhead) Read(p []byte) (int, error) {
	if len(a.cur) == 0 {
		if a.whole != nil {
			a.free <- a.whole
			a.whole = nil
		}
		buf, ok := <-a.full
		if !ok {
			if a.err != nil {
				return 0, a.err
			}
			return 0, io.EOF
		}
		a.cur, a.whole = buf, buf
	}
	n := copy(p, a.cur)
	a.cur = a.cur[n:]
	return n, nil
}

// stop ends the reading and returns the hash of everything that was read.
func (a *readAhead) stop() []byte {
	close(a.quit)
	for range a.full { // drained so that fill can end
	}
	<-a.done
	return a.sum.Sum(nil)
}
