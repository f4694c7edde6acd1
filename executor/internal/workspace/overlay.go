package workspace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// Overlay makes roots as overlay mounts. An image is extracted once, into a
// directory that every stage on it shares. It is safe for concurrent use.
type Overlay struct {
	dir    string
	ns     sandbox.Namespace
	report Report

	mu     sync.Mutex
	images map[string]*sharedImage
	roots  []*overlayRoot
}

// Close unmounts everything. The roots, and what was kept of them, are of no
// use any more.
func (o *Overlay) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, r := range o.roots {
		errs = append(errs, r.unmount())
		for target := range r.mounted {
			errs = append(errs, sandbox.Unmount(target))
		}
	}
	o.roots = nil
	return errors.Join(errs...)
}

type sharedImage struct {
	once sync.Once
	path string
	err  error
}

// NewOverlay returns an Overlay that keeps everything below dir, which exists
// and is on a filesystem that can be the upper one of an overlay mount. This
// process must be inside ns.
func NewOverlay(dir string, ns sandbox.Namespace, report Report) (*Overlay, error) {
	for _, sub := range []string{"images", "stages"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("prepare work directory: %w", err)
		}
	}
	return &Overlay{dir: dir, ns: ns, report: report, images: map[string]*sharedImage{}}, nil
}

// Image extracts an image, once, and returns its tree to read from.
func (o *Overlay) Image(ctx context.Context, img Image) (rootfs.FS, error) {
	path, err := o.extract(ctx, img)
	if err != nil {
		return nil, err
	}
	return rootfs.OpenDir(path)
}

func (o *Overlay) extract(ctx context.Context, img Image) (string, error) {
	o.mu.Lock()
	s := o.images[img.Key]
	if s == nil {
		s = &sharedImage{path: filepath.Join(o.dir, "images", strconv.Itoa(len(o.images)))}
		o.images[img.Key] = s
	}
	o.mu.Unlock()
	s.once.Do(func() { s.path, s.err = o.report.image(ctx, s.path, img) })
	return s.path, s.err
}

func extractTo(ctx context.Context, path string, img Image, report Report) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return fmt.Errorf("prepare image directory: %w", err)
	}
	dir, err := rootfs.OpenDir(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return extract(ctx, dir, img, true, layer.ApplyOptions{}, report)
}

// Begin makes the root of a stage.
func (o *Overlay) Begin(ctx context.Context, g Ground) (Root, error) {
	r := &overlayRoot{o: o, mounted: map[string]bool{}}
	parent, stacked := g.Parent.(*overlayRoot)
	if stacked {
		if err := parent.freeze(ctx); err != nil {
			return nil, err
		}
		r.lower = append(r.lower, parent.lower...)
	} else {
		path, err := o.extract(ctx, g.Image)
		if err != nil {
			return nil, err
		}
		r.lower = []string{path}
	}
	o.mu.Lock()
	r.dir = filepath.Join(o.dir, "stages", strconv.Itoa(len(o.roots)))
	o.roots = append(o.roots, r)
	o.mu.Unlock()
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		return nil, fmt.Errorf("prepare stage directory: %w", err)
	}
	if err := r.showBase(); err != nil {
		return nil, err
	}
	if err := r.mount(); err != nil || stacked {
		return r, err
	}
	// What the parent added is in layers only: its root is not on disk.
	for _, l := range g.Layers {
		if err := Apply(ctx, r, l); err != nil {
			return r, err
		}
	}
	return r, nil
}

// overlayRoot is a stack of directories: the image, one for each step that
// changed something, and on top the one that the current step writes to. When
// a step ends its directory is frozen and a new one begun.
type overlayRoot struct {
	o     *Overlay
	dir   string
	n     int      // of the current upper directory
	lower []string // from the top down
	base  *view    // what the current step found

	merged *rootfs.Dir

	mu      sync.Mutex
	mounted map[string]bool // where frozen directories are shown
}

// view shows a stack of frozen directories, read-only, for as long as
// somebody looks.
type view struct {
	root   *overlayRoot
	dir    *rootfs.Dir
	target string // where it is mounted; "" if it is a plain directory
	users  int    // guarded by root.mu
}

func (v *view) acquire() *view {
	v.root.mu.Lock()
	defer v.root.mu.Unlock()
	v.users++
	return v
}

func (v *view) release() {
	v.root.mu.Lock()
	defer v.root.mu.Unlock()
	if v.users--; v.users > 0 {
		return
	}
	_ = v.dir.Close()
	if v.root.mounted[v.target] {
		delete(v.root.mounted, v.target)
		_ = sandbox.Unmount(v.target)
	}
}

func (r *overlayRoot) path(kind string) string {
	return filepath.Join(r.dir, kind+strconv.Itoa(r.n))
}

// showBase makes r.base show the frozen directories.
func (r *overlayRoot) showBase() error {
	v := &view{root: r, users: 1}
	target := r.lower[0]
	if len(r.lower) > 1 {
		target = r.path("v")
		if err := os.Mkdir(target, 0o755); err != nil {
			return fmt.Errorf("prepare stage directory: %w", err)
		}
		m := sandbox.OverlayMount{Lower: r.lower}
		if err := m.Mount(target, r.o.ns); err != nil {
			return err
		}
		v.target = target
		r.mu.Lock()
		r.mounted[target] = true
		r.mu.Unlock()
	}
	var err error
	if v.dir, err = rootfs.OpenDir(target); err != nil {
		return err
	}
	r.base = v
	return nil
}

// mount makes the root writable, with a new upper directory.
func (r *overlayRoot) mount() error {
	for _, kind := range []string{"u", "w", "m"} {
		if err := os.Mkdir(r.path(kind), 0o755); err != nil {
			return fmt.Errorf("prepare stage directory: %w", err)
		}
	}
	// The root directory shows the upper one's mode and owner.
	e, err := r.base.dir.Lstat(".")
	if err != nil {
		return err
	}
	up, err := rootfs.OpenDir(r.path("u"))
	if err != nil {
		return err
	}
	err = up.Put(e, nil)
	if err := errors.Join(err, up.Close()); err != nil {
		return err
	}
	m := sandbox.OverlayMount{Lower: r.lower, Upper: r.path("u"), Work: r.path("w")}
	if err := m.Mount(r.path("m"), r.o.ns); err != nil {
		return err
	}
	r.merged, err = rootfs.OpenDir(r.path("m"))
	return err
}

func (r *overlayRoot) unmount() error {
	if r.merged == nil {
		return nil
	}
	err := errors.Join(r.merged.Close(), sandbox.Unmount(r.path("m")))
	r.merged = nil
	return err
}

// FS implements Root.
func (r *overlayRoot) FS() rootfs.FS { return r.merged }

// Run implements Root.
func (r *overlayRoot) Run(ctx context.Context, p sandbox.Process, mounts ...Mount) error {
	stubs := &stubs{fsys: r.merged}
	given := &givenMounts{}
	err := stubs.watch(targetsOf(mounts))
	for i, m := range mounts {
		if err != nil {
			break
		}
		var g sandbox.Mount
		g, err = given.prepare(ctx, r.dir, i, m)
		p.Mounts = append(p.Mounts, g)
	}
	var files map[string]string
	if err == nil {
		files, err = stubs.make()
	}
	if err == nil {
		err = r.o.ns.RunIn(ctx, r.path("m"), files, p)
	}
	r.merged.Flush()
	return errors.Join(err, given.close(), stubs.remove(), stubs.tidy())
}

func targetsOf(mounts []Mount) []string {
	var out []string
	for _, m := range mounts {
		out = append(out, m.Target)
	}
	return out
}

// Commit implements Root.
func (r *overlayRoot) Commit(ctx context.Context) (Commit, error) {
	changes, err := snapshot.Upper(ctx, r.path("u"), r.base.dir, nil)
	if err != nil {
		return Commit{}, err
	}
	if len(changes) == 0 {
		v := r.base.acquire()
		return Commit{FS: v.dir, Stable: true, Release: v.release}, nil
	}
	if err := r.unmount(); err != nil {
		return Commit{}, err
	}
	r.lower = append([]string{r.path("u")}, r.lower...)
	r.base.release()
	r.n++
	if err := r.showBase(); err != nil {
		return Commit{}, err
	}
	if err := r.mount(); err != nil {
		return Commit{}, err
	}
	v := r.base.acquire()
	return Commit{Changes: changes, FS: v.dir, Stable: true, Release: v.release}, nil
}

// Keep implements Root.
func (r *overlayRoot) Keep(ctx context.Context, _ []string) (rootfs.FS, error) {
	if err := r.freeze(ctx); err != nil {
		return nil, err
	}
	return r.base.acquire().dir, nil
}

// freeze ends a step whose changes nobody asked for.
func (r *overlayRoot) freeze(ctx context.Context) error {
	if r.merged == nil {
		return nil // closed: everything is frozen
	}
	c, err := r.Commit(ctx)
	if err == nil {
		c.Release()
	}
	return err
}

// Close implements Root. The frozen directories stay: stages may stand on them.
func (r *overlayRoot) Close() error { return r.unmount() }
