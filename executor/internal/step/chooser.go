package step

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// chooser says what is copied of what lies below a source. The source itself
// always is. Names are relative to the source.
type chooser struct {
	only *dockerfile.Ignore // what of it is wanted; nil is everything
	skip *dockerfile.Ignore
}

func newChooser(skip []string) (chooser, error) {
	if len(skip) == 0 {
		return chooser{}, nil
	}
	p, err := dockerfile.NewPatterns(skip)
	return chooser{skip: p}, err
}

// wants reports whether the file is copied.
func (c chooser) wants(name string) bool {
	return (c.only == nil || c.only.Excluded(name)) && !c.skip.Excluded(name)
}

// enters reports whether something may be copied below a directory that itself
// is not.
func (c chooser) enters(dir string) bool {
	if c.skip.Excluded(dir) && !c.skip.MayHold(dir) {
		return false
	}
	return c.only == nil || c.only.Excluded(dir) || c.only.Reaches(dir)
}

// choices finds the sources of a Copy and what is wanted of each.
func choices(src rootfs.FS, op plan.Copy, in Inputs) ([]selected, error) {
	all, err := newChooser(op.Skip)
	if err != nil {
		return nil, err
	}
	var out []selected
	for i, p := range op.Paths {
		named, choose := p, all
		if op.Parents != nil {
			if named, choose.only, err = parents(src, op.Parents[i], p, in); err != nil {
				return nil, err
			}
			if !hasWildcard(op.Parents[i]) && !hasWildcard(p) && all.skip.Excluded(p) && !all.skip.MayHold(p) {
				return nil, notFound("%s is not in the source once --exclude has left it out", p)
			}
		}
		found, err := selectOne(src, named, in)
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			s.choose = choose
			out = append(out, s)
		}
	}
	return out, nil
}

// parents returns the source and what is wanted of it for a path whose parents
// are kept. A path without wildcards must exist, without a link on the way.
func parents(src rootfs.FS, base, path string, in Inputs) (string, *dockerfile.Ignore, error) {
	if !hasWildcard(base) && !hasWildcard(path) {
		if path == "." {
			return "", nil, notFound("--parents must be told what to copy below /%s: name it, or write *", strings.TrimPrefix(base, "."))
		}
		if err := mustExist(src, rootfs.Join(base, path), in); err != nil {
			return "", nil, err
		}
	}
	patterns := []string{path}
	if path == "." { // names nothing below the source
		patterns = nil
	}
	only, err := dockerfile.NewPatterns(patterns)
	return base, only, err
}

func mustExist(src rootfs.FS, name string, in Inputs) error {
	real, err := rootfs.ResolveParent(src, name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if real != name {
		return notFound("%s is not in the source: a symbolic link leads to it, and --parents follows none", name)
	}
	_, err = src.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return missing(src, name, name, in)
	}
	return err
}
