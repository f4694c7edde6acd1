package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/basecache"
	"github.com/kilnhook/kiln/executor/internal/image"
	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/registry"
)

func (s *session) newImages(client *registry.Client) *images {
	return &images{client: client, local: s.baseCache(), note: s.note, seen: s.noteBase, found: map[v1.Hash]v1.Image{}, hosts: map[v1.Hash]string{}}
}

// baseCache is the directory that the warmer fills; nil if it is not to be
// looked into.
func (s *session) baseCache() *basecache.Dir {
	if !s.c.cache || s.c.cacheDir == "" {
		return nil
	}
	return basecache.Open(s.c.cacheDir, s.c.cacheTTL, s.p.now)
}

// images are the images that the plan names, by digest.
type images struct {
	client *registry.Client
	local  *basecache.Dir // nil: there is none
	note   func(format string, args ...any)
	seen   func(ref string, img v1.Image)              // of every image from a registry
	told   func(ref string, digest v1.Hash, err error) // of every image; nil: nobody wants to know

	mu    sync.Mutex
	found map[v1.Hash]v1.Image
	hosts map[v1.Hash]string // the registries that images come from
}

func (i *images) base(ctx context.Context, ref string, p v1.Platform) (plan.Base, error) {
	b, err := i.find(ctx, ref, p)
	if i.told != nil {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.told(ref, b.Digest, err)
	}
	return b, err
}

func (i *images) find(ctx context.Context, ref string, p v1.Platform) (plan.Base, error) {
	var img v1.Image
	var err error
	if strings.HasPrefix(ref, layoutPrefix) {
		img, err = layoutImage(ref, p)
	} else {
		img, err = i.pull(ctx, ref, p)
	}
	if err != nil {
		return plan.Base{}, err
	}
	b := plan.Base{Ref: ref}
	if b.Digest, err = img.Digest(); err != nil {
		return b, fmt.Errorf("read %s: %w", ref, err)
	}
	if b.Config, err = img.ConfigFile(); err != nil {
		return b, fmt.Errorf("read config of %s: %w", ref, err)
	}
	if b.StartInterval, err = image.StartInterval(img); err != nil {
		return b, fmt.Errorf("read config of %s: %w", ref, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.found[b.Digest] = img
	return b, nil
}

func (i *images) byDigest(_ context.Context, digest v1.Hash) (v1.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if img, ok := i.found[digest]; ok {
		return img, nil
	}
	return nil, fmt.Errorf("image %s was not looked up", digest)
}

// pull finds an image. What is in the local cache under a digest that the
// reference has needs no registry, and neither does a name that the warmer has
// seen if there is none to be reached.
func (i *images) pull(ctx context.Context, ref string, p v1.Platform) (v1.Image, error) {
	if i.local == nil {
		return i.fromRegistry(ctx, ref, p)
	}
	if strings.Contains(ref, "@") {
		if img := i.pinned(ref, p); img != nil {
			return img, nil
		}
	}
	img, err := i.fromRegistry(ctx, ref, p)
	if err == nil || !registry.Unreachable(err) {
		return img, err
	}
	digest, seen, ok := i.local.Recall(ref, p)
	if !ok {
		return nil, err
	}
	img, lerr := i.local.Image(digest)
	if lerr != nil {
		return nil, fmt.Errorf("%w; and %w", err, lerr)
	}
	i.note("warning: the registry cannot be reached: %s is %s, as it was on %s (%v)", ref, digest, seen.Format("2006-01-02 15:04"), err)
	return img, nil
}

// fromRegistry finds an image in a registry.
func (i *images) fromRegistry(ctx context.Context, ref string, p v1.Platform) (v1.Image, error) {
	img, place, err := i.client.Image(ctx, ref, p)
	if err != nil {
		return nil, err
	}
	i.seen(ref, img)
	if digest, err := img.Digest(); err == nil {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.hosts[digest] = place.Context().RegistryStr()
	}
	return img, nil
}

// share returns an image whose layers are fetched once into dir, though they are
// read to be uploaded and for what is in them. One that comes from the registry
// that it goes to is not uploaded, and one that is here already is not fetched.
func (i *images) share(ctx context.Context, push *registry.Push, dir string) func(v1.Image) (v1.Image, error) {
	return func(img v1.Image) (v1.Image, error) {
		digest, err := img.Digest()
		if err != nil {
			return nil, err
		}
		i.mu.Lock()
		host := i.hosts[digest]
		i.mu.Unlock()
		if host == "" || i.isLocal(digest) || push.Only(host) {
			return img, nil
		}
		return layer.Share(ctx, img, dir, 2)
	}
}

// isLocal tells whether an image is in the local cache.
func (i *images) isLocal(digest v1.Hash) bool {
	if i.local == nil {
		return false
	}
	_, err := i.local.Image(digest)
	return err == nil
}

// pinned returns the image that a reference with a digest means if it is
// cached: the image itself, or that of an index for the platform.
func (i *images) pinned(ref string, p v1.Platform) v1.Image {
	if digest, _, ok := i.local.Recall(ref, p); ok {
		if img, err := i.local.Image(digest); err == nil {
			return img
		}
	}
	digest, err := v1.NewHash(ref[strings.LastIndexByte(ref, '@')+1:])
	if err != nil {
		return nil
	}
	img, err := i.local.Image(digest)
	if err != nil {
		return nil
	}
	return img
}
