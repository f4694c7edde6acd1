package step

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"time"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// doAdd carries out an ADD: it copies, and unpacks named files that are
// archives, then fetches.
func doAdd(ctx context.Context, root rootfs.FS, op plan.Add, in Inputs) error {
	in.From = nil
	var src rootfs.FS
	var found []selected
	var err error
	if len(op.Paths) > 0 {
		if src, err = sourceOf(plan.Source{}, in); err != nil {
			return err
		}
		if found, err = selectAll(src, op.Paths, in); err != nil {
			return err
		}
	}
	c, err := newCopier(root, src, true, op.Dest, op.Chown, op.Chmod, in)
	if err != nil {
		return err
	}
	c.total = len(found) + len(op.URLs)
	for _, s := range found {
		if err := c.add(ctx, s); err != nil {
			return err
		}
	}
	for _, u := range op.URLs {
		if err := c.fetch(ctx, u); err != nil {
			return fmt.Errorf("add %s: %w", u, err)
		}
	}
	return nil
}

// add copies one source, or unpacks it if it is an archive.
func (c *copier) add(ctx context.Context, s selected) error {
	if !s.entry.Mode.IsRegular() {
		return c.copy(ctx, s)
	}
	archive, err := IsArchive(c.src, s.name)
	if err != nil {
		return fmt.Errorf("add %s: %w", s.name, err)
	}
	if !archive {
		return c.copy(ctx, s)
	}
	if err := c.unpack(ctx, s.name); err != nil {
		return fmt.Errorf("unpack %s to %s: %w", s.name, c.dest, err)
	}
	return nil
}

func (c *copier) unpack(ctx context.Context, name string) error {
	// Only the owner asked for is also that of the destination, not the mode.
	m := *c.maker
	m.mode = 0o755
	if err := m.dirs(c.dest); err != nil {
		return err
	}
	dest, err := rootfs.Resolve(c.root, c.dest)
	if err != nil {
		return err
	}
	f, err := c.src.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	u := &unpacker{root: c.root, dest: dest, owner: c.changes.owner, in: c.in}
	return u.unpack(ctx, f)
}

// fetch downloads a file.
func (c *copier) fetch(ctx context.Context, rawURL string) error {
	if c.in.Fetch == nil {
		return errors.New("nothing can be downloaded here")
	}
	name := URLName(rawURL)
	target, err := c.target(name, false)
	if err != nil {
		return err
	}
	if err := c.refuseDir(rawURL, target); err != nil {
		if name == "" {
			return fmt.Errorf("the URL names no file and %s is a directory: end it with a name", c.dest)
		}
		return err
	}
	body, info, err := c.in.Fetch(ctx, rawURL)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // read only
	e := c.changes.apply(rootfs.Entry{Mode: 0o600, ModTime: info.ModTime}, target)
	if e.ModTime.IsZero() {
		e.ModTime = time.Unix(0, 0)
	}
	return c.put(e, body)
}

// URLName is the name that a download has in a directory: the last component
// of the URL's path, "" if it has none.
func URLName(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	if base := path.Base(u.Path); base != "." && base != "/" && base != ".." {
		return base
	}
	return ""
}
