package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// InPlace makes the container's own root the root of one stage after another.
// Between stages everything is removed that is not left alone.
type InPlace struct {
	root   *rootfs.Dir
	dir    string // work directory, left alone
	keep   paths
	report Report

	current *inPlaceRoot
	kept    int
	images  map[string]string
}

// NewInPlace returns an InPlace for the root directory, which is "/" but in
// tests, with its work directory dir. What is mounted, dir itself and the
// names in leave are left alone.
func NewInPlace(root, dir string, leave []string, report Report) (*InPlace, error) {
	mounts, err := mountPoints()
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"images", "stages"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("prepare work directory: %w", err)
		}
	}
	d, err := rootfs.OpenDir(root)
	if err != nil {
		return nil, err
	}
	names := []string{dir, "/proc", "/sys", "/dev"}
	names = append(append(names, mounts...), leave...)
	return &InPlace{root: d, dir: dir, keep: newPaths(below(root, names)), report: report, images: map[string]string{}}, nil
}

// below returns the names as they are seen from root.
func below(root string, names []string) []string {
	if root == "/" {
		return names
	}
	var out []string
	for _, n := range names {
		if rel, err := filepath.Rel(root, n); err == nil && filepath.IsLocal(rel) {
			out = append(out, rel)
		}
	}
	return out
}

// Image extracts an image beside the root and returns its tree to read from.
func (w *InPlace) Image(ctx context.Context, img Image) (rootfs.FS, error) {
	path, ok := w.images[img.Key]
	if !ok {
		var err error
		path, err = w.report.image(ctx, filepath.Join(w.dir, "images", strconv.Itoa(len(w.images))), img)
		if err != nil {
			return nil, notRoot(err)
		}
		w.images[img.Key] = path
	}
	return rootfs.OpenDir(path)
}

// Begin makes the root that of a stage. The root of the stage before is of no
// use any more, unless this stage stands on it.
func (w *InPlace) Begin(ctx context.Context, g Ground) (Root, error) {
	if w.current != nil && g.Parent == Root(w.current) {
		next := &inPlaceRoot{w: w, walk: w.current.walk, has: w.current.has}
		next.record = next.recorder()
		w.current = next
		return next, nil
	}
	if w.current != nil {
		if err := w.clear("."); err != nil {
			return nil, fmt.Errorf("clear the root for the next stage: %w", err)
		}
	}
	r := &inPlaceRoot{w: w, walk: snapshot.NewWalk(w.root, w.keep.names()), has: map[string]bool{}}
	w.current = r
	opt := layer.ApplyOptions{Skip: r.skip, Pinned: w.keep.pinned, Learn: r.walk.Learn}
	if err := extract(ctx, w.root, g.Image, true, opt, w.report); err != nil {
		return nil, notRoot(err)
	}
	if err := extract(ctx, w.root, Image{Layers: g.Layers, Meter: g.Image.Meter}, false, opt, w.report); err != nil {
		return nil, notRoot(err)
	}
	r.record = r.recorder()
	return r, nil
}

// notRoot explains what a process that is not root may not do.
func notRoot(err error) error {
	uid := os.Geteuid()
	if uid == 0 || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w: RUN needs the files of its image, which belong to root, and this process is user %d in a container that lets it make no user namespace: "+
		"run it as root, or without a seccomp filter as with the profile default; Dockerfiles without RUN are built as it is", err, uid)
}

func (r *inPlaceRoot) recorder() *snapshot.Recorder {
	return snapshot.NewRecorder(&guard{FS: r.w.root, r: r})
}

// Clear removes everything from the root that is not left alone, so that the
// container can be used for another build.
func (w *InPlace) Clear() error {
	if err := w.clear("."); err != nil {
		return fmt.Errorf("clean up the root: %w", err)
	}
	return nil
}

// clear removes what is below a directory and may go.
func (w *InPlace) clear(dir string) error {
	names, err := w.root.List(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		name := rootfs.Join(dir, n)
		switch {
		case w.keep.skip(name):
		case w.keep.pinned(name):
			err = w.clear(name)
		default:
			err = w.root.Remove(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type inPlaceRoot struct {
	w      *InPlace
	walk   *snapshot.Walk
	record *snapshot.Recorder
	ran    bool            // a process ran since the last Commit
	has    map[string]bool // which of mountPointDirs and of the directories above mounts the image has
}

// skip is what extraction leaves out. It learns on the way what the image has.
func (r *inPlaceRoot) skip(name string) bool {
	if slices.Contains(mountPointDirs(), name) {
		r.has[name] = true
	}
	r.learn(name)
	return r.w.keep.skip(name)
}

// learn notes that the image has a file, and with it the directories above: one
// that holds a mount of the container is there whether the image has it or not.
func (r *inPlaceRoot) learn(name string) {
	for ; name != "."; name = rootfs.Parent(name) {
		if r.w.keep.pinned(name) {
			r.has[name] = true
		}
	}
}

// foreign tells whether a name is left alone, or there only because something
// below it is.
func (r *inPlaceRoot) foreign(name string) bool {
	return r.w.keep.skip(name) || name != "." && r.w.keep.pinned(name) && !r.has[name]
}

// withMountPoints adds to the changes of a step that ran a process the
// directories that it would have left in an image without them. Here they are
// mounts of the container and never seen to change.
func (r *inPlaceRoot) withMountPoints(changes []snapshot.Change) ([]snapshot.Change, rootfs.FS) {
	shown := &plainDirs{FS: r.w.root, names: map[string]bool{}}
	var missing []snapshot.Change
	for _, name := range mountPointDirs() {
		if r.ran && !r.has[name] && r.w.keep.skip(name) {
			r.has[name], shown.names[name] = true, true
			missing = append(missing, snapshot.Change{Name: name})
		}
	}
	if len(missing) == 0 {
		return changes, r.w.root
	}
	return snapshot.Merge(missing, changes), shown
}

// plainDirs shows some names as directories of root, whatever they are.
type plainDirs struct {
	rootfs.FS
	names map[string]bool
}

func (p *plainDirs) Lstat(name string) (rootfs.Entry, error) {
	e, err := p.FS.Lstat(name)
	if err == nil && p.names[name] {
		e = rootfs.Entry{Name: name, Mode: fs.ModeDir | 0o755, ModTime: e.ModTime}
	}
	return e, err
}

// FS implements Root.
func (r *inPlaceRoot) FS() rootfs.FS { return r.record }

// Run implements Root.
func (r *inPlaceRoot) Run(ctx context.Context, p sandbox.Process, mounts ...Mount) error {
	if p.NoNetwork {
		return sandbox.ErrNoNetwork
	}
	if err := r.walk.Baseline(ctx); err != nil {
		return err
	}
	if err := r.walk.Settle(ctx, r.w.dir); err != nil {
		return err
	}
	r.ran = true
	if len(mounts) == 0 {
		err := sandbox.RunInPlace(ctx, p)
		r.w.root.Flush()
		return err
	}
	aside, err := os.MkdirTemp(r.w.dir, "aside-*")
	if err != nil {
		return fmt.Errorf("prepare mounts: %w", err)
	}
	put := &placed{root: r.w.root, keep: r.w.keep, dir: aside, stubs: &stubs{fsys: r.w.root}}
	if err = put.place(ctx, mounts); err != nil {
		err = fmt.Errorf("start process: %w", err)
	} else {
		err = sandbox.RunInPlace(ctx, p)
	}
	return errors.Join(err, put.takeAway())
}

// Commit implements Root.
func (r *inPlaceRoot) Commit(ctx context.Context) (Commit, error) {
	changes, err := r.record.Changes()
	if err != nil {
		return Commit{}, err
	}
	if r.ran {
		// What was recorded may have been there before the tree was indexed.
		found, err := r.walk.Diff(ctx)
		if err != nil {
			return Commit{}, err
		}
		changes = snapshot.Merge(changes, found)
	} else if err := r.walk.Refresh(r.record.Touched()); err != nil {
		return Commit{}, err
	}
	for _, c := range changes {
		if !c.Deleted {
			r.learn(c.Name)
		} else if r.w.keep.pinned(c.Name) {
			delete(r.has, c.Name)
		}
	}
	changes, shown := r.withMountPoints(changes)
	r.ran, r.record = false, r.recorder()
	return Commit{Changes: changes, FS: shown, Learn: r.walk.Learn, Release: func() {}}, nil
}

// Keep implements Root: what the paths lead to is copied beside the root.
func (r *inPlaceRoot) Keep(ctx context.Context, names []string) (rootfs.FS, error) {
	path := filepath.Join(r.w.dir, "stages", strconv.Itoa(r.w.kept))
	r.w.kept++
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("keep stage: %w", err)
	}
	dst, err := rootfs.OpenDir(path)
	if err != nil {
		return nil, err
	}
	c := &copier{src: r.w.root, dst: dst, skip: r.foreign, done: map[string]bool{}, links: map[rootfs.Inode]string{}}
	for _, n := range names {
		if err := c.path(ctx, n); err != nil {
			return nil, fmt.Errorf("keep %s of the stage: %w", n, err)
		}
	}
	return dst, nil
}

// Close implements Root.
func (r *inPlaceRoot) Close() error { return nil }

// ErrMounted is wrapped by the error of a step that would change what is left
// alone.
var ErrMounted = errors.New("the path is mounted into the container or belongs to the executor, and cannot be changed with --isolation=inplace")

// guard shows steps the root of a stage: it refuses to change what is left alone,
// and hides directories that are no part of the stage.
type guard struct {
	rootfs.FS
	r *inPlaceRoot
}

// hides tells whether a directory is there only because something below it is
// left alone: a step makes it as if it were not.
func (g *guard) hides(name string) bool { return g.r.foreign(name) && !g.r.w.keep.skip(name) }

func (g *guard) Lstat(name string) (rootfs.Entry, error) {
	if g.hides(name) {
		return rootfs.Entry{}, &fs.PathError{Op: "lstat", Path: name, Err: unix.ENOENT}
	}
	return g.FS.Lstat(name)
}

func (g *guard) List(name string) ([]string, error) {
	names, err := g.FS.List(name)
	return slices.DeleteFunc(names, func(n string) bool { return g.hides(rootfs.Join(name, n)) }), err
}

func (g *guard) Put(e rootfs.Entry, content io.Reader) error {
	real, err := rootfs.ResolveParent(g.FS, e.Name)
	if err != nil {
		return err
	}
	keep := g.r.w.keep
	if keep.skip(real) || !e.Mode.IsDir() && keep.pinned(real) {
		if now, err := g.FS.Lstat(real); err == nil && e.Mode.IsDir() && now.Mode.IsDir() {
			return nil
		}
		return fmt.Errorf("/%s: %w", real, ErrMounted)
	}
	err = g.FS.Put(e, content)
	if err == nil {
		g.r.learn(real)
	}
	return err
}

func (g *guard) Remove(name string) error {
	real, err := rootfs.ResolveParent(g.FS, name)
	if err != nil {
		return err
	}
	if g.r.w.keep.skip(real) || g.r.w.keep.pinned(real) {
		return fmt.Errorf("/%s: %w", real, ErrMounted)
	}
	return g.FS.Remove(name)
}
