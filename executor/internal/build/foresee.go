package build

import (
	"context"

	"github.com/kilnhook/kiln/executor/internal/cache"
	"github.com/kilnhook/kiln/executor/internal/progress"
)

// foreseen is what is known of an operation before anything is done.
type foreseen struct {
	key, layerKey cache.Key
	inputs        *progress.Inputs
	entry         cache.Entry // that the cache has, if it may have one
}

// foresee computes every key that does not depend on the result of a step, and
// asks the cache for all of them at once.
func (b *builder) foresee(ctx context.Context) error {
	if b.Cache == nil {
		return nil
	}
	var keys []cache.Key
	known := map[cache.Key]bool{}
	for _, s := range b.stages {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		s.foreseeKeys()
		for n, f := range s.ahead {
			if s.caches(s.operations[n]) && !known[f.layerKey] {
				known[f.layerKey] = true
				keys = append(keys, f.layerKey)
			}
		}
	}
	if len(keys) == 0 {
		return nil
	}
	entries := b.Cache.Probe(ctx, keys)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	for _, s := range b.stages {
		for n := range s.ahead {
			if s.caches(s.operations[n]) {
				s.ahead[n].entry = entries[s.ahead[n].layerKey]
			}
		}
	}
	return nil
}

// foreseeKeys goes as far as keys are known: up to a step whose result counts,
// one that reads from a stage which has such a step, or one that is wrong, which
// is said when it is its turn.
func (s *stage) foreseeKeys() {
	if s.parent != nil {
		if !s.parent.foreseen {
			return
		}
		s.key = s.parent.key
	}
	for _, op := range s.operations {
		if unforeseen(op) {
			return
		}
		for _, r := range readsOf(op) {
			if !s.stages[r.stage].foreseen {
				return
			}
		}
		if s.advance(op) != nil {
			return
		}
		s.ahead = append(s.ahead, foreseen{key: s.key, layerKey: s.layerKey, inputs: s.inputs})
	}
	s.foreseen = true
}

// foreseenHit tells whether the cache is known to have the n-th operation.
func (s *stage) foreseenHit(n int) bool { return n < len(s.ahead) && s.ahead[n].entry.Hit() }
