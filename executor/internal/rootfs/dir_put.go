package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoDevice is wrapped by Put for a device node that this process may not
// make: in a user namespace nobody may.
var ErrNoDevice = errors.New("device nodes cannot be made here")

// ErrXattr is wrapped by Put for an extended attribute that the filesystem or
// this process' privileges do not allow. Everything else about the file is as
// it should be.
var ErrXattr = errors.New("the extended attribute cannot be set here")

// Put implements [FS].
func (d *Dir) Put(e Entry, content io.Reader) error {
	h, err := d.at("put", e.Name)
	if err != nil {
		return err
	}
	defer h.close()
	if e.Name == "." {
		if !e.Mode.IsDir() {
			return &fs.PathError{Op: "put", Path: e.Name, Err: unix.EISDIR}
		}
		return wrapPut(e.Name, setMeta(h, e))
	}
	switch {
	case e.Hard:
		err = d.putHard(h, e)
	case e.Mode.IsRegular():
		err = d.putRegular(h, e, content)
	case e.Mode.IsDir():
		err = d.putDir(h, e)
	default:
		err = d.create(h, e, func() error { return makeSpecial(h, e) })
		if err == nil {
			err = setMeta(h, e)
		}
	}
	return wrapPut(e.Name, err)
}

func wrapPut(name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: "put", Path: name, Err: err}
}

// create calls mk and, if the name is taken, removes what is there and calls
// it again.
func (d *Dir) create(h handle, e Entry, mk func() error) error {
	err := mk()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	d.Flush()
	if err := removeAt(h.fd, h.base, e.Name); err != nil {
		return err
	}
	return mk()
}

func (d *Dir) putHard(h handle, e Entry) error {
	target, err := d.at("link", e.Link)
	if err != nil {
		return err
	}
	defer target.close()
	var a, b unix.Stat_t
	if err := unix.Fstatat(target.fd, target.base, &a, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("link to %s: %w", e.Link, err)
	}
	err = unix.Fstatat(h.fd, h.base, &b, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && a.Ino == b.Ino && a.Dev == b.Dev {
		return nil
	}
	return d.create(h, e, func() error {
		return unix.Linkat(target.fd, target.base, h.fd, h.base, 0)
	})
}

func (d *Dir) putRegular(h handle, e Entry, content io.Reader) error {
	var fd int
	err := d.create(h, e, func() error {
		return retry(func() (err error) {
			fd, err = unix.Openat(h.fd, h.base,
				unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
			return err
		})
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.Name)
	if content != nil {
		buf, _ := d.bufs.Get().(*[]byte)
		_, err = io.CopyBuffer(onlyWriter{f}, content, *buf)
		d.bufs.Put(buf)
	}
	if err == nil {
		err = setFileMeta(fd, e)
	}
	return errors.Join(err, f.Close())
}

// onlyWriter hides ReadFrom, which would not use the buffer.
type onlyWriter struct{ io.Writer }

func setFileMeta(fd int, e Entry) error {
	if err := unix.Fchown(fd, e.UID, e.GID); err != nil {
		return chownError(e, err)
	}
	if err := unix.Fchmod(fd, unixMode(e.Mode)); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	xerr := setXattrs(e, func(name string, v []byte) error { return unix.Fsetxattr(fd, name, v, 0) })
	if e.ModTime.IsZero() {
		return xerr
	}
	ts := timespecs(e.ModTime)
	if err := unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH); err != nil {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), ts, 0); err != nil {
			return fmt.Errorf("set times: %w", err)
		}
	}
	return xerr
}

// setXattrs sets every attribute that can be set and returns an ErrXattr for
// those that cannot.
func setXattrs(e Entry, set func(name string, v []byte) error) error {
	var errs []error
	for name, v := range e.Xattrs {
		err := set(name, []byte(v))
		switch {
		case err == nil:
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EINVAL):
			errs = append(errs, fmt.Errorf("%s: %w: %w", name, ErrXattr, err))
		default:
			return fmt.Errorf("set extended attribute %s: %w", name, err)
		}
	}
	return errors.Join(errs...)
}

func (d *Dir) putDir(h handle, e Entry) error {
	err := unix.Mkdirat(h.fd, h.base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(h.fd, h.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = d.create(h, e, func() error { return unix.Mkdirat(h.fd, h.base, 0o700) })
		} else {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	return setMeta(h, e)
}

func makeSpecial(h handle, e Entry) error {
	switch {
	case e.Mode&fs.ModeSymlink != 0:
		return unix.Symlinkat(e.Link, h.fd, h.base)
	case e.Mode&fs.ModeNamedPipe != 0:
		return unix.Mknodat(h.fd, h.base, unix.S_IFIFO|0o600, 0)
	case e.Mode&fs.ModeSocket != 0:
		return unix.Mknodat(h.fd, h.base, unix.S_IFSOCK|0o600, 0)
	case e.Mode&fs.ModeDevice != 0:
		kind := uint32(unix.S_IFBLK)
		if e.Mode&fs.ModeCharDevice != 0 {
			kind = unix.S_IFCHR
		}
		err := unix.Mknodat(h.fd, h.base, kind|0o600, int(unix.Mkdev(e.Major, e.Minor)))
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%w: %w", ErrNoDevice, err)
		}
		return err
	}
	return fmt.Errorf("files of mode %v cannot be made", e.Mode)
}

// setMeta gives a file that is not a regular one its owner, mode, attributes
// and times, in the order in which none undoes another.
func setMeta(h handle, e Entry) error {
	if err := unix.Fchownat(h.fd, h.base, e.UID, e.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return chownError(e, err)
	}
	if e.Mode&fs.ModeSymlink == 0 {
		if err := unix.Fchmodat(h.fd, h.base, unixMode(e.Mode), 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	xerr := setXattrs(e, func(name string, v []byte) error {
		return unix.Lsetxattr(fdPath(h.fd, h.base), name, v, 0)
	})
	if e.ModTime.IsZero() {
		return xerr
	}
	if err := unix.UtimesNanoAt(h.fd, h.base, timespecs(e.ModTime), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return xerr
}

// chownError explains the refusal that people meet most: an owner outside the
// ids that the user namespace maps.
func chownError(e Entry, err error) error {
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("chown to %d:%d: %w", e.UID, e.GID, err)
	}
	if ids, rerr := os.ReadFile("/proc/self/uid_map"); rerr == nil && len(bytes.Fields(ids)) >= 3 && !bytes.Contains(ids, []byte("4294967295")) {
		return fmt.Errorf("chown to %d:%d: %w; this user namespace maps too few ids: install newuidmap (package uidmap) and give the user a range in /etc/subuid and /etc/subgid", e.UID, e.GID, err)
	}
	return fmt.Errorf("chown to %d:%d: %w; the process needs CAP_CHOWN", e.UID, e.GID, err)
}

func timespecs(t time.Time) []unix.Timespec {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		ts = unix.Timespec{}
	}
	return []unix.Timespec{ts, ts}
}

func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		u |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		u |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		u |= unix.S_ISVTX
	}
	return u
}
