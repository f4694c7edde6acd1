package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Upper returns what the upper directory of an overlay mount says was changed,
// sorted by name, parents first. It costs what changed and not what exists.
// The mount must have been made with redirect_dir and metacopy off, base is
// what the mount showed before anything was written, and skip names what to
// leave out. No process that may write to the mount may be alive.
func Upper(ctx context.Context, upper string, base rootfs.FS, skip func(name string) bool) ([]Change, error) {
	if skip == nil {
		skip = func(string) bool { return false }
	}
	dir, err := rootfs.OpenDir(upper)
	if err != nil {
		return nil, fmt.Errorf("read upper directory: %w", err)
	}
	defer dir.Close()
	u := &upperDiff{upper: dir, base: base, skip: skip}
	if err := u.self("."); err != nil {
		return nil, err
	}
	if err := u.directory(ctx, ".", false); err != nil {
		return nil, fmt.Errorf("read upper directory: %w", err)
	}
	sortChanges(u.changes)
	return u.changes, nil
}

type upperDiff struct {
	upper   *rootfs.Dir
	base    rootfs.FS
	skip    func(name string) bool
	changes []Change
}

// directory visits the children of one directory. Inside an opaque directory
// nothing of the base shows through, at any depth.
func (u *upperDiff) directory(ctx context.Context, name string, opaque bool) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	names, err := u.upper.List(name)
	if err != nil {
		return err
	}
	if opaque {
		if err := u.hidden(name, names); err != nil {
			return err
		}
	}
	for _, n := range names {
		child := rootfs.Join(name, n)
		if u.skip(child) {
			continue
		}
		e, err := u.upper.Lstat(child)
		if err != nil {
			return err
		}
		if isWhiteout(e) {
			if _, err := u.base.Lstat(child); err == nil {
				u.changes = append(u.changes, Change{Name: child, Deleted: true})
			}
			continue
		}
		if err := u.self(child); err != nil {
			return err
		}
		if e.Mode.IsDir() {
			op, err := isOpaque(u.upper.Path() + "/" + child)
			if err != nil {
				return err
			}
			if err := u.directory(ctx, child, opaque || op); err != nil {
				return err
			}
		}
	}
	return nil
}

// hidden reports the base's children of an opaque directory that have no
// successor as deleted.
func (u *upperDiff) hidden(name string, names []string) error {
	old, err := u.base.List(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil
		}
		return err
	}
	for _, n := range old {
		if _, ok := slices.BinarySearch(names, n); ok {
			continue
		}
		if child := rootfs.Join(name, n); !u.skip(child) {
			u.changes = append(u.changes, Change{Name: child, Deleted: true})
		}
	}
	return nil
}

// self reports the file itself if it differs from the base's: overlayfs copies
// up more than what changes, the directories above a change first of all.
func (u *upperDiff) self(name string) error {
	now, err := u.upper.Lstat(name)
	if err != nil {
		return err
	}
	was, err := u.base.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		u.changes = append(u.changes, Change{Name: name})
		return nil
	case err != nil:
		return err
	}
	same, err := u.same(name, was, now)
	if err == nil && !same {
		u.changes = append(u.changes, Change{Name: name})
	}
	return err
}

func (u *upperDiff) same(name string, was, now rootfs.Entry) (bool, error) {
	if !sameEntry(was, now) || !maps.Equal(was.Xattrs, now.Xattrs) {
		return false, nil
	}
	if !now.Mode.IsRegular() {
		return true, nil
	}
	a, err := PrintFile(u.base, name)
	if err != nil {
		return false, err
	}
	b, err := PrintFile(u.upper, name)
	return a == b, err
}

// isWhiteout tells whether e is overlayfs' mark of a deletion: a character
// device 0:0.
func isWhiteout(e rootfs.Entry) bool {
	return e.Mode&fs.ModeCharDevice != 0 && e.Major == 0 && e.Minor == 0
}

func isOpaque(path string) (bool, error) {
	var buf [8]byte
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		n, err := unix.Lgetxattr(path, name, buf[:])
		switch {
		case err == nil && n == 1 && buf[0] == 'y':
			return true, nil
		case err == nil, errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM), errors.Is(err, unix.ERANGE):
		default:
			return false, &os.PathError{Op: "read opaque mark", Path: path, Err: err}
		}
	}
	return false, nil
}
