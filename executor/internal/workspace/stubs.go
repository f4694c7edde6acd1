package workspace

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// mountPointDirs are the directories that every RUN mounts something on. Those
// that an image lacks are part of the layer of its first RUN, as with runc.
func mountPointDirs() []string { return []string{"dev", "proc", "sys"} }

// stubs are the mount points that a RUN needs and the image does not have. But
// for mountPointDirs they are removed after it, unless something was put into
// them.
type stubs struct {
	fsys    rootfs.FS
	spare   []string // that a mount needs and that did not exist
	made    []string
	parents []rootfs.Entry // as they were before
}

// make sees to it that /proc, /sys and /dev are directories and that the files
// of the network configuration can be bound. It returns where these go.
func (s *stubs) make() (map[string]string, error) {
	for _, name := range mountPointDirs() {
		if err := s.lasting(name); err != nil {
			return nil, err
		}
		if e, err := s.fsys.Lstat(name); err != nil || !e.Mode.IsDir() {
			return nil, errors.Join(fmt.Errorf("prepare RUN: /%s of the image is not a directory", name), err)
		}
	}
	files := map[string]string{}
	for _, name := range []string{"etc/resolv.conf", "etc/hosts"} {
		target, err := rootfs.Resolve(s.fsys, name)
		if err != nil {
			return nil, fmt.Errorf("prepare RUN: %w", err)
		}
		if err := s.file(target); err != nil {
			return nil, err
		}
		files["/"+name] = target
	}
	return files, nil
}

// lasting makes a directory at the root that is not removed.
func (s *stubs) lasting(name string) error {
	if _, err := s.fsys.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.fsys.Put(rootfs.Entry{Name: name, Mode: fs.ModeDir | 0o755}, nil); err != nil {
		return fmt.Errorf("prepare RUN: %w", err)
	}
	return nil
}

// dir makes a directory and those above it.
func (s *stubs) dir(name string) error {
	real, err := rootfs.Resolve(s.fsys, name)
	if err != nil {
		return fmt.Errorf("prepare RUN: %w", err)
	}
	if _, err := s.fsys.Lstat(real); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.dir(rootfs.Parent(real)); err != nil {
		return err
	}
	return s.put(rootfs.Entry{Name: real, Mode: fs.ModeDir | 0o755})
}

func (s *stubs) file(name string) error {
	e, err := s.fsys.Lstat(name)
	if err == nil {
		if !e.Mode.IsRegular() {
			return fmt.Errorf("prepare RUN: /%s of the image is not a file", name)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("prepare RUN: %w", err)
	}
	if err := s.dir(rootfs.Parent(name)); err != nil {
		return err
	}
	return s.put(rootfs.Entry{Name: name, Mode: 0o644})
}

func (s *stubs) put(e rootfs.Entry) error {
	parent, err := s.fsys.Lstat(rootfs.Parent(e.Name))
	if err != nil {
		return fmt.Errorf("prepare RUN: %w", err)
	}
	if err := s.fsys.Put(e, nil); err != nil {
		return fmt.Errorf("prepare RUN: %w", err)
	}
	s.made = append(s.made, e.Name)
	s.parents = append(s.parents, parent)
	return nil
}

// remove removes the stubs that are still empty, the deepest first.
func (s *stubs) remove() error {
	for i, name := range slices.Backward(s.made) {
		e, err := s.fsys.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("clean up after RUN: %w", err)
		}
		if e.Mode.IsRegular() && e.Size > 0 || !e.Mode.IsRegular() && !e.Mode.IsDir() {
			continue
		}
		if e.Mode.IsDir() {
			names, err := s.fsys.List(name)
			if err != nil {
				return fmt.Errorf("clean up after RUN: %w", err)
			}
			if len(names) > 0 {
				continue
			}
		}
		if err := s.fsys.Remove(name); err != nil {
			return fmt.Errorf("clean up after RUN: %w", err)
		}
		if err := s.restore(s.parents[i]); err != nil {
			return err
		}
	}
	return nil
}

// watch notes which of the names that mounts go to do not exist, and which
// directories above them, before any is made.
func (s *stubs) watch(targets []string) error {
	for _, t := range targets {
		name, err := rootfs.Resolve(s.fsys, t)
		if err != nil {
			return fmt.Errorf("prepare RUN: %w", err)
		}
		for ; name != "."; name = rootfs.Parent(name) {
			_, err := s.fsys.Lstat(name)
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
				return fmt.Errorf("prepare RUN: %w", err)
			}
			s.spare = append(s.spare, name)
		}
	}
	return nil
}

// tidy removes what watch found missing and is there now, unless something is
// in it. The directories above keep their time.
func (s *stubs) tidy() error {
	for _, name := range s.spare {
		e, err := s.fsys.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("clean up after RUN: %w", err)
		}
		if e.Mode.IsDir() {
			names, err := s.fsys.List(name)
			if err != nil {
				return fmt.Errorf("clean up after RUN: %w", err)
			}
			if len(names) > 0 {
				continue
			}
		} else if e.Size > 0 || e.Mode&fs.ModeSymlink != 0 {
			continue
		}
		parent, err := s.fsys.Lstat(rootfs.Parent(name))
		if err == nil {
			err = s.fsys.Remove(name)
		}
		if err == nil {
			parent.Xattrs = nil
			err = s.fsys.Put(parent, nil)
		}
		if err != nil {
			return fmt.Errorf("clean up after RUN: %w", err)
		}
	}
	return nil
}

// restore gives the directory its time back, if nothing else about it changed.
func (s *stubs) restore(was rootfs.Entry) error {
	now, err := s.fsys.Lstat(was.Name)
	if err != nil || now.Mode != was.Mode || now.UID != was.UID || now.GID != was.GID {
		return nil //nolint:nilerr // the RUN changed the directory: its business
	}
	was.Xattrs = nil
	if err := s.fsys.Put(was, nil); err != nil {
		return fmt.Errorf("clean up after RUN: %w", err)
	}
	return nil
}
