package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
		if found, err = choices(src, plan.Copy{Placing: op.Placing, Paths: op.Paths}, in); err != nil {
			return err
		}
	}
	c, err := newCopier(root, src, true, op.Placing, in)
	if err != nil {
		return err
	}
	c.total = len(found) + len(op.URLs) + len(op.Files)
	for _, s := range found {
		if op.Unpack != nil && !*op.Unpack {
			err = c.copy(ctx, s)
		} else {
			err = c.add(ctx, s)
		}
		if err != nil {
			return err
		}
	}
	for _, u := range op.URLs {
		d := download{url: u, checksum: op.Checksum, unpack: op.Unpack != nil && *op.Unpack}
		if err := c.fetch(ctx, d); err != nil {
			return fmt.Errorf("add %s: %w", u, err)
		}
	}
	for _, r := range op.Repos {
		if err := c.repository(ctx, r, op.Skip); err != nil {
			return fmt.Errorf("add %s: %w", r, err)
		}
	}
	return c.inline(op.Files)
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
	f, err := c.src.Open(s.name)
	if err == nil {
		err = c.unpack(ctx, f)
		_ = f.Close()
	}
	if err != nil {
		return fmt.Errorf("unpack %s to %s: %w", s.name, c.dest, err)
	}
	return nil
}

func (c *copier) unpack(ctx context.Context, archive io.Reader) error {
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
	u := &unpacker{root: c.root, dest: dest, owner: c.changes.owner, in: c.in}
	return u.unpack(ctx, archive)
}

// download is what an ADD of a URL asks for.
type download struct {
	url      string
	checksum string // digest of the content; "" if it may be anything
	unpack   bool   // if it is an archive
}

// fetch downloads a file.
func (c *copier) fetch(ctx context.Context, d download) error {
	if c.in.Fetch == nil {
		return errors.New("nothing can be downloaded here")
	}
	body, info, err := c.in.Fetch(ctx, d.url)
	if err != nil {
		return err
	}
	defer body.Close() // read only
	if d.checksum == "" && !d.unpack {
		return c.downloaded(d.url, body, info)
	}
	f, err := spool(ctx, c.in.Spool, body, d.checksum)
	if err != nil {
		return err
	}
	defer f.Close() // it is gone already
	if d.unpack {
		archive := isArchive(f)
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if archive {
			return c.unpack(ctx, f)
		}
	}
	return c.downloaded(d.url, f, info)
}

// downloaded writes a file that came from a URL.
func (c *copier) downloaded(rawURL string, body io.Reader, info URLInfo) error {
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
	e := c.changes.apply(rootfs.Entry{Mode: 0o600, ModTime: info.ModTime}, target)
	if e.ModTime.IsZero() {
		e.ModTime = time.Unix(0, 0)
	}
	return c.put(e, body)
}

// repository copies the files of a repository into the destination.
func (c *copier) repository(ctx context.Context, r plan.Repo, skip []string) error {
	if c.in.Repo == nil {
		return errors.New("no repository can be fetched here")
	}
	repo, err := c.in.Repo(ctx, r)
	if err != nil {
		return err
	}
	defer repo.Close() //nolint:errcheck // what is left is removed with the work directory
	choose, err := newChooser(skip)
	if err != nil {
		return err
	}
	c.src, c.choose, c.links = repo.Files, choose, map[rootfs.Inode]string{}
	top := rootfs.Entry{Name: ".", Mode: fs.ModeDir | 0o755, ModTime: c.in.now()}
	target, err := c.target(".", true)
	if err != nil {
		return err
	}
	// A destination that is not there is made as a copy of the top directory;
	// otherwise its contents are copied.
	if _, err := c.root.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		return c.copy(ctx, selected{name: ".", base: ".", entry: top, choose: choose})
	}
	if err := c.maker.dirs(rootfs.Parent(target)); err != nil {
		return err
	}
	return c.subdir(ctx, top, place{dir: ".", target: target})
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
