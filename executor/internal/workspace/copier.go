package workspace

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// copier copies parts of a root as they are: owners, modes, times, links and
// attributes.
type copier struct {
	src, dst rootfs.FS
	skip     func(name string) bool
	done     map[string]bool
	links    map[rootfs.Inode]string
	rename   func(name string) string // of the copy; nil keeps names
}

// path copies everything that p may lead to: the links on the way, what they
// point to, and the tree below. Of a pattern the directory before the first
// wildcard is copied. What does not exist is left for the step to complain of.
func (c *copier) path(ctx context.Context, p string) error {
	rest := p
	if i := strings.IndexAny(p, "*?[\\"); i >= 0 {
		rest = p[:strings.LastIndexByte(p[:i], '/')+1]
	}
	at := "."
	for links := 0; ; {
		if err := c.entry(at); err != nil {
			return err
		}
		var part string
		part, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch part {
		case "":
			return c.tree(ctx, at)
		case ".":
			continue
		case "..":
			at = rootfs.Parent(at)
			continue
		}
		next := rootfs.Join(at, part)
		e, err := c.src.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Mode&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if err := c.entry(next); err != nil {
			return err
		}
		if links++; links > 40 {
			return nil
		}
		if strings.HasPrefix(e.Link, "/") {
			at = "."
		}
		rest = e.Link + "/" + rest
	}
}

func (c *copier) tree(ctx context.Context, name string) error {
	return rootfs.Walk(c.src, name, func(e rootfs.Entry) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if c.skip(e.Name) {
			return fs.SkipDir
		}
		return c.put(e)
	})
}

func (c *copier) entry(name string) error {
	if c.done[name] {
		return nil
	}
	e, err := c.src.Lstat(name)
	if err != nil {
		return err
	}
	return c.put(e)
}

func (c *copier) put(e rootfs.Entry) error {
	if c.done[e.Name] || e.Mode&fs.ModeSocket != 0 {
		return nil
	}
	c.done[e.Name] = true
	from := e.Name
	e.Name = c.renamed(from)
	if !e.Mode.IsDir() && e.Nlink > 1 {
		if first, ok := c.links[e.Inode]; ok {
			return c.dst.Put(rootfs.Entry{Name: e.Name, Mode: e.Mode, Hard: true, Link: first}, nil)
		}
		c.links[e.Inode] = e.Name
	}
	if !e.Mode.IsRegular() {
		return c.dst.Put(e, nil)
	}
	f, err := c.src.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.dst.Put(e, io.Reader(f))
}

func (c *copier) renamed(name string) string {
	if c.rename == nil {
		return name
	}
	return c.rename(name)
}

// directoryTimes gives the directories that were copied from name on the times
// they have in the source, the deepest first.
func (c *copier) directoryTimes(name string) error {
	var dirs []rootfs.Entry
	err := rootfs.Walk(c.src, name, func(e rootfs.Entry) error {
		if e.Mode.IsDir() {
			dirs = append(dirs, e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(dirs) {
		e.Name = c.renamed(e.Name)
		if err := c.dst.Put(e, nil); err != nil {
			return err
		}
	}
	return nil
}
