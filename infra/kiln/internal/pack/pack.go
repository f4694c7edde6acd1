// Package pack makes a build context of a directory: a compressed tar without
// what .dockerignore names.
package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Name of the Dockerfile in every context this package makes.
const Name = "Dockerfile"

// Context is a directory that was looked through and can be sent.
type Context struct {
	Files int   // regular files that will be sent
	Bytes int64 // of them, uncompressed
	// Skipped are paths of sockets, devices and pipes, which no build can use.
	Skipped []string

	dir        string
	entries    []entry
	dockerfile string // path of the file sent as Dockerfile
}

type entry struct {
	name string // relative, with slashes
	info fs.FileInfo
}

// Scan looks through dir. dockerfile is the path of the Dockerfile to use, ""
// being the one in dir; wherever it is, it is sent as Dockerfile in the
// context's root. What the ignore file names is left out: it is
// <dockerfile>.dockerignore if there is one, otherwise dir's .dockerignore.
// The Dockerfile and .dockerignore are sent in any case.
func Scan(ctx context.Context, dir, dockerfile string) (*Context, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("read context: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("read context: %s is not a directory", dir)
	}
	c := &Context{dir: dir, dockerfile: filepath.Join(dir, Name)}
	if dockerfile != "" {
		if c.dockerfile, err = find(dir, dockerfile); err != nil {
			return nil, err
		}
	}
	if info, err = os.Stat(c.dockerfile); err != nil {
		return nil, fmt.Errorf("read Dockerfile: %w; name another with -f", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read Dockerfile: %s is not a file", c.dockerfile)
	}
	ignore, err := c.ignore()
	if err != nil {
		return nil, err
	}
	if err := c.walk(ctx, ignore); err != nil {
		return nil, fmt.Errorf("read context: %w", err)
	}
	c.put(entry{Name, info})
	slices.SortFunc(c.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for _, e := range c.entries {
		if e.info.Mode().IsRegular() {
			c.Files++
			c.Bytes += e.info.Size()
		}
	}
	return c, nil
}

// find resolves -f as people mean it: where they are, or else in the context.
func find(dir, dockerfile string) (string, error) {
	for _, p := range []string{dockerfile, filepath.Join(dir, dockerfile)} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("read Dockerfile: there is no %s, neither here nor in %s", dockerfile, dir)
}

// put adds an entry, or replaces the one of its name.
func (c *Context) put(e entry) {
	if i := slices.IndexFunc(c.entries, func(have entry) bool { return have.name == e.name }); i >= 0 {
		c.entries[i] = e
		return
	}
	c.entries = append(c.entries, e)
}

// ignore reads the patterns of what to leave out.
func (c *Context) ignore() (*patternmatcher.PatternMatcher, error) {
	for _, p := range []string{c.dockerfile + ".dockerignore", filepath.Join(c.dir, ".dockerignore")} {
		data, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read ignore file: %w", err)
		}
		patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", p, err)
		}
		m, err := patternmatcher.New(patterns)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", p, err)
		}
		return m, nil
	}
	return patternmatcher.New(nil)
}

// walk collects what is to be sent.
func (c *Context) walk(ctx context.Context, ignore *patternmatcher.PatternMatcher) error {
	matches := map[string]patternmatcher.MatchInfo{}
	return filepath.WalkDir(c.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		rel, err := filepath.Rel(c.dir, p)
		if err != nil || rel == "." {
			return err
		}
		name := filepath.ToSlash(rel)
		out, match, err := ignore.MatchesUsingParentResults(rel, matches[path.Dir(name)])
		if err != nil {
			return err
		}
		if d.IsDir() {
			matches[name] = match
		}
		if out && name != Name && name != ".dockerignore" {
			if d.IsDir() && !ignore.Exclusions() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if mode := info.Mode(); !mode.IsRegular() && !mode.IsDir() && mode.Type() != fs.ModeSymlink {
			c.Skipped = append(c.Skipped, name)
			return nil
		}
		// A directory that is out but has something in needs an entry no more
		// than any other parent: unpacking makes it.
		c.entries = append(c.entries, entry{name, info})
		return nil
	})
}

// Write writes the context as a gzip-compressed tar. Names are in order,
// owners are dropped, modes and times kept. sent, if not nil, is called with
// the uncompressed bytes written so far.
func (c *Context) Write(ctx context.Context, w io.Writer, sent func(n int64)) error {
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("write context: %w", err)
	}
	out := tar.NewWriter(zip)
	progress := &counter{sent: sent}
	for _, e := range c.entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.writeEntry(out, e, progress); err != nil {
			return fmt.Errorf("send %s: %w", e.name, err)
		}
	}
	if err := errors.Join(out.Close(), zip.Close()); err != nil {
		return fmt.Errorf("write context: %w", err)
	}
	return nil
}

func (c *Context) writeEntry(out *tar.Writer, e entry, progress io.Writer) error {
	file := filepath.Join(c.dir, filepath.FromSlash(e.name))
	if e.name == Name {
		file = c.dockerfile
	}
	link := ""
	if e.info.Mode().Type() == fs.ModeSymlink {
		var err error
		if link, err = os.Readlink(file); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(e.info, link)
	if err != nil {
		return err
	}
	if h.Name = e.name; e.info.IsDir() {
		h.Name += "/"
	}
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	h.Format = tar.FormatPAX
	if !e.info.Mode().IsRegular() {
		return out.WriteHeader(h)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// The file may have changed since it was looked at: its size now counts.
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if !now.Mode().IsRegular() {
		return errors.New("it is no file any more")
	}
	h.Size = now.Size()
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(io.MultiWriter(out, progress), io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		err = errors.New("it became shorter while it was read")
	}
	return err
}

// counter counts what is written to it.
type counter struct {
	n    int64
	sent func(int64)
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	if c.sent != nil {
		c.sent(c.n)
	}
	return len(p), nil
}
