package build

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/cache"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/progress"
)

// store puts a step's layer into the cache. A cache that does not take it is
// worth a note and never fails a build.
func (s *stage) store(ctx context.Context, k cache.Key, op plan.Op, l v1.Layer) error {
	if !s.caches(op) {
		return nil
	}
	err := s.Cache.Put(ctx, k, l, cache.Meta{CreatedBy: op.String(), Platform: s.plan.Platform})
	if err != nil && ctx.Err() == nil {
		s.Progress.Send(progress.Event{Time: s.Now(), Kind: progress.KindNote, Text: "the step was not cached: " + err.Error()})
	}
	return nil
}
