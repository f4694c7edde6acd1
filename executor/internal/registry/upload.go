package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Upload sends a layer to every destination. A layer that a registry has is
// not sent; one that it has in another repository is mounted from there. l may
// be a streaming layer, whose Digest returns stream.ErrNotComputed until what
// Compressed returns has been read to its end: it is read exactly once,
// however many destinations there are, and a failure in the middle is final
// unless Compressed can be called again.
//
// progress, which may be nil, is told how many bytes were sent to the first
// destination and how many there are, 0 if that is not known yet.
func (p *Push) Upload(ctx context.Context, l v1.Layer, progress func(done, total int64)) error {
	if mt, err := l.MediaType(); err == nil && !mt.IsDistributable() {
		return nil // it is where its URLs say
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	for i, to := range p.targets {
		send := l
		if i > 0 {
			progress = func(int64, int64) {}
			var err error
			if send, err = p.copyOf(ctx, l); err != nil {
				return fmt.Errorf("push layer: %w", err)
			}
		}
		if err := to.upload(ctx, send, progress); err != nil {
			return fmt.Errorf("push layer %sto %s: %w", digestText(l), to.repo, p.c.explain(err, to.repo))
		}
	}
	return nil
}

// Offer does for a layer what costs little: it finds out which destinations have
// it, and mounts it where it can be. What that achieved Upload need not do. there
// tells whether all have it now. Nothing is said of failures: Upload will have them
// too.
func (p *Push) Offer(ctx context.Context, l v1.Layer) (there bool) {
	digest, err := l.Digest()
	if err != nil {
		return false
	}
	there = true
	for _, t := range p.targets {
		err := t.once(ctx, l, func() error {
			there, up, err := t.find(ctx, l, digest)
			t.forget(ctx, up)
			if err == nil && !there {
				err = errNotThere
			}
			return err
		})
		there = there && err == nil
	}
	return there
}

// errNotThere is for who waits for a layer that was only looked for.
var errNotThere = errors.New("the layer is not there")

// innermost takes wrappings off a layer that hide where it can be mounted
// from.
func innermost(l v1.Layer) v1.Layer {
	for {
		u, ok := l.(interface{ Unwrap() v1.Layer })
		if !ok {
			return l
		}
		l = u.Unwrap()
	}
}

// digestText is the layer's digest and a space, or nothing if it is not known.
func digestText(l v1.Layer) string {
	if d, err := l.Digest(); err == nil {
		return d.String() + " "
	}
	return ""
}

// upload sends a layer to one repository, unless that is done already.
func (t *target) upload(ctx context.Context, l v1.Layer, progress func(done, total int64)) error {
	err := t.once(ctx, l, func() error {
		retries := t.c.opt.PushRetry
		if _, err := l.Digest(); errors.Is(err, stream.ErrNotComputed) {
			retries = max(retries, streamRetries)
		}
		read := func(l v1.Layer) (io.ReadCloser, error) { return counted(l, progress) }
		return t.c.again(ctx, retries, func() error {
			return t.c.thrice(ctx, func() error { return t.send(ctx, l, read) })
		})
	})
	if err != nil {
		return err
	}
	if size, err := l.Size(); err == nil {
		progress(size, size)
	}
	return nil
}

// streamRetries is how often the upload of a streaming layer is tried again at
// least. It helps if the failure came before the layer was read.
const streamRetries = 2

// counted reads a layer and tells how much of it was read.
func counted(l v1.Layer, progress func(done, total int64)) (io.ReadCloser, error) {
	var total int64
	if size, err := l.Size(); err == nil {
		total = size
	}
	rc, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	r := &countingReader{ReadCloser: rc, total: total, progress: progress}
	if s, ok := rc.(io.Seeker); ok {
		return &seekableReader{countingReader: r, seeker: s}, nil
	}
	return r, nil
}

// seekableReader can be read from anywhere.
type seekableReader struct {
	*countingReader
	seeker io.Seeker
}

func (r *seekableReader) Seek(offset int64, whence int) (int64, error) {
	n, err := r.seeker.Seek(offset, whence)
	r.done = n
	return n, err
}

type countingReader struct {
	io.ReadCloser
	done, total int64
	progress    func(done, total int64)
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if n > 0 {
		r.done += int64(n)
		r.progress(r.done, r.total)
	}
	return n, err
}

// Uploaded returns a layer that was uploaded, as the first destination has it:
// it can be read as often as needed and mounted in other repositories of the
// registry. It reads while ctx lives.
func (p *Push) Uploaded(ctx context.Context, l v1.Layer) (v1.Layer, error) {
	return p.copyOf(ctx, innermost(l))
}

// copyOf is l as the first destination has it.
func (p *Push) copyOf(ctx context.Context, l v1.Layer) (v1.Layer, error) {
	digest, err := l.Digest()
	if err != nil {
		return nil, err
	}
	ref := p.targets[0].repo.Digest(digest.String())
	there, err := p.c.destPuller.Layer(ctx, ref)
	if err != nil {
		return nil, err
	}
	if m, ok := there.(*remote.MountableLayer); ok {
		there = m.Layer
	}
	readable, err := partial.CompressedToLayer(&uploaded{Layer: l, there: there})
	if err != nil {
		return nil, err
	}
	return &remote.MountableLayer{Layer: readable, Reference: ref}, nil
}

// uploaded is a layer that knows everything of itself but whose bytes are read
// from a registry.
type uploaded struct {
	v1.Layer
	there v1.Layer
}

func (u *uploaded) Compressed() (io.ReadCloser, error) { return u.there.Compressed() }

// Exists says whether the registry has the layer.
func (u *uploaded) Exists() (bool, error) { return partial.Exists(u.there) }

func (u *uploaded) MediaType() (types.MediaType, error) { return u.Layer.MediaType() }
