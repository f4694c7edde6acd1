package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// NewRepository returns the cache in a repository of a registry, one tag an
// entry. The options say how to reach the registry.
func NewRepository(repo name.Repository, reach []remote.Option, opt Options) (*Cache, error) {
	puller, err := remote.NewPuller(reach...)
	if err != nil {
		return nil, fmt.Errorf("prepare cache repository %s: %w", repo, err)
	}
	pusher, err := remote.NewPusher(reach...)
	if err != nil {
		return nil, fmt.Errorf("prepare cache repository %s: %w", repo, err)
	}
	return newCache(&repository{repo: repo, puller: puller, pusher: pusher}, opt), nil
}

type repository struct {
	repo   name.Repository
	puller *remote.Puller
	pusher *remote.Pusher
}

var _ store = (*repository)(nil)

func (r *repository) manifest(ctx context.Context, k Key) ([]byte, error) {
	desc, err := r.puller.Get(ctx, r.repo.Tag(k.String()))
	switch statusOf(err) {
	case http.StatusNotFound:
		return nil, errNone
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, &badEntryError{why: fmt.Sprintf("the registry does not let us read %s: %v", r.repo, err), kind: kindRefused}
	}
	if err != nil {
		return nil, fmt.Errorf("read cache repository %s: %w", r.repo, err)
	}
	return desc.Manifest, nil
}

// current tells whether an entry is, as far as the registry says, the one with a digest.
// It asks by a request that registries do not count. One that fails says nothing:
// who needs the layer looks for it in any case.
func (r *repository) current(ctx context.Context, k Key, digest v1.Hash) bool {
	desc, err := r.puller.Head(ctx, r.repo.Tag(k.String()))
	if err != nil {
		return statusOf(err) != http.StatusNotFound
	}
	return desc.Digest == digest
}

func statusOf(err error) int {
	var status *transport.Error
	if errors.As(err, &status) {
		return status.StatusCode
	}
	return 0
}

// layer returns a layer that can be mounted in other repositories of the registry,
// so that a hit need not move it.
func (r *repository) layer(ctx context.Context, _ Key, desc v1.Descriptor, diffID v1.Hash) (v1.Layer, func() error, error) {
	ref := r.repo.Digest(desc.Digest.String())
	there, err := r.puller.Layer(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	exists := func() (bool, error) { return partial.Exists(there) }
	check := func() error {
		ok, err := exists()
		if err == nil && !ok || statusOf(err) == http.StatusNotFound {
			return fs.ErrNotExist
		}
		if err != nil {
			return fmt.Errorf("look for layer in cache repository %s: %w", r.repo, err)
		}
		return nil
	}
	return &remote.MountableLayer{
		Layer:     &layer{desc: desc, diffID: diffID, exists: exists, open: func() (io.ReadCloser, error) { return there.Compressed() }},
		Reference: ref,
	}, check, nil
}

func (r *repository) blob(ctx context.Context, _ Key, desc v1.Descriptor) (io.ReadCloser, error) {
	l, err := r.puller.Layer(ctx, r.repo.Digest(desc.Digest.String()))
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}

func (r *repository) put(ctx context.Context, k Key, img v1.Image) error {
	return r.pusher.Push(ctx, r.repo.Tag(k.String()), img)
}

func (r *repository) replace(ctx context.Context, k Key, img v1.Image) error {
	if r.pusher.Put(ctx, r.repo.Tag(k.String()), img) == nil || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.put(ctx, k, img)
}
