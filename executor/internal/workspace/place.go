package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
)

// placed are the mounts of one RUN in place: what stands in for each lies at
// its target while the process runs.
type placed struct {
	root  *rootfs.Dir
	keep  paths
	dir   string // empty directory for what is put aside
	stubs *stubs
	undo  []func() error // in the order of what they undo
}

// place puts everything where the process looks for it. Whatever it returns,
// takeAway must follow.
func (p *placed) place(ctx context.Context, mounts []Mount) error {
	if err := p.stubs.watch(targetsOf(mounts)); err != nil {
		return err
	}
	kept := map[string]bool{}
	for i, m := range mounts {
		err := ctx.Err()
		if m.Keep && kept[m.Source] && err == nil {
			err = errors.New("a cache can be at one place only with --isolation=inplace: use --isolation=overlay")
		}
		kept[m.Source] = kept[m.Source] || m.Keep
		if err == nil {
			err = p.one(ctx, i, m)
		}
		if err != nil {
			return fmt.Errorf("mount at %s: %w", m.Target, err)
		}
		p.root.Flush()
	}
	return nil
}

// takeAway undoes what place did, the last first. What is wrong with one does
// not keep it from the others: nothing of them may become part of a layer.
func (p *placed) takeAway() error {
	p.root.Flush()
	var errs []error
	for i := len(p.undo) - 1; i >= 0; i-- {
		errs = append(errs, p.undo[i]())
		p.root.Flush()
	}
	errs = append(errs, p.stubs.tidy(), os.RemoveAll(p.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take away mounts: %w", err)
	}
	return nil
}

func (p *placed) one(ctx context.Context, n int, m Mount) error {
	name, err := rootfs.Resolve(p.root, m.Target)
	if err != nil {
		return err
	}
	if err := p.fits(m, name); err != nil {
		return err
	}
	told := p.keepTime(rootfs.Parent(name))
	defer told()
	was, err := p.free(ctx, n, name)
	if err != nil {
		return err
	}
	if err := p.parents(rootfs.Parent(name)); err != nil {
		return err
	}
	return p.fill(ctx, m, name, was)
}

// ErrTmpfsSize is wrapped by the error of a mount that nothing can keep to its
// size in place.
var ErrTmpfsSize = errors.New("no size can be set for a tmpfs with --isolation=inplace: leave size out, or use --isolation=overlay")

// fits refuses what no mount could be made of: a directory over a file, or the
// other way round, and a limit that nobody would keep.
func (p *placed) fits(m Mount, name string) error {
	if m.Tmpfs && m.Size > 0 {
		return ErrTmpfsSize
	}
	isDir := m.Tmpfs
	if m.Source != "" {
		fi, err := os.Stat(m.Source)
		if err != nil {
			return err
		}
		isDir = fi.IsDir()
	}
	e, err := p.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || isNotDir(err):
		return nil
	case err != nil:
		return err
	case isDir && !e.Mode.IsDir():
		return errors.New("what is there is not a directory")
	case !isDir && e.Mode.IsDir():
		return errors.New("what is there is a directory")
	}
	return nil
}

// fill puts what stands in for m at name, where was was.
func (p *placed) fill(ctx context.Context, m Mount, name string, was *rootfs.Entry) error {
	switch {
	case m.File != nil:
		return p.write(name, m.File)
	case m.Agent != nil:
		stop, err := forward(p.path(name), *m.Agent)
		if err == nil {
			p.undo = append(p.undo, stop)
		}
		return err
	case m.Tmpfs:
		p.remove(name)
		mode := fs.ModePerm | fs.ModeSticky
		if was != nil {
			mode = was.Mode &^ fs.ModeDir
		}
		return p.root.Put(rootfs.Entry{Name: name, Mode: fs.ModeDir | mode}, nil)
	case m.Keep && !m.ReadOnly:
		return p.lend(ctx, m.Source, name)
	}
	p.remove(name)
	return p.copyIn(ctx, m.Source, name)
}

// free puts aside what is at name, to be put back, and says what it was; nil if
// there was nothing.
func (p *placed) free(ctx context.Context, n int, name string) (*rootfs.Entry, error) {
	e, err := p.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return nil, nil
	}
	switch {
	case err != nil:
		return nil, err
	case name == ".":
		return nil, errors.New("it is the root directory")
	case p.keep.skip(name) || p.keep.pinned(name):
		return nil, ErrMounted
	}
	aside := filepath.Join(p.dir, strconv.Itoa(n))
	moved, err := move(ctx, p.path(name), aside)
	if err != nil {
		return nil, fmt.Errorf("put aside what is there: %w", err)
	}
	p.root.Flush() // it may know the directory that was there
	p.undo = append(p.undo, func() error {
		if err := p.root.Remove(name); err != nil {
			return err
		}
		if _, err := move(context.WithoutCancel(ctx), aside, p.path(name)); err != nil {
			return fmt.Errorf("put back /%s: %w", name, err)
		}
		return nil
	})
	if !moved {
		return &e, p.root.Remove(name)
	}
	return &e, nil
}

// keepTime sees to it that a directory has the time in the end that it would
// have if nothing had been put into it: its own, or that of the last thing the
// process did there. What it returns is called once everything is in place.
func (p *placed) keepTime(dir string) (told func()) {
	was, err := p.root.Lstat(dir)
	if err != nil {
		return func() {}
	}
	var before, after time.Time
	p.undo = append(p.undo, func() error {
		p.root.Flush()
		e, err := p.root.Lstat(dir)
		if err != nil || !e.Mode.IsDir() {
			return nil //nolint:nilerr // the process removed it
		}
		if e.ModTime = after; before.Equal(after) {
			e.ModTime = was.ModTime
		}
		e.Xattrs = nil
		return p.root.Put(e, nil)
	})
	return func() {
		if e, err := p.root.Lstat(dir); err == nil {
			before = e.ModTime
		}
		p.undo = append(p.undo, func() error {
			if e, err := p.root.Lstat(dir); err == nil {
				after = e.ModTime
			}
			return nil
		})
	}
}

// write makes a file that is gone in the end, whatever the process does with
// it: should it have moved it elsewhere, it is emptied there and the RUN fails.
func (p *placed) write(name string, m *sandbox.MemoryFile) error {
	p.remove(name)
	err := p.root.Put(rootfs.Entry{Name: name, Mode: m.Mode.Perm(), UID: m.UID, GID: m.GID}, bytes.NewReader(m.Content))
	if err != nil {
		return err
	}
	// Not open for writing: a program that is cannot be run.
	f, err := os.OpenFile(p.path(name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	p.undo = append(p.undo, func() error {
		defer f.Close()
		if err := errors.Join(p.root.Remove(name), os.Truncate(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), 0)); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		if st.Nlink > 0 {
			return fmt.Errorf("the process moved or linked /%s to another place", name)
		}
		return nil
	})
	return nil
}

// parents makes the directories that a target lies in.
func (p *placed) parents(name string) error {
	e, err := p.root.Lstat(name)
	switch {
	case err == nil && e.Mode.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("/%s is not a directory", name)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := p.parents(rootfs.Parent(name)); err != nil {
		return err
	}
	return p.root.Put(rootfs.Entry{Name: name, Mode: fs.ModeDir | 0o755}, nil)
}

// remove sees to it that name is removed in the end, even if it is made in part
// only.
func (p *placed) remove(name string) {
	p.undo = append(p.undo, func() error { return p.root.Remove(name) })
}

func (p *placed) path(name string) string { return filepath.Join(p.root.Path(), name) }

func (p *placed) copyIn(ctx context.Context, source, name string) error {
	src, err := rootfs.OpenDir(filepath.Dir(source))
	if err != nil {
		return err
	}
	defer src.Close()
	return CopyTree(ctx, src, filepath.Base(source), p.root, name)
}

// lend moves a cache to its target and back. A cache that the process removed
// or put something else in the place of is begun anew when it is used again.
func (p *placed) lend(ctx context.Context, source, name string) error {
	if _, err := move(ctx, source, p.path(name)); err != nil {
		p.remove(name)
		return err
	}
	p.undo = append(p.undo, func() error {
		defer p.root.Flush()
		e, err := p.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
			return os.RemoveAll(source)
		}
		if err != nil {
			return err
		}
		if !e.Mode.IsDir() {
			return errors.Join(p.root.Remove(name), os.RemoveAll(source))
		}
		back := source + ".back"
		if err := os.RemoveAll(back); err != nil {
			return err
		}
		renamed, err := move(context.WithoutCancel(ctx), p.path(name), back)
		if err == nil && !renamed {
			err = p.root.Remove(name)
		}
		if err != nil {
			return errors.Join(err, p.root.Remove(name))
		}
		return errors.Join(os.RemoveAll(source), os.Rename(back, source))
	})
	return nil
}

// move renames a file or directory, or copies it where it cannot be renamed.
// It reports whether what was at from is gone.
func move(ctx context.Context, from, to string) (moved bool, err error) {
	err = os.Rename(from, to)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.EXDEV) {
		return false, err
	}
	_, err = copyBeside(ctx, from, filepath.Dir(to), filepath.Base(to))
	return false, err
}

func isNotDir(err error) bool { return errors.Is(err, unix.ENOTDIR) }
