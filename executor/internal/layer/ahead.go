package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// maxAhead is how many layers are fetched at once, that which is being read
// included.
const maxAhead = 4

// FetchAhead returns layers that are fetched before they are read, some at a time
// and in their order, into files in dir. The first is not: it is read at once.
// stop ends what is being fetched and removes the files; the layers are of no use
// afterwards. meter tells of each layer when it is pulled.
func FetchAhead(ctx context.Context, dir string, layers []v1.Layer, meter progress.Meter) (ahead []v1.Layer, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	if len(layers) == 0 {
		return nil, func() { cancel(nil) }
	}
	ahead = append(ahead, pulled{layers[0], meter})
	var spooled []*Blob
	for _, l := range layers[1:] {
		_, own := l.(*shared)
		l = pulled{l, meter}
		if own { // a file of its own
			ahead = append(ahead, l)
			continue
		}
		b, err := NewBlob(dir, Compression{})
		if err != nil {
			ahead = append(ahead, l) // read when it is its turn
			continue
		}
		spooled = append(spooled, b)
		ahead = append(ahead, &fetched{Layer: l, blob: b})
	}
	queue := make(chan v1.Layer, len(ahead))
	for _, l := range ahead[min(1, len(ahead)):] {
		queue <- l
	}
	close(queue)
	for range maxAhead - 1 {
		work.Go(func() {
			for l := range queue {
				switch l := l.(type) {
				case *fetched:
					l.blob.receive(ctx, l.Layer)
				case pulled:
					if s, ok := l.Layer.(*shared); ok {
						if b := s.fetch(); b != nil {
							b.wait(ctx)
						}
					}
				}
			}
		})
	}
	return ahead, func() {
		cancel(nil)
		work.Wait()
		for _, b := range spooled {
			_ = os.Remove(b.path)
		}
	}
}

// pulled is a layer that tells when its bytes are fetched.
type pulled struct {
	v1.Layer
	meter progress.Meter
}

// Compressed implements v1.Layer.
func (p pulled) Compressed() (io.ReadCloser, error) {
	name := ""
	if h, err := p.Digest(); err == nil {
		name = h.Hex[:min(12, len(h.Hex))]
	}
	end := p.meter.Begin(progress.PhasePull, name)
	rc, err := p.Layer.Compressed()
	if err != nil {
		end(0, err)
		return nil, err
	}
	return &pulling{ReadCloser: rc, end: end}, nil
}

// pulling counts what is read, up to the end, an error or Close.
type pulling struct {
	io.ReadCloser
	end  func(bytes int64, err error)
	read int64
}

func (p *pulling) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	p.read += int64(n)
	if errors.Is(err, io.EOF) {
		p.end(p.read, nil)
	} else if err != nil {
		p.end(p.read, err)
	}
	return n, err
}

func (p *pulling) Close() error {
	p.end(p.read, nil)
	return p.ReadCloser.Close()
}

// fetched is a layer that is, or will be, in a file.
type fetched struct {
	v1.Layer
	blob *Blob
}

// Compressed reads the file as it grows, or, if it could not be fetched, the layer
// itself.
func (f *fetched) Compressed() (io.ReadCloser, error) {
	if f.blob.failed() {
		return f.Layer.Compressed()
	}
	return f.blob.Compressed()
}

// failed tells whether the file could not be filled.
func (b *Blob) failed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

// wait returns when the file is filled or ctx is done.
func (b *Blob) wait(ctx context.Context) {
	defer context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.grown.Broadcast()
	})()
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.done && ctx.Err() == nil {
		b.grown.Wait()
	}
}

// receive fills the file with the bytes of a layer.
func (b *Blob) receive(ctx context.Context, l v1.Layer) {
	err := b.fetch(ctx, l)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done, b.err = true, err
	b.grown.Broadcast()
}

func (b *Blob) fetch(ctx context.Context, l v1.Layer) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	f, err := os.OpenFile(b.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("spool layer: %w", err)
	}
	_, err = io.CopyBuffer(writerOnly{&growing{b, f}}, &counter{ctx: ctx, r: rc}, make([]byte, 128<<10))
	return errors.Join(err, f.Close())
}
