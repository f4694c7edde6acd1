package step

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"syscall"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Filter returns what is left of a build context once the ignore file has been
// applied, read-only. A directory that is excluded is there all the same if
// something below it is included again.
func Filter(context rootfs.FS, ignore *dockerfile.Ignore) rootfs.FS {
	if ignore == nil {
		return context
	}
	if f, ok := context.(*filtered); ok && f.ignore == ignore {
		return f
	}
	return &filtered{all: context, ignore: ignore, holds: map[string]bool{}}
}

type filtered struct {
	all    rootfs.FS
	ignore *dockerfile.Ignore

	mu    sync.Mutex
	holds map[string]bool // excluded directories: whether something in them is included
}

// Lstat implements rootfs.FS.
func (f *filtered) Lstat(name string) (rootfs.Entry, error) {
	e, err := f.all.Lstat(name)
	if err != nil {
		return e, err
	}
	ok, err := f.visible(e)
	if err == nil && !ok {
		err = &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	return e, err
}

// visible reports whether the file e exists as far as the build is concerned.
func (f *filtered) visible(e rootfs.Entry) (bool, error) {
	if !f.ignore.Excluded(e.Name) {
		return true, nil
	}
	if !e.Mode.IsDir() || !f.ignore.MayHold(e.Name) {
		return false, nil
	}
	f.mu.Lock()
	holds, known := f.holds[e.Name]
	f.mu.Unlock()
	if known {
		return holds, nil
	}
	err := rootfs.Walk(f.all, e.Name, func(below rootfs.Entry) error {
		switch {
		case !f.ignore.Excluded(below.Name):
			return errFound
		case below.Mode.IsDir() && !f.ignore.MayHold(below.Name):
			return fs.SkipDir
		}
		return nil
	})
	holds = errors.Is(err, errFound)
	if err != nil && !holds {
		return false, err
	}
	f.mu.Lock()
	f.holds[e.Name] = holds
	f.mu.Unlock()
	return holds, nil
}

// errFound ends a walk.
var errFound = errors.New("found")

// Open implements rootfs.FS.
func (f *filtered) Open(name string) (io.ReadCloser, error) {
	if f.ignore.Excluded(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return f.all.Open(name)
}

// List implements rootfs.FS.
func (f *filtered) List(name string) ([]string, error) {
	names, err := f.all.List(name)
	if err != nil {
		return nil, err
	}
	kept := make([]string, 0, len(names))
	for _, n := range names {
		child := rootfs.Join(name, n)
		if f.ignore.Excluded(child) {
			if !f.ignore.MayHold(child) {
				continue
			}
			_, err := f.Lstat(child)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		kept = append(kept, n)
	}
	return kept, nil
}

// Put implements rootfs.FS.
func (f *filtered) Put(e rootfs.Entry, _ io.Reader) error {
	return &fs.PathError{Op: "put", Path: e.Name, Err: syscall.EROFS}
}

// Remove implements rootfs.FS.
func (f *filtered) Remove(name string) error {
	return &fs.PathError{Op: "remove", Path: name, Err: syscall.EROFS}
}
