package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// fetchDir uses a directory in place.
func fetchDir(_ context.Context, path string, _ *Options) (*Context, error) {
	if path == "" {
		return nil, errors.New("no directory is named")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("directory %s: %w", abs, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is a file, not a directory: use tar://%s for an archive", abs, abs)
	}
	return &Context{Dir: abs}, nil
}

// cleanSubPath makes a sub path relative. Components that lead upwards are
// refused.
func cleanSubPath(sub string) (string, error) {
	for part := range strings.SplitSeq(sub, "/") {
		if part == ".." {
			return "", fmt.Errorf("sub path %q is not allowed: references parent directory", sub)
		}
	}
	if strings.ContainsRune(sub, 0) {
		return "", fmt.Errorf("sub path %q is not allowed: holds a NUL byte", sub)
	}
	return filepath.Clean(strings.TrimLeft(sub, "/")), nil
}

// enter makes the directory sub of the context the context. Symbolic links on
// the way may not lead outside it.
func (c *Context) enter(sub string) error {
	rel, err := cleanSubPath(sub)
	if err != nil || rel == "." {
		return err
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	info, err := root.Stat(rel)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("sub path %q: %w in the context", sub, ErrNotFound)
	case err != nil:
		return fmt.Errorf("sub path %q: %w", sub, err)
	case !info.IsDir():
		return fmt.Errorf("sub path %q is not a directory", sub)
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(c.Dir, rel))
	if err != nil {
		return fmt.Errorf("sub path %q: %w", sub, err)
	}
	c.Dir = dir
	return nil
}

// removeAll removes a tree, directories that may not be written to included.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && os.Chmod(p, 0o700) == nil && err != nil {
			return fs.SkipDir
		}
		return nil
	})
	return os.RemoveAll(path)
}
