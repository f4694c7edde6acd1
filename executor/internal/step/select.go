package step

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/buildkit/util/suggest"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// selected is a file or directory that a source word of COPY or ADD names.
type selected struct {
	name   string // in the source, every link resolved
	base   string // last component of what was named: the name of the copy in a directory
	entry  rootfs.Entry
	choose chooser // what of a directory is copied
}

// selectOne finds what a pattern names, by name. Named links are followed,
// those in a directory that is named are not. A pattern with wildcards may name
// nothing; a name without must exist.
func selectOne(src rootfs.FS, pattern string, in Inputs) ([]selected, error) {
	fixed, wild := splitPattern(pattern)
	s, err := follow(src, fixed)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, missing(src, pattern, s.name, in)
	case err != nil:
		return nil, fmt.Errorf("find %s: %w", pattern, err)
	case wild == "":
		return []selected{s}, nil
	}
	var names []string
	if s.entry.Mode.IsDir() {
		if names, err = glob(src, s.name, strings.Split(wild, "/")); err != nil {
			return nil, fmt.Errorf("find %s: %w", pattern, err)
		}
	}
	if len(names) == 0 {
		in.note("%s matches nothing, so nothing is copied for it", pattern)
	}
	var out []selected
	for _, n := range names {
		s, err := follow(src, n)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil, missing(src, n, s.name, in)
		}
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", n, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// follow resolves the last component of name.
func follow(src rootfs.FS, name string) (selected, error) {
	real, err := rootfs.Resolve(src, name)
	if err != nil {
		return selected{}, err
	}
	e, err := src.Lstat(real)
	return selected{name: real, base: path.Base(name), entry: e}, err
}

// plainError says text and is kind, without saying what kind says.
type plainError struct {
	text string
	kind error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.kind }

func notFound(format string, args ...any) error {
	return &plainError{fmt.Sprintf(format, args...), fs.ErrNotExist}
}

// missing says why a source of src is not there, and which one was most likely meant.
// name is what the pattern leads to.
func missing(src rootfs.FS, pattern, name string, in Inputs) error {
	similar := ""
	if near := neighbour(src, name, in); near != "" && pattern == name {
		similar = fmt.Sprintf(" (did you mean %s?)", near)
	}
	switch {
	case in.From != nil:
		return notFound("/%s is not in the source%s", pattern, similar)
	case in.Ignore.Excluded(name) && name != pattern:
		return notFound("%s is not in the build context: it leads to %s, which %s excludes", pattern, name, in.Ignore.Name())
	case in.Ignore.Excluded(name):
		return notFound("%s is not in the build context: %s excludes it", pattern, in.Ignore.Name())
	}
	return notFound("%s is not in the build context%s", pattern, similar)
}

// neighbour is the entry of the directory of name whose own name is most like it, ""
// if none is.
func neighbour(src rootfs.FS, name string, in Inputs) string {
	dir, base := path.Split(name)
	if len(base) < 3 { // whatever is as short would be like it
		return ""
	}
	dir = rootfs.Clean(dir)
	names, err := src.List(dir)
	if err != nil {
		return ""
	}
	if in.From == nil {
		names = slices.DeleteFunc(names, func(n string) bool { return in.Ignore.Excluded(rootfs.Join(dir, n)) })
	}
	near, _ := suggest.Search(base, names, true)
	if near == "" {
		return ""
	}
	return rootfs.Join(dir, near)
}

// splitPattern splits a pattern before its first component with a wildcard.
func splitPattern(p string) (fixed, wild string) {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if hasWildcard(part) {
			return rootfs.Clean(strings.Join(parts[:i], "/")), strings.Join(parts[i:], "/")
		}
	}
	return p, ""
}

func hasWildcard(part string) bool {
	for i := 0; i < len(part); i++ {
		switch part[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// glob returns the names below dir that match the patterns, one for each
// component. Links are not followed on the way.
func glob(src rootfs.FS, dir string, patterns []string) ([]string, error) {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return nil, err
		}
	}
	return globBelow(src, dir, patterns)
}

func globBelow(src rootfs.FS, dir string, patterns []string) ([]string, error) {
	names, err := src.List(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if ok, err := path.Match(patterns[0], n); err != nil || !ok {
			continue
		}
		child := rootfs.Join(dir, n)
		if len(patterns) == 1 {
			out = append(out, child)
			continue
		}
		e, err := src.Lstat(child)
		if err != nil {
			return nil, err
		}
		if !e.Mode.IsDir() {
			continue
		}
		below, err := globBelow(src, child, patterns[1:])
		if err != nil {
			return nil, err
		}
		out = append(out, below...)
	}
	return out, nil
}
