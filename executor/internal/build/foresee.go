package build

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"

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
// asks the cache for all of them at once. What it says it has is known then, and
// what of the result need not be moved is put where it belongs meanwhile; whether
// it has it is known after verify, which is false if there are misses that looked
// like hits, or other entries.
func (b *builder) foresee(ctx context.Context) (verify func() bool, err error) {
	for i := range b.plan.Stages {
		b.stages = append(b.stages, b.newStage(i))
	}
	known := func() bool { return true }
	if b.Cache == nil {
		return known, nil
	}
	b.offerBase(ctx)
	var keys []cache.Key
	wanted := map[cache.Key]bool{} // by the result
	for _, s := range b.stages {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		s.foreseeKeys()
		for n, f := range s.ahead {
			if !s.caches(s.operations[n]) {
				continue
			}
			if _, ok := wanted[f.layerKey]; !ok {
				keys = append(keys, f.layerKey)
			}
			wanted[f.layerKey] = wanted[f.layerKey] || s.inResult()
		}
	}
	if len(keys) == 0 {
		return known, nil
	}
	found, check := b.Cache.Probe(ctx, keys)
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	b.unsure = true
	b.takeEntries(found)
	all := b.foreseen()
	verified := check(func(k cache.Key, l v1.Layer) bool {
		switch {
		case all && !wanted[k]: // nobody will read it
			return true
		case !wanted[k] || b.Offer == nil:
			return false
		case all: // where it is offered it is needed, and nowhere else
			return b.Offer(ctx, l)
		}
		b.offer(ctx, l)
		return false
	})
	return func() bool {
		if !b.unsure {
			return true
		}
		b.unsure = false
		return b.takeEntries(verified())
	}, nil
}

// takeEntries takes over what the cache has, and tells whether it is what was
// known before.
func (b *builder) takeEntries(entries map[cache.Key]cache.Entry) bool {
	same := true
	for _, s := range b.stages {
		for n := range s.ahead {
			if s.caches(s.operations[n]) {
				e := entries[s.ahead[n].layerKey]
				same = same && e.Same(s.ahead[n].entry)
				s.ahead[n].entry = e
			}
		}
	}
	return same
}

// offer offers a layer of the result in the background.
func (b *builder) offer(ctx context.Context, l v1.Layer) {
	if b.Offer == nil {
		return
	}
	b.work.Go(func() error {
		b.Offer(ctx, l)
		return nil
	})
}

// offerBase offers the layers of the image that the result stands on.
func (b *builder) offerBase(ctx context.Context) {
	if b.bottom().Base.Digest == (v1.Hash{}) {
		return
	}
	img, err := b.base()
	if err != nil {
		return // said when it is needed
	}
	layers, err := img.Layers()
	if err != nil {
		return
	}
	for _, l := range layers {
		b.offer(ctx, l)
	}
}

// inResult tells whether the stage's layers are part of the result.
func (s *stage) inResult() bool {
	for last := s.builder.stages[len(s.builder.stages)-1]; last != nil; last = last.parent {
		if last == s {
			return true
		}
	}
	return false
}

// foreseen tells whether the cache says that it has all of the result: then there
// is nothing to do but to find out whether that is so.
func (b *builder) foreseen() bool {
	if b.Materialize || b.SingleLayer {
		return false
	}
	for s := b.stages[len(b.stages)-1]; s != nil; s = s.parent {
		for n := range s.operations {
			if !s.foreseenHit(n) {
				return false
			}
		}
	}
	return true
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
