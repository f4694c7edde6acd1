package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/access"
	"github.com/kilnhook/kiln/executor/internal/basecache"
	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/image"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/registry"
	"github.com/kilnhook/kiln/executor/internal/source"
)

// warmer fetches images into a directory.
type warmer struct {
	c        *config
	p        access.Process
	log      *slog.Logger
	client   *registry.Client
	dir      *basecache.Dir
	platform v1.Platform

	mu     sync.Mutex
	warmed int                     // images that are there
	failed int                     // images that are not
	alone  map[v1.Hash]*sync.Mutex // for images that are being stored
}

// newWarmer returns a warmer, which can log also if there is an error.
func newWarmer(c *config, p access.Process) (*warmer, error) {
	w := &warmer{c: c, p: p, log: p.Log, dir: basecache.Open(c.cacheDir, c.cacheTTL, p.Now), alone: map[v1.Hash]*sync.Mutex{}}
	if !c.force {
		w.p.Local = w.dir
	}
	platform := c.platform
	if platform == "" {
		platform = "linux/" + runtime.GOARCH
	}
	var err error
	if w.platform, err = plan.ParsePlatform(platform); err != nil {
		return w, err
	}
	keys, err := c.registry.Keychain(w.p)
	if err != nil {
		return w, err
	}
	w.client, err = c.registry.Client(w.p, keys)
	return w, err
}

// warm fetches everything that the flags name. It fails if nothing of it is
// there in the end.
func (w *warmer) warm(ctx context.Context) error {
	for _, ref := range w.c.images {
		_, _ = w.image(ctx, ref, w.platform)
	}
	if w.c.dockerfile != "" {
		if err := w.file(ctx); err != nil {
			w.log.Warn("not all images of the Dockerfile are known", "dockerfile", source.Redact(w.c.dockerfile), "err", err)
			w.failed++
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if w.warmed == 0 && w.failed > 0 {
		return errors.New("failed to warm any of the given images")
	}
	w.log.Info("warmed", "images", w.warmed, "failed", w.failed, "directory", w.c.cacheDir)
	return nil
}

// file fetches the images of all stages of the Dockerfile, and those that they
// copy or mount from.
func (w *warmer) file(ctx context.Context) error {
	content, err := w.readDockerfile(ctx)
	if err != nil {
		return err
	}
	f, err := dockerfile.Parse(filepath.Base(w.c.dockerfile), content)
	if err != nil {
		return err
	}
	args := map[string]string{}
	for _, a := range w.c.buildArgs {
		k, v, ok := strings.Cut(a, "=")
		if k == "" {
			return fmt.Errorf("--build-arg %q: want name=value", a)
		}
		if !ok {
			v, _ = w.p.Lookup(k)
		}
		args[k] = v
	}
	opt := plan.Options{AllStages: true, Args: args, Base: func(ref string, p v1.Platform) (plan.Base, error) {
		return w.base(ctx, ref, p)
	}}
	if w.c.platform != "" {
		opt.Platform = w.platform
	}
	_, err = plan.New(f, opt)
	return err
}

func (w *warmer) readDockerfile(ctx context.Context) ([]byte, error) {
	if strings.HasPrefix(w.c.dockerfile, "http://") || strings.HasPrefix(w.c.dockerfile, "https://") {
		return source.GetSmall(ctx, w.c.dockerfile, dockerfile.MaxSize, w.p.UserAgent)
	}
	f, err := os.Open(w.c.dockerfile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, dockerfile.MaxSize+1))
	if err == nil && len(content) > dockerfile.MaxSize {
		err = fmt.Errorf("it is larger than %d KiB", dockerfile.MaxSize>>10)
	}
	return content, err
}

// base fetches an image of the Dockerfile and says of it what the plan must
// know to find the others.
func (w *warmer) base(ctx context.Context, ref string, p v1.Platform) (plan.Base, error) {
	b := plan.Base{Ref: ref}
	img, err := w.image(ctx, ref, p)
	if err != nil {
		return b, err
	}
	if b.Digest, err = img.Digest(); err != nil {
		return b, err
	}
	if b.Config, err = img.ConfigFile(); err != nil {
		return b, err
	}
	b.StartInterval, err = image.StartInterval(img)
	return b, err
}

// image makes sure that an image is in the directory, and tells how that went.
func (w *warmer) image(ctx context.Context, ref string, p v1.Platform) (v1.Image, error) {
	img, what, err := w.fetch(ctx, ref, p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed++
		w.log.Warn("image is not warmed", "image", ref, "err", err)
		return nil, err
	}
	w.warmed++
	digest, err := img.Digest()
	log := w.log.With("image", ref, "platform", p.String(), "digest", digest.String())
	switch what {
	case fetched:
		log.Info("fetched")
	case there:
		log.Info("already there")
	case renewed:
		log.Info("expired, verified and kept")
	case unreachable:
		log.Warn("no registry can be reached; the image is there as it was")
	}
	return img, err
}

// outcome is how it comes that an image is there.
type outcome int

const (
	fetched outcome = iota
	there
	renewed
	unreachable
)

// fetch gets an image, and says what it did.
func (w *warmer) fetch(ctx context.Context, ref string, p v1.Platform) (img v1.Image, what outcome, err error) {
	img, _, err = w.client.Image(ctx, ref, p)
	if registry.Unreachable(err) && !w.c.force {
		if old, _, ok := w.dir.Recall(ref, p); ok {
			if img, lerr := w.dir.Image(old); lerr == nil {
				return img, unreachable, nil
			}
		}
	}
	if err != nil {
		return nil, 0, err
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, 0, err
	}
	what, err = w.store(ctx, ref, img, digest)
	if err != nil {
		return nil, 0, err
	}
	return img, what, w.dir.Remember(ref, p, digest)
}

// store puts an image into the directory unless it is there.
func (w *warmer) store(ctx context.Context, ref string, img v1.Image, digest v1.Hash) (what outcome, err error) {
	w.mu.Lock()
	alone := w.alone[digest]
	again := alone != nil // under another name
	if !again {
		alone = &sync.Mutex{}
		w.alone[digest] = alone
	}
	w.mu.Unlock()
	alone.Lock()
	defer alone.Unlock()
	_, err = w.dir.Image(digest)
	switch {
	case w.c.force && !again:
	case err == nil:
		return there, nil
	case errors.Is(err, basecache.ErrExpired):
		verr := w.dir.Verify(digest)
		if verr == nil {
			return renewed, w.dir.Renew(digest)
		}
		w.log.Warn("what has expired is fetched anew", "image", ref, "err", verr)
	case !errors.Is(err, basecache.ErrNotCached):
		w.log.Warn("what is there cannot be used", "image", ref, "err", err)
	}
	if err := w.dir.Put(ctx, img, ref); err != nil {
		return 0, err
	}
	return fetched, nil
}
