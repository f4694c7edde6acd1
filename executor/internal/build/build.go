// Package build carries out a plan: stage by stage and step by step it asks
// the cache, does what the cache does not have, takes the changes as a layer
// and hands it on while the next step runs.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/executor/internal/cache"
	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/image"
	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/step"
	"github.com/kilnhook/kiln/executor/internal/workspace"
)

// Workspace makes the root filesystems that stages are built in.
type Workspace interface {
	Begin(ctx context.Context, g workspace.Ground) (workspace.Root, error)
	Image(ctx context.Context, img workspace.Image) (rootfs.FS, error)
}

// Outlines make the roots of stages of which only names and metadata are
// needed, since nothing runs there, and images of which only some files are copied.
type Outlines interface {
	Begin(ctx context.Context, g workspace.Ground) (workspace.Root, error)
	Image(ctx context.Context, img workspace.Image, paths []string) (rootfs.FS, error)
}

// Cache remembers layers. It may forget.
type Cache interface {
	Get(ctx context.Context, k cache.Key) (e cache.Entry, reason string, err error)
	Probe(ctx context.Context, keys []cache.Key) (found map[cache.Key]cache.Entry, check func(there func(k cache.Key, l v1.Layer) bool) (verified func() map[cache.Key]cache.Entry))
	Put(ctx context.Context, k cache.Key, l v1.Layer, meta cache.Meta) error
}

// Options are what a build needs besides its plan.
type Options struct {
	Workspace Workspace
	Outlines  Outlines // nil: every root is one of Workspace
	Mounts    Mounts
	// Parallel is how many stages are built at once; 0: one after another.
	Parallel int
	Context  rootfs.FS          // the build context; nil if there is none
	Ignore   *dockerfile.Ignore // what of it cannot be copied
	Contexts map[string]Files   // those that the plan names
	// Image returns an image that the plan names.
	Image func(ctx context.Context, digest v1.Hash) (v1.Image, error)
	// Share, if set, returns an image that is both uploaded and read as one whose
	// layers are fetched once.
	Share func(img v1.Image) (v1.Image, error)
	// Spool is the directory for layers that are being made.
	Spool string
	// Upload, if set, is given every layer of the result as soon as there is
	// one, also while it is still being written. It is called concurrently,
	// and for some layers more than once. told is to be told how many bytes
	// were sent, and how many there are, 0 if that is not known yet.
	Upload func(ctx context.Context, l v1.Layer, told func(done, total int64)) error
	// Offer, if set, is given layers of the result that are probably there already,
	// or can be mounted: it does what costs little and tells whether that is enough.
	Offer func(ctx context.Context, l v1.Layer) (there bool)
	// Allowed, if set, waits until it is known whether the result may be uploaded.
	// It is called before anything is done that costs more than questions to the
	// cache; an error ends the build.
	Allowed func() error
	Cache   Cache // nil: nothing is cached
	// CacheCopies says that COPY and ADD are cached as well as RUN.
	CacheCopies, NoCacheRuns bool
	// Fetch gets what an ADD of a URL names.
	Fetch func(ctx context.Context, url string) (io.ReadCloser, step.URLInfo, error)
	// Repo gets the repository that an ADD names.
	Repo     func(ctx context.Context, repo plan.Repo) (step.Repo, error)
	Progress progress.Sink
	Now      func() time.Time
	// Epoch, if not zero, is the time of everything in the image that would
	// otherwise be the time of the build, and the latest mtime of a file.
	Epoch       time.Time
	Annotations map[string]string
	Compression layer.Compression // of new layers
	// DockerTypes gives the image Docker's media types instead of OCI's.
	DockerTypes bool
	// Exclude tells what is in no layer, whoever writes it; nil: nothing.
	Exclude func(name string) bool
	// ExcludeName is the same whenever Exclude tells the same.
	ExcludeName string
	// SingleLayer makes one layer of all the steps of the last stage.
	SingleLayer bool
	// Materialize leaves the workspace with the root of the last stage, also if
	// the cache had everything.
	Materialize bool
}

// Files are a context: files to copy, without owners.
type Files struct {
	FS     rootfs.FS
	Ignore *dockerfile.Ignore // what of FS cannot be copied; may be nil
}

// Result is a finished build.
type Result struct {
	Image  v1.Image
	Layers []Layer // that the build added, bottom first
	Hits   int     // steps that the cache had
	Misses int     // steps that it was asked for in vain
}

// Layer is a layer that a build added.
type Layer struct {
	CreatedBy string
	Layer     v1.Layer
}

// RunError is the error of a RUN whose process failed, with the last lines it
// printed.
type RunError struct {
	Err  error
	Tail []string
}

func (e *RunError) Error() string { return e.Err.Error() }

// Unwrap returns the error of the process.
func (e *RunError) Unwrap() error { return e.Err }

// Build carries out p and returns the image of its last stage. An error from a
// step is a *dockerfile.Error that says where the step is written.
func Build(ctx context.Context, p *plan.Plan, opt Options) (Result, error) {
	if len(p.Stages) == 0 {
		return Result{}, errors.New("the plan has no stages")
	}
	group, gctx := errgroup.WithContext(ctx)
	b := &builder{
		Options: opt, plan: p, work: group, writing: make(chan struct{}, maxWriting),
		images: map[v1.Hash]*view{}, copies: map[string]string{}, made: map[cache.Key]v1.Layer{},
	}
	bctx, stop := context.WithCancelCause(gctx)
	b.base = sync.OnceValues(func() (v1.Image, error) { return b.resultBase(bctx) })
	defer stop(nil)
	res, err := b.make(bctx, stop)
	// What runs in the background is waited for in any case, and its error
	// is the first cause if it came first.
	if werr := group.Wait(); werr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = werr
	}
	b.close()
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	if err != nil || res.Image != nil {
		return res, err
	}
	return b.result()
}

// make builds the stages. The result is there already if no layer is still being
// written; its config is on its way then.
func (b *builder) make(ctx context.Context, stop context.CancelCauseFunc) (Result, error) {
	verify, err := b.foresee(ctx)
	if err != nil {
		return Result{}, err
	}
	if !b.foreseen() {
		if err := b.allowed(); err != nil {
			return Result{}, err
		}
		verify()
	}
	if err := b.run(ctx, stop); err != nil {
		return Result{}, err
	}
	res, rerr := b.result()
	if rerr == nil && b.Upload != nil {
		config, err := partial.ConfigLayer(res.Image)
		if err != nil {
			return Result{}, fmt.Errorf("read config of the image: %w", err)
		}
		b.work.Go(func() error { return b.Upload(ctx, config, func(int64, int64) {}) })
	}
	if !verify() {
		if err := b.allowed(); err != nil {
			return Result{}, err
		}
		// The cache has less than it said: what was done so far was to find that out.
		b.unheld, b.hits, b.misses = nil, 0, 0
		for i, s := range b.stages {
			b.stages[i] = b.newStage(i)
			b.stages[i].ahead, b.stages[i].foreseen = s.ahead, s.foreseen
		}
		return Result{}, b.run(ctx, stop)
	}
	for _, upload := range b.unheld {
		upload()
	}
	if rerr != nil {
		res = Result{}
	}
	return res, nil
}

// allowed is Allowed, or nil if that is not set.
func (b *builder) allowed() error {
	if b.Allowed == nil {
		return nil
	}
	return b.Allowed()
}

// maxWriting is how many layers are written at once.
const maxWriting = 2

type builder struct {
	Options
	plan    *plan.Plan
	stages  []*stage
	unsure  bool     // it is not known yet whether the cache has what it says
	unheld  []func() // uploads of that, for when it is known
	work    *errgroup.Group
	writing chan struct{}

	base func() (v1.Image, error) // that the result stands on

	mu     sync.Mutex
	images map[v1.Hash]*view
	copies map[string]string // paths of what was copied to be mounted
	made   map[cache.Key]v1.Layer
	hits   int
	misses int

	copying sync.Mutex // while something is copied to be mounted
}

func (b *builder) stageName(i int) string {
	if n := b.plan.Stages[i].Name; n != "" {
		return n
	}
	return fmt.Sprintf("stage-%d", b.plan.Stages[i].Index)
}

func (b *builder) close() {
	for _, s := range b.stages {
		if s.root != nil {
			_ = s.root.Close()
		}
	}
}

// result assembles the image of the last stage.
func (b *builder) result() (Result, error) {
	last := b.stages[len(b.stages)-1]
	created := b.Now()
	if !b.Epoch.IsZero() {
		created = b.Epoch
	}
	end := b.plan.Final().End()
	in := image.Input{
		Base: last.image, Platform: b.plan.Platform, Config: end.Config, Created: created,
		Author: end.Author, Annotations: b.Annotations, DockerTypes: b.DockerTypes, StartInterval: end.StartInterval,
	}
	res := Result{Hits: b.hits, Misses: b.misses}
	for _, d := range last.done {
		h := d.history
		h.EmptyLayer = d.layer == nil
		in.History = append(in.History, h)
		if d.layer != nil {
			in.Layers = append(in.Layers, d.layer)
			res.Layers = append(res.Layers, Layer{CreatedBy: h.CreatedBy, Layer: d.layer})
		}
	}
	img, err := image.Assemble(in)
	res.Image = img
	return res, err
}
