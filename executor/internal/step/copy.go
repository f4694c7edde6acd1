package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// doCopy carries out a COPY.
func doCopy(ctx context.Context, root rootfs.FS, op plan.Copy, in Inputs) error {
	src, err := sourceOf(op.From, in)
	if err != nil {
		return err
	}
	if op.From.IsContext() {
		in.From = nil
	}
	found, err := selectAll(src, op.Paths, in)
	if err != nil {
		return err
	}
	c, err := newCopier(root, src, op.From.IsContext(), op.Dest, op.Chown, op.Chmod, in)
	if err != nil {
		return err
	}
	c.total = len(found)
	for _, s := range found {
		if err := c.copy(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// sourceOf is the filesystem that a COPY reads.
func sourceOf(from plan.Source, in Inputs) (rootfs.FS, error) {
	switch {
	case !from.IsContext() && in.From == nil:
		return nil, fmt.Errorf("the filesystem of %s is not at hand", from)
	case !from.IsContext():
		return in.From, nil
	case in.Context == nil:
		return nil, errors.New("the build has no context to copy from")
	}
	return Filter(in.Context, in.Ignore), nil
}

// changes is what a copy changes about the metadata of a file.
type changes struct {
	owner   *Owner       // who it goes to; nil keeps the owner
	mode    *fs.FileMode // permission, setuid, setgid and sticky bits; nil keeps them
	dropIDs bool         // the source's owners mean nothing here: they become 0:0
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

// parseMode reads an octal mode; "" is nil.
func parseMode(s string) (*fs.FileMode, error) {
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return nil, fmt.Errorf("invalid mode %q: it must be octal, from 0 to 07777", s)
	}
	m := fs.FileMode(n & 0o777)
	for bit, mode := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n&bit != 0 {
			m |= mode
		}
	}
	return &m, nil
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
		e.Mode = e.Mode&^modeBits | *ch.mode
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
}

func newCopier(root, src rootfs.FS, fromContext bool, dest, chown, chmod string, in Inputs) (*copier, error) {
	ch, err := newChanges(root, fromContext, chown, chmod)
	if err != nil {
		return nil, err
	}
	c := &copier{root: root, src: src, in: in, changes: ch, dest: dest, maker: &maker{root: root, in: in, mode: 0o755}}
	// The owner and the mode asked for are also those of missing directories.
	if ch.owner != nil {
		c.maker.uid, c.maker.gid = ch.owner.UID, ch.owner.GID
	}
	if ch.mode != nil {
		c.maker.mode = *ch.mode & fs.ModePerm
	}
	return c, nil
}

// copy copies one source. The contents of a directory go into the destination
// directory, a file into it or in its place.
func (c *copier) copy(ctx context.Context, s selected) error {
	c.links = map[rootfs.Inode]string{}
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

// contents copies what is in a directory into one that exists, whose owner and
// mode stay as they are.
func (c *copier) contents(ctx context.Context, dir rootfs.Entry, target string) error {
	if err := c.children(ctx, dir.Name, target, false); err != nil {
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

func (c *copier) children(ctx context.Context, dir, target string, fresh bool) error {
	names, err := c.src.List(dir)
	if err != nil {
		return fmt.Errorf("list /%s: %w", dir, err)
	}
	for _, n := range names {
		e, err := c.src.Lstat(rootfs.Join(dir, n))
		if err != nil {
			return fmt.Errorf("copy /%s: %w", rootfs.Join(dir, n), err)
		}
		to := rootfs.Join(target, n)
		if e.Mode.IsDir() {
			err = c.subdir(ctx, e, to, fresh)
		} else {
			err = c.file(ctx, e, to, fresh)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// subdir copies a directory below the one that was named. An existing one is
// given the source's owner and mode. fresh says that the parent was just made
// and so holds nothing.
func (c *copier) subdir(ctx context.Context, e rootfs.Entry, target string, fresh bool) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	made := c.changes.apply(e, target)
	if !fresh {
		old, err := c.root.Lstat(target)
		switch {
		case err == nil && !old.Mode.IsDir():
			return fmt.Errorf("cannot copy directory /%s to /%s, which is not a directory", e.Name, target)
		case err == nil:
			made.Xattrs = mergeXattrs(old.Xattrs, made.Xattrs)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		default:
			fresh = true
		}
	}
	if fresh {
		// Open to the process that fills it until that is done.
		open := made
		open.Mode |= 0o700
		if err := c.put(open, nil); err != nil {
			return err
		}
	}
	if err := c.children(ctx, e.Name, target, fresh); err != nil {
		return err
	}
	return c.put(made, nil)
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
	defer r.Close() //nolint:errcheck // read only
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
