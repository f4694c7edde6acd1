package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// partedLayer is a layer of which parts can be read, and that can be mounted.
type partedLayer struct {
	*remote.MountableLayer
	l *resumingLayer
}

// Unwrap returns the layer that knows where it can be mounted from.
func (p *partedLayer) Unwrap() v1.Layer { return p.MountableLayer }

// Range reads the bytes of the stored layer from one offset up to another, and goes on
// where a connection is lost. Nothing of them is verified. The error is that ranges are
// not given if the registry is known for that or says so now.
func (p *partedLayer) Range(ctx context.Context, from, to int64) (io.ReadCloser, error) {
	l := p.l
	repo := l.ref.Context()
	if _, ok := l.c.wholeOnly.Load(repo.RegistryStr()); ok {
		return nil, fmt.Errorf("read part of layer: %w", errNoRange)
	}
	digest, err := l.Digest()
	if err != nil {
		return nil, err
	}
	size, err := l.Size()
	if err != nil {
		return nil, err
	}
	client, err := l.c.reachBase(ctx, repo)
	if err != nil {
		return nil, err
	}
	r := &segments{l: l, client: client, size: size, digest: digest}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	s := &span{r: r, at: from, end: to, left: max(l.c.opt.DownloadRetry, minResumes)}
	if err := l.c.thrice(ctx, s.connect); err != nil {
		r.cancel(nil)
		if errors.Is(err, errNoRange) {
			l.c.wholeOnly.Store(repo.RegistryStr(), true)
		}
		return nil, fmt.Errorf("read part of layer %s: %w", digest, err)
	}
	return &part{s}, nil
}

// part is a span that ends what it began.
type part struct{ *span }

// Close implements io.Closer.
func (p *part) Close() error {
	err := p.span.Close()
	p.r.cancel(nil)
	return err
}
