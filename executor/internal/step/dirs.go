package step

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// place is a directory that is copied.
type place struct {
	dir    string // in the source
	rel    string // the same, relative to what was named; "" is that itself
	target string
	fresh  bool // it was just made and holds nothing
}

// contents copies what is in a directory into one that exists, whose owner and
// mode stay as they are.
func (c *copier) contents(ctx context.Context, dir rootfs.Entry, target string) error {
	if err := c.children(ctx, place{dir: dir.Name, target: target}); err != nil {
		return err
	}
	if target == "." || dir.ModTime.IsZero() {
		return nil
	}
	e, err := c.root.Lstat(target)
	if err != nil {
		return err
	}
	e.ModTime = dir.ModTime
	return c.put(e, nil)
}

func (c *copier) children(ctx context.Context, p place) error {
	names, err := c.src.List(p.dir)
	if err != nil {
		return fmt.Errorf("list /%s: %w", p.dir, err)
	}
	for _, n := range names {
		below := place{rel: n, dir: rootfs.Join(p.dir, n), target: rootfs.Join(p.target, n), fresh: p.fresh}
		if p.rel != "" {
			below.rel = p.rel + "/" + n
		}
		wanted := c.choose.wants(below.rel)
		if !wanted && !c.choose.enters(below.rel) {
			continue
		}
		e, err := c.src.Lstat(below.dir)
		if err != nil {
			return fmt.Errorf("copy /%s: %w", below.dir, err)
		}
		switch {
		case e.Mode.IsDir() && wanted:
			err = c.subdir(ctx, e, below)
		case e.Mode.IsDir():
			err = c.passed(ctx, e, below)
		case wanted:
			if err = c.makePassed(); err == nil {
				err = c.file(ctx, e, below.target, p.fresh)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// subdir copies a directory below the one that was named. An existing one is
// given the source's owner and mode.
func (c *copier) subdir(ctx context.Context, e rootfs.Entry, p place) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := c.makePassed(); err != nil {
		return err
	}
	made := c.changes.apply(e, p.target)
	if !p.fresh {
		old, err := c.root.Lstat(p.target)
		switch {
		case err == nil && !old.Mode.IsDir():
			return notADir(e.Name, p.target)
		case err == nil:
			made.Xattrs = mergeXattrs(old.Xattrs, made.Xattrs)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		default:
			p.fresh = true
		}
	}
	if p.fresh {
		// Open to the process that fills it until that is done.
		open := made
		open.Mode |= 0o700
		if err := c.put(open, nil); err != nil {
			return err
		}
	}
	if err := c.children(ctx, p); err != nil {
		return err
	}
	return c.put(made, nil)
}

func notADir(source, target string) error {
	return fmt.Errorf("cannot copy directory /%s to /%s, which is not a directory", source, target)
}

// passed is a directory that is not copied itself, but that something below
// may be: it is made when that is found.
type passed struct {
	entry  rootfs.Entry
	target string
	made   bool
	closed bool // its mode keeps its owner out, and is given to it in the end
}

// passed copies what is wanted below a directory that is not.
func (c *copier) passed(ctx context.Context, e rootfs.Entry, p place) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	c.above = append(c.above, &passed{entry: e, target: p.target})
	p.fresh = false
	if err := c.children(ctx, p); err != nil {
		return err
	}
	last := c.above[len(c.above)-1]
	c.above = c.above[:len(c.above)-1]
	if !last.closed {
		return nil
	}
	return c.put(c.withoutTime(last.entry, last.target), nil)
}

// withoutTime is what the copy of a directory is like that gets a new time.
func (c *copier) withoutTime(e rootfs.Entry, target string) rootfs.Entry {
	e = c.changes.apply(e, target)
	e.ModTime = time.Time{}
	return e
}

// makePassed makes the directories that lead to something wanted. Of those
// that exist only the mode becomes that of the source.
func (c *copier) makePassed() error {
	for _, p := range c.above {
		if p.made {
			continue
		}
		p.made = true
		old, err := c.root.Lstat(p.target)
		switch {
		case err == nil && !old.Mode.IsDir():
			return notADir(p.entry.Name, p.target)
		case err == nil:
			old.Mode = old.Mode&^modeBits | p.entry.Mode&modeBits
			err = c.put(old, nil)
		case errors.Is(err, fs.ErrNotExist):
			e := c.withoutTime(p.entry, p.target)
			p.closed = e.Mode&0o700 != 0o700
			e.Mode |= 0o700
			err = c.put(e, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func mergeXattrs(old, over map[string]string) map[string]string {
	if len(old) == 0 {
		return over
	}
	out := map[string]string{}
	for k, v := range old {
		out[k] = v
	}
	for k, v := range over {
		out[k] = v
	}
	return out
}
