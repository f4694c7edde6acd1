package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// Outlines makes roots for stages in which no process runs: of what stands there
// already only names and metadata are known, from the indexes of layers, so that
// no image is extracted and none need be downloaded whose indexes are at hand.
// What steps put there is kept whole. It is safe for concurrent use.
type Outlines struct {
	dir   string
	index Indexes
	now   func() time.Time

	mu     sync.Mutex
	spools []*rootfs.Spool
}

// Indexes has the indexes of layers, as layer.WriteIndex writes them.
type Indexes interface {
	// Index returns that of a layer; with anew, one that is made of the layer
	// itself, whatever is known.
	Index(ctx context.Context, l v1.Layer, anew bool) (io.ReadCloser, error)
	// Known returns that of a layer; nil if nobody has it yet.
	Known(ctx context.Context, l v1.Layer) (io.ReadCloser, error)
	// Record calls extract for a layer with where to write its index, or nil if
	// nobody wants that.
	Record(ctx context.Context, l v1.Layer, extract func(index io.Writer) error) error
}

// maxIndexes is how many indexes are fetched or made at once.
const maxIndexes = 4

// NewOutlines returns an Outlines that keeps what steps write below dir.
func NewOutlines(dir string, index Indexes, now func() time.Time) *Outlines {
	return &Outlines{dir: dir, index: index, now: now}
}

// Close gives up what was kept. The roots are of no use any more.
func (o *Outlines) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, s := range o.spools {
		errs = append(errs, s.Close())
	}
	o.spools = nil
	return errors.Join(errs...)
}

// Begin makes the root of a stage. Its parent, if it has one, must be an outline
// too.
func (o *Outlines) Begin(ctx context.Context, g Ground) (Root, error) {
	if parent, ok := g.Parent.(*outline); ok {
		r := &outline{o: o, tree: parent.tree.Clone(), spool: parent.spool}
		r.record = snapshot.NewRecorder(r.tree)
		return r, nil
	}
	r, err := o.empty()
	if err != nil {
		return nil, err
	}
	return r, r.image(ctx, g.Image.Layers)
}

// empty returns a root with nothing in it.
func (o *Outlines) empty() (*outline, error) {
	spool, err := rootfs.NewSpool(o.dir)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.spools = append(o.spools, spool)
	o.mu.Unlock()
	r := &outline{o: o, tree: rootfs.NewTree(spool.Keep, o.now), spool: spool}
	r.record = snapshot.NewRecorder(r.tree)
	return r, nil
}

// Image returns an image to copy from, of which only what the paths lead to is kept
// and the rest is read when it is asked for. A layer whose index is known is read if
// it holds some of that, any other once.
func (o *Outlines) Image(ctx context.Context, img Image, paths []string) (rootfs.FS, error) {
	r, err := o.empty()
	if err != nil {
		return nil, err
	}
	known := make([]io.ReadCloser, len(img.Layers))
	defer closeIndexes(known)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(maxIndexes)
	for i, l := range img.Layers {
		group.Go(func() (err error) {
			known[i], err = o.index.Known(gctx, l)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := r.some(ctx, img, known, layer.Below(paths)); err != nil {
		return nil, err
	}
	return r.Keep(ctx, paths)
}

// some applies the layers of an image by the indexes that are known, and otherwise
// by what they hold, of which what is wanted is kept.
func (r *outline) some(ctx context.Context, img Image, known []io.ReadCloser, want func(name string) bool) error {
	var unknown []v1.Layer
	for i, l := range img.Layers {
		if known[i] == nil {
			unknown = append(unknown, l)
		}
	}
	ahead, stop := layer.FetchAhead(ctx, r.o.dir, unknown, img.Meter)
	defer stop()
	for i, l := range img.Layers {
		var err error
		if known[i] != nil {
			err = r.apply(ctx, l, known[i], i == 0)
		} else {
			read := ahead[0]
			ahead = ahead[1:]
			err = r.o.index.Record(ctx, l, func(index io.Writer) error {
				return layer.ApplySome(ctx, r.tree, read, l, r.spool, want, layer.ApplyOptions{First: i == 0, Index: index})
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func closeIndexes(indexes []io.ReadCloser) {
	for _, x := range indexes {
		if x != nil {
			_ = x.Close()
		}
	}
}

// outline is a root of which only names and metadata are known.
type outline struct {
	o      *Outlines
	tree   *rootfs.Tree
	spool  *rootfs.Spool
	record *snapshot.Recorder
}

// image applies the layers of an image in their order, with their indexes at hand
// or made at the same time.
func (r *outline) image(ctx context.Context, layers []v1.Layer) error {
	indexes := make([]io.ReadCloser, len(layers))
	defer closeIndexes(indexes)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(maxIndexes)
	for i, l := range layers {
		group.Go(func() (err error) {
			indexes[i], err = r.o.index.Index(gctx, l, false)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, l := range layers {
		if err := r.apply(ctx, l, indexes[i], i == 0); err != nil {
			return err
		}
	}
	return nil
}

// apply applies a layer by its index, or by a new one if that is of no use.
func (r *outline) apply(ctx context.Context, l v1.Layer, index io.Reader, first bool) error {
	err := layer.ApplyIndex(ctx, r.tree, index, l, r.spool, layer.ApplyOptions{First: first})
	if !errors.Is(err, layer.ErrIndex) {
		return err
	}
	again, err := r.o.index.Index(ctx, l, true)
	if err != nil {
		return err
	}
	err = layer.ApplyIndex(ctx, r.tree, again, l, r.spool, layer.ApplyOptions{})
	return errors.Join(err, again.Close())
}

// FS implements Root.
func (r *outline) FS() rootfs.FS { return r.record }

// put is Apply by the layer's index.
func (r *outline) put(ctx context.Context, l v1.Layer) error {
	index, err := r.o.index.Index(ctx, l, false)
	if err != nil {
		return err
	}
	err = r.apply(ctx, l, index, false)
	r.record = snapshot.NewRecorder(r.tree)
	return errors.Join(err, index.Close())
}

// errOutline is a mistake of the caller.
var errOutline = errors.New("the files of this stage are not on disk")

// Run implements Root: there is nothing that could be run.
func (r *outline) Run(context.Context, sandbox.Process, ...Mount) error { return errOutline }

// Commit implements Root.
func (r *outline) Commit(context.Context) (Commit, error) {
	changes, err := r.record.Changes()
	if err != nil {
		return Commit{}, err
	}
	shown, err := freeze(r.tree, r.record.Touched())
	r.record = snapshot.NewRecorder(r.tree)
	if err != nil {
		return Commit{}, err
	}
	return Commit{Changes: changes, FS: shown, Stable: true, Release: func() {}}, nil
}

// Keep implements Root. What stages are built on it have trees of their own. What
// the paths lead to is fetched, with one reading of a layer for all of it.
func (r *outline) Keep(ctx context.Context, paths []string) (rootfs.FS, error) {
	var contents []rootfs.Content
	for _, p := range paths {
		at, err := rootfs.Resolve(r.tree, layer.Literal(p))
		if err != nil {
			continue // the step that copies says so
		}
		err = rootfs.Walk(r.tree, at, func(e rootfs.Entry) error {
			if !e.Mode.IsRegular() {
				return ctx.Err()
			}
			c, err := r.tree.Content(e.Name)
			contents = append(contents, c)
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return nil, err
		}
	}
	return r.tree, layer.Fetch(ctx, contents)
}

// Close implements Root.
func (r *outline) Close() error { return nil }

// frozen is the part of a tree that a layer is made of, as it was.
type frozen struct {
	entries  map[string]rootfs.Entry
	contents map[string]rootfs.Content
}

// freeze takes down what is at names, and the directories above.
func freeze(tree *rootfs.Tree, names []string) (*frozen, error) {
	f := &frozen{entries: map[string]rootfs.Entry{}, contents: map[string]rootfs.Content{}}
	for _, name := range names {
		for ; !f.has(name); name = rootfs.Parent(name) {
			e, err := tree.Lstat(name)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
				continue // it was removed
			}
			if err == nil && e.Mode.IsRegular() {
				f.contents[name], err = tree.Content(name)
			}
			if err != nil {
				return nil, fmt.Errorf("take down /%s: %w", name, err)
			}
			f.entries[name] = e
		}
	}
	return f, nil
}

func (f *frozen) has(name string) bool {
	_, ok := f.entries[name]
	return ok
}

// errFrozen is a mistake of the caller.
var errFrozen = errors.New("it cannot be changed any more")

func (f *frozen) Lstat(name string) (rootfs.Entry, error) {
	e, ok := f.entries[name]
	if !ok {
		return e, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

func (f *frozen) Open(name string) (io.ReadCloser, error) {
	c := f.contents[name]
	if c == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return c.Open()
}

// List lists what is known.
func (f *frozen) List(name string) ([]string, error) {
	return nil, &fs.PathError{Op: "list", Path: name, Err: errors.ErrUnsupported}
}

func (f *frozen) Put(e rootfs.Entry, _ io.Reader) error {
	return &fs.PathError{Op: "put", Path: e.Name, Err: errFrozen}
}

func (f *frozen) Remove(name string) error {
	return &fs.PathError{Op: "remove", Path: name, Err: errFrozen}
}
