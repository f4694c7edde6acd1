package step

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"
	"time"

	"github.com/kilnhook/kiln/executor/internal/decompress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// unpacker puts the files of an archive below dest. Links are resolved as a
// process chrooted to dest would, so nothing lands outside of it.
type unpacker struct {
	root  rootfs.FS
	dest  string // a directory, links resolved
	owner *Owner // who everything goes to; nil keeps what the archive says
	in    Inputs

	parent, at string    // the directory of the last entry: as named, and where it is
	dirs       []dirMeta // directories that get their times and modes once all is in them
}

type dirMeta struct {
	name    string
	mode    fs.FileMode
	modTime time.Time
}

// unpack reads the archive, compressed or not.
func (u *unpacker) unpack(ctx context.Context, archive io.Reader) error {
	r, _, err := decompress.New(ctxReader{ctx, archive})
	if err != nil {
		return err
	}
	defer r.Close() // read only
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return u.finish()
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// ctxReader stops a long read once ctx is done.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // io.Reader has no room for it
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// entry puts one file. The archive's own root leaves the destination as it is.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := rootfs.Clean(h.Name)
	if name == "." || h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parent, err := u.parentOf(name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return fmt.Errorf("invalid owner %d:%d", h.Uid, h.Gid)
	}
	e := rootfs.Entry{
		Name: rootfs.Join(parent, name[strings.LastIndexByte(name, '/')+1:]),
		Mode: h.FileInfo().Mode() & modeBits, UID: h.Uid, GID: h.Gid, ModTime: bounded(h.ModTime), Xattrs: xattrs(h),
	}
	if u.owner != nil {
		e.UID, e.GID = u.owner.UID, u.owner.GID
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Size = h.Size
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
		return u.dir(e)
	case tar.TypeLink:
		if e, err = u.hardLink(e.Name, h.Linkname); err != nil {
			return err
		}
	case tar.TypeSymlink:
		e.Mode |= fs.ModeSymlink
		e.Link = h.Linkname
	case tar.TypeChar:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
		e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor) //nolint:gosec // the kernel's numbers fit
	case tar.TypeBlock:
		e.Mode |= fs.ModeDevice
		e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor) //nolint:gosec // the kernel's numbers fit
	case tar.TypeFifo:
		e.Mode |= fs.ModeNamedPipe
	default:
		return fmt.Errorf("entries of type %q cannot be unpacked", string(h.Typeflag))
	}
	err = put(u.root, u.in, e, content)
	if errors.Is(err, rootfs.ErrNoDevice) {
		u.in.note("%s is left out: %v", h.Name, err)
		return nil
	}
	return err
}

// parentOf makes the directory that name lies in if the archive does not name
// it, and returns where it is.
func (u *unpacker) parentOf(name string) (string, error) {
	parent := rootfs.Parent(name)
	if parent == u.parent {
		return u.at, nil
	}
	at, err := rootfs.Resolve(chroot{u.root, u.dest}, parent)
	if err != nil {
		return "", err
	}
	at = rootfs.Join(u.dest, at)
	if err := (&maker{root: u.root, in: u.in, mode: 0o755}).dir(at); err != nil {
		return "", err
	}
	u.parent, u.at = parent, at
	return at, nil
}

// chroot is the part of a filesystem below a directory, for resolving names.
type chroot struct {
	rootfs.FS
	dir string
}

// Lstat describes a name whose parents are no links.
func (c chroot) Lstat(name string) (rootfs.Entry, error) { return c.FS.Lstat(rootfs.Join(c.dir, name)) }

func (u *unpacker) dir(e rootfs.Entry) error {
	old, err := u.root.Lstat(e.Name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && old.Mode.IsDir() {
		e.Xattrs = mergeXattrs(old.Xattrs, e.Xattrs)
	}
	u.dirs = append(u.dirs, dirMeta{e.Name, e.Mode, e.ModTime})
	e.Mode |= 0o700
	return put(u.root, u.in, e, nil)
}

// hardLink is the entry that gives a file of the archive another name.
func (u *unpacker) hardLink(name, linkname string) (rootfs.Entry, error) {
	target, err := rootfs.ResolveParent(chroot{u.root, u.dest}, linkname)
	if err != nil {
		return rootfs.Entry{}, err
	}
	target = rootfs.Join(u.dest, target)
	e, err := u.root.Lstat(target)
	if err == nil && e.Mode.IsDir() {
		err = errors.New("it is a directory")
	}
	if err != nil {
		return rootfs.Entry{}, fmt.Errorf("hard link to %s: %w", linkname, err)
	}
	return rootfs.Entry{Name: name, Hard: true, Link: target}, nil
}

// finish gives directories the times and modes that filling them would have
// changed or stood against.
func (u *unpacker) finish() error {
	for _, d := range u.dirs {
		// A later entry may have taken its place, or that of a directory
		// above it with a link to who knows where.
		if where, err := rootfs.Resolve(u.root, d.name); err != nil || where != d.name {
			continue
		}
		e, err := u.root.Lstat(d.name)
		if err != nil || !e.Mode.IsDir() {
			continue
		}
		e.Mode, e.ModTime = d.mode, d.modTime
		if err := put(u.root, u.in, e, nil); err != nil {
			return err
		}
	}
	return nil
}

// bounded is a time of an archive, or 1970 for one that a filesystem cannot
// hold.
func bounded(t time.Time) time.Time {
	const last = math.MaxInt64 / int64(time.Second) // nanoseconds must fit as well
	if t.Unix() < 0 || t.Unix() >= last {
		return time.Unix(0, 0)
	}
	return t
}

// xattrs are the extended attributes of an entry.
func xattrs(h *tar.Header) map[string]string {
	var out map[string]string
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && name != "" {
			if out == nil {
				out = map[string]string{}
			}
			out[name] = v
		}
	}
	return out
}
