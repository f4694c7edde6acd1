package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// List returns at most limit keys that begin with prefix and come after the
// key after, in ascending byte order; all of them if limit is not positive.
// The prefix need not end at a slash, and both may be empty. Keys created or
// deleted meanwhile may be in it or not.
func (d *Dir) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := CheckPrefix(prefix); err != nil {
		return nil, err
	}
	dir, _ := path.Split(prefix)
	l := lister{ctx: ctx, dir: d, prefix: prefix, after: after, limit: limit}
	if err := l.walk(strings.TrimSuffix(dir, "/")); err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("list ledger keys below %q: %w", prefix, err)
	}
	return l.keys, nil
}

// errEnough ends a walk that has found as many keys as were asked for.
var errEnough = errors.New("enough keys")

// lister collects keys for the length of one List.
type lister struct {
	ctx           context.Context //nolint:containedctx // lives as long as the call it belongs to
	dir           *Dir
	prefix, after string
	limit         int
	keys          []string
}

// walk collects the keys below a directory. Directories are ordered by their
// name and a slash, as the keys in them are.
func (l *lister) walk(dir string) error {
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	entries, err := l.entries(dir)
	if err != nil {
		return err
	}
	for _, name := range entries {
		key := name
		if dir != "" {
			key = dir + "/" + name
		}
		if below, isDir := strings.CutSuffix(key, "/"); isDir {
			if l.mayHold(key) {
				if err := l.walk(below); err != nil {
					return err
				}
			}
			continue
		}
		if key <= l.after || !strings.HasPrefix(key, l.prefix) {
			continue
		}
		l.keys = append(l.keys, key)
		if l.limit > 0 && len(l.keys) == l.limit {
			return errEnough
		}
	}
	return nil
}

// entries returns the names in a directory in key order, those of directories
// with a slash at the end. One that is gone, or is a value, has none.
func (l *lister) entries(dir string) ([]string, error) {
	name := dir
	if name == "" {
		name = "."
	}
	list, err := fs.ReadDir(l.dir.root.FS(), name)
	if err != nil {
		if errors.Is(notThere(err), fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	names := make([]string, 0, len(list))
	for _, entry := range list {
		switch {
		case isOwn(entry.Name()):
		case entry.IsDir():
			names = append(names, entry.Name()+"/")
		case entry.Type().IsRegular():
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// mayHold reports whether a directory, written with a slash at its end, can
// hold a key that is asked for.
func (l *lister) mayHold(dir string) bool {
	if !strings.HasPrefix(dir, l.prefix) && !strings.HasPrefix(l.prefix, dir) {
		return false
	}
	return dir > l.after || strings.HasPrefix(l.after, dir)
}
