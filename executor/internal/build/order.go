package build

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/progress"
)

// use says what a stage is needed for.
type use struct {
	layers bool     // its layers are part of the result, or a later stage is built on it
	copied []string // paths that later stages copy or mount from it
	shown  bool     // a later stage mounts some of it
	base   bool     // a later stage is built on it
}

// needed tells whether anybody needs the stage.
func (u use) needed() bool { return u.layers || u.base || len(u.copied) > 0 }

// fillUses finds what each stage is needed for: a step that the cache has needs
// nothing of the stages that it would copy from, and a stage that nobody needs
// needs nothing itself.
func (b *builder) fillUses() {
	b.stages[len(b.stages)-1].use.layers = true
	for i := len(b.stages) - 1; i >= 0; i-- {
		s := b.stages[i]
		if !s.use.needed() {
			continue
		}
		if s.parent != nil {
			s.parent.use.layers = s.parent.use.layers || s.use.layers
			s.parent.use.base = true
		}
		for n, op := range s.operations {
			if s.foreseenHit(n) {
				continue
			}
			for _, r := range readsOf(op) {
				u := &b.stages[r.stage].use
				u.copied = append(u.copied, r.paths...)
				u.shown = u.shown || r.mount
			}
		}
	}
}

// stageRead is what an operation reads from a stage.
type stageRead struct {
	stage int
	paths []string
	mount bool
}

func readsOf(op plan.Op) []stageRead {
	var out []stageRead
	switch op := op.(type) {
	case plan.Copy:
		if op.From.Stage != nil {
			out = append(out, stageRead{stage: *op.From.Stage, paths: op.Reads()})
		}
	case plan.Run:
		for _, m := range op.Mounts {
			if m.From.Stage != nil {
				out = append(out, stageRead{stage: *m.From.Stage, paths: []string{m.Source}, mount: true})
			}
		}
	}
	return out
}

// run builds the stages that are needed, each once those are done that it needs.
// The first error stops the others, and what runs in the background.
func (b *builder) run(ctx context.Context, stop context.CancelCauseFunc) error {
	b.fillUses()
	var group errgroup.Group
	slots := make(chan struct{}, max(b.Parallel, 1))
	for _, s := range b.stages {
		if !s.use.needed() {
			continue
		}
		build := func() error {
			err := s.whenReady(ctx, slots)
			if err != nil {
				stop(err)
			}
			return err
		}
		if b.Parallel > 1 {
			group.Go(build)
		} else if err := build(); err != nil {
			return err
		}
	}
	return group.Wait()
}

// whenReady builds the stage once all that it needs is there and there is a
// slot for it.
func (s *stage) whenReady(ctx context.Context, slots chan struct{}) error {
	for _, other := range s.waitsFor() {
		select {
		case <-other.built:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-slots }()
	err := s.build(ctx)
	if err == nil {
		close(s.built)
	}
	return err
}

// waitsFor lists the stages that must be done before this one is begun.
func (s *stage) waitsFor() []*stage {
	var out []*stage
	if s.parent != nil {
		out = append(out, s.parent)
	}
	for n, op := range s.operations {
		if s.foreseenHit(n) {
			continue
		}
		for _, r := range readsOf(op) {
			out = append(out, s.stages[r.stage])
		}
	}
	return out
}

// build carries out the stage.
func (s *stage) build(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("stage %s: %w", s.stageName(s.index), err)
	}
	for _, t := range s.plan.Steps {
		if err := s.step(ctx, t); err != nil {
			return &dockerfile.Error{Pos: t.Pos, Text: t.Text, Err: err}
		}
	}
	if err := s.finish(ctx); err != nil {
		return fmt.Errorf("stage %s: %w", s.stageName(s.index), err)
	}
	return nil
}

// errStopped is what is told of a step that was stopped for another's sake.
var errStopped = errors.New(progress.Stopped)
