package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/cache"
	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
	"github.com/kilnhook/kiln/executor/internal/workspace"
)

// stage is a stage being built. Its root is made only when a step needs one.
type stage struct {
	*builder
	index      int
	plan       plan.Stage
	operations []plan.Op
	use        use
	parent     *stage        // the stage it is built on
	image      v1.Image      // that the stage and its parents stand on; nil for scratch
	built      chan struct{} // closed when it is

	ahead    []foreseen // of the first operations
	foreseen bool       // ahead has them all

	grounding sync.Mutex // while the root is made, or one that stands on it
	root      workspace.Root
	outline   bool             // root is one of Outlines
	pending   []v1.Layer       // that the cache had and the root does not
	done      []done           // parents' steps included
	key       cache.Key        // of everything up to the last step
	layerKey  cache.Key        // of the last step's layer
	inputs    *progress.Inputs // of key
	view      rootfs.FS        // to copy from, once finished
	wrote     []string         // names in the layer of the last step, if it stands alone
	owed      bool             // steps were done whose changes are in no layer yet
	ops       int              // operations begun
}

// done is a step that was carried out.
type done struct {
	history v1.History
	op      bool     // it could have changed something
	layer   v1.Layer // nil if it could not, or the layer holds other steps too
}

// newStage returns the i-th stage of the plan, of which nothing is done.
func (b *builder) newStage(i int) *stage {
	p := b.plan.Stages[i]
	s := &stage{builder: b, index: i, plan: p, built: make(chan struct{})}
	for _, t := range p.Steps {
		if t.Op != nil {
			s.operations = append(s.operations, t.Op)
		}
	}
	if p.Base.Stage != nil {
		s.parent = b.stages[*p.Base.Stage]
		return s
	}
	s.key = cache.NewKey([]byte("stage"), []byte(p.Base.Digest.String()), []byte(p.Platform.String()), s.layerForm())
	return s
}

// begin takes over what the stage stands on.
func (s *stage) begin(ctx context.Context) error {
	if s.parent != nil {
		s.image = s.parent.image
		if len(s.ahead) == 0 {
			s.key = s.parent.key
		}
		s.done = append(s.done, s.parent.done...)
		return nil
	}
	if s.plan.Base.Digest == (v1.Hash{}) {
		return nil
	}
	var err error
	if s.plan.Base.Digest == s.bottom().Base.Digest {
		s.image, err = s.base()
	} else {
		s.image, err = s.Image(ctx, s.plan.Base.Digest)
	}
	if err != nil {
		return err
	}
	if !s.use.layers {
		return nil
	}
	return s.uploadBase(ctx)
}

// bottom is the stage at the bottom of the result.
func (b *builder) bottom() *plan.Stage {
	p := b.plan.Final()
	for p.Base.Stage != nil {
		p = &b.plan.Stages[*p.Base.Stage]
	}
	return p
}

// resultBase is the image that the result stands on.
func (b *builder) resultBase(ctx context.Context) (v1.Image, error) {
	img, err := b.Image(ctx, b.bottom().Base.Digest)
	if err != nil || b.Share == nil || b.Upload == nil {
		return img, err
	}
	return b.Share(img)
}

// uploadBase hands on the layers of the image that the result stands on.
func (s *stage) uploadBase(ctx context.Context) error {
	layers, err := s.image.Layers()
	if err != nil {
		return fmt.Errorf("read layers of %s: %w", s.plan.Base.Ref, err)
	}
	tell := s.from0()
	for _, l := range layers {
		s.tellLayer(tell, l, nil)
		s.upload(ctx, tell.meter(), l)
	}
	return nil
}

// upload hands a layer on in the background.
func (s *stage) upload(ctx context.Context, meter progress.Meter, l v1.Layer) {
	if s.Upload == nil || !s.use.layers {
		return
	}
	s.work.Go(func() error {
		var sent atomic.Int64
		end := meter.Begin(progress.PhasePush, layerName(l))
		err := s.Upload(ctx, l, func(done, total int64) {
			sent.Store(done)
			meter.Bytes(progress.PhasePush, "push layer", done, total)
		})
		end(sent.Load(), err)
		return err
	})
}

// step carries out one step.
func (s *stage) step(ctx context.Context, t plan.Step) error {
	d := done{history: v1.History{CreatedBy: t.CreatedBy, Comment: t.Comment}}
	if t.Op == nil {
		if t.CreatedBy != "" {
			d.history.Created = v1.Time{Time: s.created()}
			s.done = append(s.done, d)
		}
		return nil
	}
	d.op = true
	s.ops++
	tell := s.teller(s.ops, t.Text, t.Pos)
	hit, err := s.lookUp(ctx, tell, s.ops-1, &d)
	if err == nil && !hit {
		err = s.ground(ctx, s.ops-1)
	}
	tell.started(phaseOf(t.Op))
	if err == nil && !hit {
		err = s.carryOut(ctx, tell, t, &d)
	}
	d.history.Created = v1.Time{Time: s.created()}
	s.done = append(s.done, d)
	if err != nil && ctx.Err() != nil {
		tell.ended(false, errStopped)
	} else {
		tell.ended(hit, err)
	}
	return err
}

func (s *stage) created() time.Time {
	if !s.Epoch.IsZero() {
		return s.Epoch
	}
	return s.Now().UTC()
}

// carryOut does a step and takes its changes as a layer.
func (s *stage) carryOut(ctx context.Context, tell *teller, t plan.Step, d *done) error {
	if err := s.do(ctx, tell, t.Op); err != nil {
		return err
	}
	s.owed = true
	if !s.use.layers && !s.use.base && !s.caches(t.Op) && !s.awaited(t.Op) || s.SingleLayer && s.isTarget() {
		return nil
	}
	return s.commit(ctx, tell, t.Op, d)
}

func (s *stage) isTarget() bool { return s.index == len(s.builder.plan.Stages)-1 }

// ground makes the root for the operations from the n-th on, and applies to it
// what the cache had.
func (s *stage) ground(ctx context.Context, n int) error {
	s.grounding.Lock()
	defer s.grounding.Unlock()
	if s.root == nil {
		if err := s.makeRoot(ctx, n); err != nil {
			return err
		}
	}
	meter := s.from0().meter()
	for _, l := range s.pending {
		end := meter.Begin(progress.PhaseExtract, layerName(l))
		err := workspace.Apply(ctx, s.root, l)
		end(0, err)
		if err != nil {
			return err
		}
	}
	s.pending = nil
	return nil
}

// onDisk tells whether files are needed, and not only what there are: by a
// process of an operation from the n-th on, by one of a stage that is built on
// this one, or by a mount. What is copied is fetched by itself.
func (s *stage) onDisk(n int) bool {
	if s.use.shown || s.Materialize && s.isTarget() {
		return true
	}
	for i := n; i < len(s.operations); i++ {
		if _, run := s.operations[i].(plan.Run); run && !s.foreseenHit(i) {
			return true
		}
	}
	for _, other := range s.stages[s.index+1:] {
		if other.parent == s && other.use.needed() && other.onDisk(0) {
			return true
		}
	}
	return false
}

func (s *stage) makeRoot(ctx context.Context, n int) error {
	if s.parent != nil {
		if err := s.parent.ground(ctx, len(s.parent.operations)); err != nil {
			return err
		}
		// Others may stand on it too, and begin at the same time.
		s.parent.grounding.Lock()
		defer s.parent.grounding.Unlock()
	}
	g, err := s.standOn()
	if err != nil {
		return err
	}
	s.outline = s.Outlines != nil && (s.parent == nil || s.parent.outline) && !s.onDisk(n)
	tell := s.from0()
	g.Image.Meter = tell.meter()
	if s.outline {
		tell.started(progress.PhaseLoad)
		s.root, err = s.Outlines.Begin(ctx, g)
	} else {
		tell.started(progress.PhaseExtract)
		s.root, err = s.Workspace.Begin(ctx, g)
	}
	tell.ended(false, err)
	return err
}

// standOn says what the stage starts from.
func (s *stage) standOn() (workspace.Ground, error) {
	g := workspace.Ground{}
	if s.image != nil {
		img, err := imageOf(s.image)
		if err != nil {
			return g, err
		}
		g.Image = img
	}
	if s.parent == nil {
		return g, nil
	}
	g.Parent = s.parent.root
	for _, d := range s.parent.done {
		if d.layer != nil {
			g.Layers = append(g.Layers, d.layer)
		}
	}
	return g, nil
}

func imageOf(img v1.Image) (workspace.Image, error) {
	digest, err := img.Digest()
	if err != nil {
		return workspace.Image{}, fmt.Errorf("read base image: %w", err)
	}
	layers, err := img.Layers()
	if err != nil {
		return workspace.Image{}, fmt.Errorf("read layers of base image: %w", err)
	}
	return workspace.Image{Key: digest.Hex, Layers: layers}, nil
}

// commit turns what changed into a layer. A step that changed nothing has a
// layer that holds nothing, as BuildKit gives it.
func (s *stage) commit(ctx context.Context, tell *teller, op plan.Op, d *done) error {
	tell.phase(progress.PhaseSnapshot)
	end := tell.meter().Begin(progress.PhaseSnapshot, "")
	c, err := s.root.Commit(ctx)
	end(0, err)
	if err != nil {
		return err
	}
	s.owed = false
	if op != nil && stands(op) {
		c.Changes = alone(c.FS, s.wrote)
	}
	blob, err := layer.NewBlob(s.Spool, s.Compression)
	if err != nil {
		return err
	}
	d.layer = blob
	fill := func() error {
		defer c.Release()
		end := tell.meter().Begin(progress.PhaseLayer, "")
		err := blob.Fill(ctx, c.FS, s.included(c.Changes), layer.WriteOptions{Learn: c.Learn, Clamp: s.Epoch})
		end(blob.Written(), err)
		if err == nil {
			s.tellLayer(tell, blob, blob.Contents())
		}
		return err
	}
	s.noteMade(s.layerKey, op, blob)
	s.upload(ctx, tell.meter(), blob)
	if !c.Stable || s.Cache != nil && unforeseen(op) {
		tell.phase(progress.PhaseLayer)
		if err := fill(); err != nil {
			return err
		}
		return s.remember(ctx, op, blob)
	}
	key := s.layerKey
	s.work.Go(func() error {
		s.writing <- struct{}{}
		err := fill()
		// Given back before the cache is told: a registry may take one upload
		// at a time, and the one that it takes may wait for the next layer.
		<-s.writing
		if err != nil {
			return err
		}
		return s.store(ctx, key, op, blob)
	})
	return nil
}

// alone are the changes of a step whose layer depends on nothing that was there
// before: all that it wrote, also where that was there already, and nothing that
// had to go for it, since a layer's files take the place of what is in their way.
// What it wrote and then put something else in the place of is gone.
func alone(fsys rootfs.FS, wrote []string) []snapshot.Change {
	names := slices.Clone(wrote)
	slices.SortFunc(names, snapshot.ComparePaths)
	changes := make([]snapshot.Change, 0, len(names))
	for _, n := range slices.Compact(names) {
		if at, err := rootfs.ResolveParent(fsys, n); err != nil || at != n {
			continue
		}
		if _, err := fsys.Lstat(n); err == nil {
			changes = append(changes, snapshot.Change{Name: n})
		}
	}
	return changes
}

// included leaves out the changes that belong in no layer.
func (s *stage) included(changes []snapshot.Change) []snapshot.Change {
	if s.Exclude == nil {
		return changes
	}
	return slices.DeleteFunc(slices.Clone(changes), func(c snapshot.Change) bool { return s.Exclude(c.Name) })
}

// finish ends a stage: what later stages copy from it is kept.
func (s *stage) finish(ctx context.Context) error {
	if s.SingleLayer && s.isTarget() && s.owed {
		if err := s.squash(ctx); err != nil {
			return err
		}
	}
	if s.Materialize && s.isTarget() {
		if err := s.ground(ctx, len(s.operations)); err != nil {
			return err
		}
	}
	if len(s.use.copied) == 0 {
		return nil
	}
	if s.root == nil && len(s.pending) == 0 && s.parent == nil {
		if s.image == nil {
			s.view = rootfs.NewMem()
			return nil
		}
		var err error
		s.view, err = s.viewOf(ctx, s.image, s.use.copied, s.use.shown, s.from0().meter())
		return err
	}
	if err := s.ground(ctx, len(s.operations)); err != nil {
		return err
	}
	var err error
	s.view, err = s.root.Keep(ctx, s.use.copied)
	return err
}

// squash makes one layer of everything the stage did.
func (s *stage) squash(ctx context.Context) error {
	last := -1
	for i, d := range s.done {
		if d.op {
			last = i
		}
	}
	if last < 0 {
		return errors.New("the stage has no step to hold its layer")
	}
	tell := &teller{}
	return s.commit(ctx, tell, nil, &s.done[last])
}
