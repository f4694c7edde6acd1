package main

import (
	"context"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/kilnhook/kiln/executor/internal/cache"
	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/registry"
)

// openLayers opens the layer cache, and asks it for what the last build of this
// Dockerfile used.
func (s *session) openLayers(ctx context.Context, client *registry.Client, content []byte, file *dockerfile.File) error {
	layers, err := s.newCache(client)
	if err != nil {
		return err
	}
	s.layers = layers
	done := func() {}
	key := cache.RosterKey(content, []byte(s.c.target), []byte(s.c.platform), []byte(runtime.GOOS+"/"+runtime.GOARCH))
	if repo := s.cacheRepo(); !strings.HasPrefix(repo, "oci:") {
		done = client.Expect(ctx, repo, key.String(), requestsOf(file))
		s.mountsFrom(ctx, repo)
	}
	s.layers.Recall(ctx, key, done)
	return nil
}

// mountsFrom says that layers of an image, or those in a repository, may be mounted at
// the destination.
func (s *session) mountsFrom(ctx context.Context, ref string) {
	if s.push == nil {
		return
	}
	repo, _, _ := strings.Cut(ref, "@")
	repo, _ = splitDestination(repo)
	s.push.Prepare(ctx, repo)
}

// besides is how many requests go to a registry beside those for each step, at the
// same time: for the config and the layers of a base, and how to log in.
const besides = 8

// requestsOf is how many requests at a time a build sends to the registry that its
// cache is in: two for a step, to mount its layer and to ask whether the roster is right.
func requestsOf(file *dockerfile.File) int {
	steps := 0
	for _, st := range file.Stages {
		for _, c := range st.Commands {
			switch c.(type) {
			case *instructions.RunCommand, *instructions.CopyCommand, *instructions.AddCommand:
				steps++
			}
		}
	}
	return 2*min(steps, cache.MaxParallel) + besides
}

// document is what the last build found under a digest.
func (s *session) document(ctx context.Context, digest v1.Hash) []byte {
	if s.layers == nil {
		return nil
	}
	return s.layers.Document(ctx, digest)
}

// noteBase remembers of a base image what its name does not bring.
func (s *session) noteBase(ref string, img v1.Image) {
	if s.layers == nil {
		return
	}
	digest, err := img.Digest()
	if err != nil {
		return
	}
	// What a reference is pinned to is asked of the registry each time.
	if raw, err := img.RawManifest(); err == nil && !strings.HasSuffix(ref, digest.String()) {
		s.layers.Note(digest, raw)
	}
	if config, err := img.ConfigName(); err == nil {
		if raw, err := img.RawConfigFile(); err == nil {
			s.layers.Note(config, raw)
		}
	}
}

// keepRoster stores what this build used for the next one, in the background. wait
// waits until that is done.
func (s *session) keepRoster(ctx context.Context) (wait func()) {
	if s.layers == nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.layers.Keep(ctx); err != nil && ctx.Err() == nil {
			s.note("what the build used of the cache is not remembered: %v", err)
		}
	}()
	return func() { <-done }
}
