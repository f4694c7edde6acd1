package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// minResumes is how often a layer is taken up again at least.
const minResumes = 3

// pulled is an image from a registry whose layers survive broken connections.
type pulled struct {
	v1.Image
	ctx context.Context //nolint:containedctx // v1.Image has no context of its own
	c   *Client
}

func (p *pulled) Layers() ([]v1.Layer, error) {
	layers, err := p.Image.Layers()
	if err != nil {
		return nil, err
	}
	for i, l := range layers {
		if layers[i], err = p.resuming(l); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

func (p *pulled) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	l, err := p.Image.LayerByDigest(h)
	if err != nil {
		return nil, err
	}
	return p.resuming(l)
}

func (p *pulled) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	l, err := p.Image.LayerByDiffID(h)
	if err != nil {
		return nil, err
	}
	return p.resuming(l)
}

// resuming makes l resume. Where it can be mounted from stays known.
func (p *pulled) resuming(l v1.Layer) (v1.Layer, error) {
	r := &resumingLayer{ctx: p.ctx, c: p.c}
	m, mountable := l.(*remote.MountableLayer)
	if mountable {
		l, r.ref = m.Layer, m.Reference
	}
	r.Layer = l
	whole, err := partial.CompressedToLayer(r)
	if err != nil || !mountable {
		return whole, err
	}
	return &partedLayer{&remote.MountableLayer{Layer: whole, Reference: m.Reference}, r}, nil
}

// resumingLayer is a layer whose bytes are asked for again if they stop
// coming. partial makes a v1.Layer of it again, which decompresses what
// Compressed returns.
type resumingLayer struct {
	v1.Layer
	ctx context.Context //nolint:containedctx // v1.Layer has no context of its own
	c   *Client
	ref name.Reference // in the repository that has it; nil if that is not known
}

// Descriptor is what the manifest says of the layer.
func (l *resumingLayer) Descriptor() (*v1.Descriptor, error) { return partial.Descriptor(l.Layer) }

// Exists says whether the registry has the layer.
func (l *resumingLayer) Exists() (bool, error) { return partial.Exists(l.Layer) }

func (l *resumingLayer) MediaType() (types.MediaType, error) { return l.Layer.MediaType() }

// Compressed reads the layer; a large one in some parts at once if the registry
// gives parts.
func (l *resumingLayer) Compressed() (io.ReadCloser, error) {
	if rc, err := l.segmented(); rc != nil || err != nil {
		return rc, err
	}
	rc, err := l.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	return &resumingReader{l: l, rc: rc, left: max(l.c.opt.DownloadRetry, minResumes)}, nil
}

type resumingReader struct {
	l    *resumingLayer
	rc   io.ReadCloser
	done int64
	left int // resumptions
}

func (r *resumingReader) Read(p []byte) (int, error) {
	for {
		n, err := r.rc.Read(p)
		r.done += int64(n)
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if resumeErr := r.resume(err); resumeErr != nil {
			return n, resumeErr
		}
		if n > 0 {
			return n, nil
		}
	}
}

// resume opens the layer again at the same place after err.
func (r *resumingReader) resume(err error) error {
	for temporary(err) && r.left > 0 && r.l.ctx.Err() == nil {
		r.left--
		r.l.c.opt.Log.Warn("layer broke off and is resumed", "at", r.done, "err", err)
		if err := pause(r.l.ctx, r.l.c.opt.RetryWait); err != nil {
			return err
		}
		_ = r.rc.Close()
		var rc io.ReadCloser
		if rc, err = r.l.Layer.Compressed(); err != nil {
			continue
		}
		r.rc = rc
		// Read again what was read: its digest is verified at the end.
		if _, err = io.CopyN(io.Discard, rc, r.done); err == nil {
			return nil
		}
	}
	digest, _ := r.l.Digest()
	return fmt.Errorf("read layer %s: broke off after %d bytes: %w", digest, r.done, err)
}

func (r *resumingReader) Close() error { return r.rc.Close() }
