package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// doCopy carries out a COPY.
func doCopy(ctx context.Context, root rootfs.FS, op plan.Copy, in Inputs) error {
	var src rootfs.FS
	var found []selected
	var err error
	if op.From.IsFiles() {
		in.From = nil
	}
	if len(op.Paths) > 0 {
		if src, err = sourceOf(op.From, in); err != nil {
			return err
		}
		if found, err = choices(src, op, in); err != nil {
			return err
		}
	}
	c, err := newCopier(root, src, op.From.IsFiles(), op.Placing, in)
	if err != nil {
		return err
	}
	c.total = len(found) + len(op.Files)
	for _, s := range found {
		if err := c.copy(ctx, s); err != nil {
			return err
		}
	}
	return c.inline(op.Files)
}

// inline writes the files that the Dockerfile holds.
func (c *copier) inline(files []plan.File) error {
	for _, f := range files {
		target, err := c.target(f.Name, false)
		if err != nil {
			return err
		}
		if err := c.refuseDir(f.Name, target); err != nil {
			return err
		}
		e := rootfs.Entry{Mode: 0o644, Size: int64(len(f.Content)), ModTime: c.in.now()}
		if err := c.put(c.changes.apply(e, target), strings.NewReader(f.Content)); err != nil {
			return err
		}
	}
	return nil
}

// sourceOf is the filesystem that a COPY reads.
func sourceOf(from plan.Source, in Inputs) (rootfs.FS, error) {
	switch {
	case !from.IsFiles() && in.From == nil:
		return nil, fmt.Errorf("the filesystem of %s is not at hand", from)
	case !from.IsFiles():
		return in.From, nil
	case in.Context == nil:
		return nil, errors.New("the build has no context to copy from")
	}
	return Filter(in.Context, in.Ignore), nil
}

// changes is what a copy changes about the metadata of a file.
type changes struct {
	owner   *Owner     // who it goes to; nil keeps the owner
	mode    *plan.Mode // what becomes of permission, setuid, setgid and sticky bits; nil keeps them
	dropIDs bool       // the source's owners mean nothing here: they become 0:0
}

func newChanges(root rootfs.FS, fromContext bool, chown, chmod string) (changes, error) {
	ch := changes{dropIDs: fromContext}
	if chown != "" {
		o, err := LookupOwner(root, chown)
		if err != nil {
			return ch, err
		}
		ch.owner = &o
	}
	var err error
	ch.mode, err = parseMode(chmod)
	return ch, err
}

// parseMode reads the value of --chmod; "" is nil.
func parseMode(s string) (*plan.Mode, error) {
	if s == "" {
		return nil, nil
	}
	m, err := plan.ParseMode(s)
	return &m, err
}

// modeBits are the bits of a mode that chmod sets.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// apply returns the entry as the copy will have it under a new name. A socket
// becomes an empty file.
func (ch changes) apply(e rootfs.Entry, name string) rootfs.Entry {
	e.Name, e.Inode, e.Nlink = name, rootfs.Inode{}, 0
	if e.Mode&fs.ModeSocket != 0 {
		e.Mode, e.Size = e.Mode&modeBits, 0
	}
	switch {
	case ch.owner != nil:
		e.UID, e.GID = ch.owner.UID, ch.owner.GID
	case ch.dropIDs:
		e.UID, e.GID = 0, 0
	}
	if ch.mode != nil && e.Mode&fs.ModeSymlink == 0 {
		e.Mode = ch.mode.Apply(e.Mode)
	}
	return e
}

// copier copies what one instruction names to its destination.
type copier struct {
	root, src rootfs.FS
	in        Inputs
	changes   changes
	dest      string // absolute, as in the plan
	maker     *maker
	total     int                     // how much is copied to dest
	links     map[rootfs.Inode]string // copies made of files with several names, within one source
	choose    chooser                 // of the source
	above     []*passed               // directories that lead to where the copier is and are not copied themselves
}

func newCopier(root, src rootfs.FS, fromContext bool, p plan.Placing, in Inputs) (*copier, error) {
	if p.Link {
		root = newLinked(root, in.Wrote)
	}
	ch, err := newChanges(root, fromContext, p.Chown, p.Chmod)
	if err != nil {
		return nil, err
	}
	c := &copier{root: root, src: src, in: in, changes: ch, dest: p.Dest, maker: &maker{root: root, in: in, mode: 0o755}}
	// The owner and the mode in numbers are also those of missing directories.
	if ch.owner != nil {
		c.maker.uid, c.maker.gid = ch.owner.UID, ch.owner.GID
	}
	if ch.mode != nil && ch.mode.Octal != nil {
		c.maker.mode = *ch.mode.Octal & fs.ModePerm
	}
	return c, nil
}

// copy copies one source. The contents of a directory go into the destination
// directory, a file into it or in its place.
func (c *copier) copy(ctx context.Context, s selected) error {
	c.links, c.choose = map[rootfs.Inode]string{}, s.choose
	target, err := c.target(s.base, s.entry.Mode.IsDir())
	if err != nil {
		return err
	}
	if !s.entry.Mode.IsDir() {
		return c.file(ctx, s.entry, target, false)
	}
	if err := c.maker.dirs(target); err != nil {
		return fmt.Errorf("copy /%s to /%s: %w", s.name, target, err)
	}
	return c.contents(ctx, s.entry, target)
}

// target makes the directory that will hold the copy and returns the name of
// the copy, links resolved.
func (c *copier) target(base string, isDir bool) (string, error) {
	dir := c.dest[:strings.LastIndexByte(c.dest, '/')+1]
	if err := c.maker.dirs(dir); err != nil {
		return "", fmt.Errorf("make destination %s: %w", dir, err)
	}
	target, err := rootfs.Resolve(c.root, c.dest)
	if err != nil {
		return "", fmt.Errorf("resolve destination %s: %w", c.dest, err)
	}
	e, err := c.root.Lstat(target)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("resolve destination %s: %w", c.dest, err)
	case isDir:
		return target, nil
	case err == nil && e.Mode.IsDir():
		return rootfs.Join(target, base), nil
	case c.total > 1:
		return "", fmt.Errorf("%d files and directories are copied to %s, which is not a directory: end it with a slash", c.total, c.dest)
	}
	// The destination may be a link into a directory that is not there.
	return target, c.maker.dirs(rootfs.Parent(target))
}

// file copies anything but a directory. Names of one file stay names of one
// file.
func (c *copier) file(ctx context.Context, e rootfs.Entry, target string, fresh bool) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if !fresh {
		if err := c.refuseDir(e.Name, target); err != nil {
			return err
		}
	}
	made := c.changes.apply(e, target)
	if !e.Mode.IsRegular() {
		return c.put(made, strings.NewReader(""))
	}
	if e.Nlink > 1 && e.Inode != (rootfs.Inode{}) {
		if first, ok := c.links[e.Inode]; ok {
			return c.put(rootfs.Entry{Name: target, Hard: true, Link: first}, nil)
		}
		c.links[e.Inode] = target
	}
	r, err := c.src.Open(e.Name)
	if err != nil {
		return fmt.Errorf("copy /%s: %w", e.Name, err)
	}
	defer r.Close() // read only
	return c.put(made, r)
}

// refuseDir is an error if target is a directory, which no file replaces.
func (c *copier) refuseDir(source, target string) error {
	old, err := c.root.Lstat(target)
	if err == nil && old.Mode.IsDir() {
		return fmt.Errorf("cannot copy %s to /%s, which is a directory", source, target)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (c *copier) put(e rootfs.Entry, content io.Reader) error {
	if err := put(c.root, c.in, e, content); err != nil {
		return fmt.Errorf("write to the image: %w", err)
	}
	return nil
}
