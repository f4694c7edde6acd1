// Package baseimage makes the images that test builds start from, on machines
// that reach Debian's archive and no container registry.
package baseimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/infra/local/base"
	"github.com/kilnhook/kiln/infra/local/registry"
)

// recipe changes whenever an image in the cache no longer does.
const recipe = "4"

// Debian returns an image like debian:bookworm-slim, made of Debian's archive as
// the one-machine stack makes it. The first call takes about half a minute and
// keeps the image in the cache; progress goes to log, which may be nil.
func Debian(ctx context.Context, dir cache.Dir, log io.Writer) (v1.Image, error) {
	entry, err := dir.Get(ctx, "debian-bookworm-slim", cache.Key(recipe, runtime.GOARCH), func(ctx context.Context, dir string) error {
		return makeDebian(ctx, dir, log)
	})
	if err != nil {
		return nil, fmt.Errorf("make debian:bookworm-slim: %w", err)
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(entry, "image"))
	if err != nil {
		return nil, fmt.Errorf("open debian:bookworm-slim: %w", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("open debian:bookworm-slim: %w", err)
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// makeDebian writes an image layout to dir/image.
func makeDebian(ctx context.Context, dir string, log io.Writer) error {
	to := &layoutClient{dir: filepath.Join(dir, "image")}
	var last string
	images := base.New(base.Config{
		Registry: "localhost", Client: to, Dir: dir, Env: os.Environ(), Arch: runtime.GOARCH,
		Now: func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) },
	})
	_, err := images.Flags(ctx, func(text string) {
		if last = text; log != nil {
			fmt.Fprintln(log, text)
		}
	})
	if err == nil && !to.written {
		err = errors.New(last)
	}
	return err
}

// layoutClient stands in for a registry without images and writes what is
// pushed to an image layout.
type layoutClient struct {
	dir     string
	written bool
}

func (*layoutClient) Reachable(context.Context, string) bool { return false }

func (*layoutClient) Resolve(context.Context, string) (string, error) {
	return "", registry.ErrNotFound
}

func (c *layoutClient) Push(_ context.Context, _ string, img v1.Image) error {
	to, err := layout.Write(c.dir, empty.Index)
	if err != nil {
		return err
	}
	if err := to.AppendImage(img); err != nil {
		return err
	}
	c.written = true
	return nil
}

// Push writes an image to a registry that speaks HTTP and returns its digest.
// ref is "HOST/REPOSITORY:TAG".
func Push(ctx context.Context, img v1.Image, ref string) (v1.Hash, error) {
	to, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := remote.Write(to, img, remote.WithContext(ctx)); err != nil {
		return v1.Hash{}, fmt.Errorf("push %s: %w", ref, err)
	}
	return img.Digest()
}

// PushIndex writes all images of an index to a registry that speaks HTTP. ref is
// "HOST/REPOSITORY:TAG".
func PushIndex(ctx context.Context, index v1.ImageIndex, ref string) error {
	to, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(to, index, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}
