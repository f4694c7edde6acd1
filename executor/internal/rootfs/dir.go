package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is the FS of a directory on disk. Every access goes through a descriptor
// of that directory, so neither a name nor a symbolic link leads out of it.
//
// A Dir remembers the descriptors of directories it used last. Whoever changes
// the tree by other means, a process of a RUN for one, calls [Dir.Flush]
// afterwards. A Dir may be used by several goroutines as long as they do not
// change the same names.
type Dir struct {
	path    string
	root    int
	openat2 bool

	mu      sync.Mutex
	parents map[string]int // name of a directory to a descriptor of it
	bufs    sync.Pool
}

var _ FS = (*Dir)(nil)

// maxParents bounds the descriptors a Dir keeps.
const maxParents = 64

// OpenDir returns the FS of the directory at path, which must exist. Close
// releases its descriptors.
func OpenDir(path string) (*Dir, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open root", Path: path, Err: err}
	}
	d := &Dir{path: path, root: fd, parents: map[string]int{}}
	d.bufs.New = func() any { b := make([]byte, 128<<10); return &b }
	d.openat2 = probeOpenat2(fd)
	return d, nil
}

// Path is the directory's path as it was opened.
func (d *Dir) Path() string { return d.path }

// Close releases the descriptors. The Dir is of no use afterwards.
func (d *Dir) Close() error {
	d.Flush()
	return unix.Close(d.root)
}

// Flush forgets the directories that were remembered.
func (d *Dir) Flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushLocked()
}

func (d *Dir) flushLocked() {
	for _, fd := range d.parents {
		_ = unix.Close(fd)
	}
	clear(d.parents)
}

// handle is a directory descriptor and the base name within it.
type handle struct {
	fd   int
	base string
	own  bool // fd is this handle's to close
}

func (h handle) close() {
	if h.own {
		_ = unix.Close(h.fd)
	}
}

// at opens the directory that holds name. The handle's descriptor is a
// duplicate so that a Flush by another goroutine does not pull it away.
func (d *Dir) at(op, name string) (handle, error) {
	if name == "." {
		return handle{fd: d.root, base: "."}, nil
	}
	parent := Parent(name)
	base := name
	if parent == "." {
		return handle{fd: d.root, base: base}, nil
	}
	base = name[len(parent)+1:]
	d.mu.Lock()
	defer d.mu.Unlock()
	fd, ok := d.parents[parent]
	if !ok {
		var err error
		if fd, err = d.openDir(parent); err != nil {
			return handle{}, &fs.PathError{Op: op, Path: name, Err: err}
		}
		if len(d.parents) >= maxParents {
			d.flushLocked()
		}
		d.parents[parent] = fd
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return handle{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return handle{fd: dup, base: base, own: true}, nil
}

func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// Lstat implements [FS].
func (d *Dir) Lstat(name string) (Entry, error) {
	h, err := d.at("lstat", name)
	if err != nil {
		return Entry{}, err
	}
	defer h.close()
	e, err := lstatAt(h.fd, h.base)
	if err != nil {
		return Entry{}, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	e.Name = name
	return e, nil
}

func lstatAt(fd int, base string) (Entry, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return Entry{}, err
	}
	e := entryOf(&st)
	if e.Mode&fs.ModeSymlink != 0 {
		link, err := readlinkAt(fd, base, st.Size)
		if err != nil {
			return Entry{}, err
		}
		e.Link = link
	}
	var err error
	e.Xattrs, err = xattrsOf(fdPath(fd, base))
	return e, err
}

func entryOf(st *unix.Stat_t) Entry {
	e := Entry{
		Mode:    fs.FileMode(st.Mode & 0o777),
		UID:     int(st.Uid),
		GID:     int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
		Inode:   Inode{Dev: uint64(st.Dev), Ino: st.Ino}, //nolint:unconvert // Dev is 32 bits on some architectures
		Nlink:   uint64(st.Nlink),                        //nolint:unconvert // Nlink is 32 bits on some architectures
	}
	if st.Mode&unix.S_ISUID != 0 {
		e.Mode |= fs.ModeSetuid
	}
	if st.Mode&unix.S_ISGID != 0 {
		e.Mode |= fs.ModeSetgid
	}
	if st.Mode&unix.S_ISVTX != 0 {
		e.Mode |= fs.ModeSticky
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Mode |= fs.ModeDir
	case unix.S_IFLNK:
		e.Mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		e.Mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		e.Mode |= fs.ModeSocket
	case unix.S_IFCHR:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
		e.Major, e.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)) //nolint:unconvert // Rdev is 32 bits on some architectures
	case unix.S_IFBLK:
		e.Mode |= fs.ModeDevice
		e.Major, e.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)) //nolint:unconvert // Rdev is 32 bits on some architectures
	default:
		e.Size = st.Size
	}
	return e
}

func readlinkAt(fd int, base string, size int64) (string, error) {
	buf := make([]byte, max(size, 255)+1)
	for {
		n, err := unix.Readlinkat(fd, base, buf)
		if err != nil {
			return "", err
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
		buf = make([]byte, 2*len(buf))
	}
}

// Open implements [FS].
func (d *Dir) Open(name string) (io.ReadCloser, error) {
	h, err := d.at("open", name)
	if err != nil {
		return nil, err
	}
	defer h.close()
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	var fd int
	err = retry(func() (err error) { fd, err = unix.Openat(h.fd, h.base, flags, 0); return err })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.Join(err, errNotRegular)}
	}
	return os.NewFile(uintptr(fd), name), nil
}

var errNotRegular = errors.New("not a regular file")

// List implements [FS].
func (d *Dir) List(name string) ([]string, error) {
	h, err := d.at("list", name)
	if err != nil {
		return nil, err
	}
	defer h.close()
	names, err := listAt(h.fd, h.base)
	if err != nil {
		return nil, &fs.PathError{Op: "list", Path: name, Err: err}
	}
	slices.Sort(names)
	return names, nil
}

func listAt(fd int, base string) ([]string, error) {
	var dir int
	err := retry(func() (err error) {
		dir, err = unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dir), base)
	defer f.Close()
	return f.Readdirnames(-1)
}

// Remove implements [FS].
func (d *Dir) Remove(name string) error {
	if name == "." {
		return &fs.PathError{Op: "remove", Path: name, Err: unix.EBUSY}
	}
	h, err := d.at("remove", name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
			return nil
		}
		return err
	}
	defer h.close()
	d.Flush()
	return removeAt(h.fd, h.base, name)
}

func removeAt(fd int, base, name string) error {
	err := unix.Unlinkat(fd, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	names, lerr := listAt(fd, base)
	if lerr != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: errors.Join(err, lerr)}
	}
	dir, oerr := unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if oerr != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: oerr}
	}
	for _, n := range names {
		if err := removeAt(dir, n, Join(name, n)); err != nil {
			_ = unix.Close(dir)
			return err
		}
	}
	_ = unix.Close(dir)
	if err := unix.Unlinkat(fd, base, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

func fdPath(fd int, base string) string {
	if base == "." {
		return fmt.Sprintf("/proc/self/fd/%d/.", fd)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, base)
}

func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// xattrsOf reads the extended attributes of the file at path itself. Those
// that belong to the filesystem's own bookkeeping rather than to the file are
// left out.
func xattrsOf(path string) (map[string]string, error) {
	var small [256]byte
	buf := small[:]
	for {
		n, err := unix.Llistxattr(path, buf)
		switch {
		case errors.Is(err, unix.ERANGE):
			if n, err = unix.Llistxattr(path, nil); err != nil {
				return nil, fmt.Errorf("list extended attributes: %w", err)
			}
			buf = make([]byte, n+256)
			continue
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EOPNOTSUPP):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("list extended attributes: %w", err)
		case n == 0:
			return nil, nil
		}
		var out map[string]string
		for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
			if !keepXattr(name) {
				continue
			}
			v, err := getXattr(path, name)
			if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EPERM) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
			}
			if out == nil {
				out = map[string]string{}
			}
			out[name] = v
		}
		return out, nil
	}
}

// keepXattr tells whether an attribute belongs into an image: not overlayfs'
// own marks, nor labels that the node's security module put there.
func keepXattr(name string) bool {
	return !strings.HasPrefix(name, "trusted.overlay.") &&
		!strings.HasPrefix(name, "user.overlay.") &&
		name != "security.selinux" && name != "security.ima" && name != "security.evm"
}

func getXattr(path, name string) (string, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Lgetxattr(path, name, buf)
		if errors.Is(err, unix.ERANGE) {
			if n, err = unix.Lgetxattr(path, name, nil); err != nil {
				return "", err
			}
			buf = make([]byte, n+64)
			continue
		}
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	}
}
