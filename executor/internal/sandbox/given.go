package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Mount is something that a process sees in its root and that is no part of
// it: a file, directory or socket of the executor, a file in memory, or an empty
// file system.
type Mount struct {
	Target   string `json:"target"`   // absolute; links are resolved in the root, what is missing of it is made
	ReadOnly bool   `json:"readOnly"` // the process cannot write to it

	// Source is the path of a file, directory or socket. With Discard, which
	// has the empty directories "u" and "w", what is written to a directory is
	// kept there and Source stays as it is.
	Source  string `json:"source,omitempty"`
	Discard string `json:"discard,omitempty"`

	// File is a file in memory.
	File *MemoryFile `json:"file,omitempty"`

	// Tmpfs is an empty file system in memory of at most Size bytes; 0 is the
	// kernel's default.
	Tmpfs bool  `json:"tmpfs,omitempty"`
	Size  int64 `json:"size,omitempty"`
}

// MemoryFile is a file that is written to no disk.
type MemoryFile struct {
	Content  []byte      `json:"content"`
	Mode     fs.FileMode `json:"mode"`
	UID, GID int
}

// String says what the mount is, never what it holds.
func (m Mount) String() string { return "mount at " + m.Target }

// mountGiven makes the mounts that the process was given, in their order: a
// target may lie in an earlier mount. Nothing of the build runs while it does,
// so what a name is resolved to is there when it is used.
func mountGiven(s spec) error {
	if len(s.Given) == 0 {
		return nil
	}
	root, err := rootfs.OpenDir(s.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := mountMemory(s); err != nil {
		return err
	}
	for i, m := range s.Given {
		if m.File != nil {
			if m.Source, err = writeMemory(s.Memory, i, m.File); err != nil {
				return fmt.Errorf("mount at %s: %w", m.Target, err)
			}
		}
		if err := m.mount(root, s); err != nil {
			return fmt.Errorf("mount at %s: %w", m.Target, err)
		}
		root.Flush()
	}
	return nil
}

// mountMemory makes a file system in memory for the files in memory. The
// process never sees it as a whole, and it ends with the process.
func mountMemory(s spec) error {
	for _, m := range s.Given {
		if m.File == nil {
			continue
		}
		if err := unix.Mount("tmpfs", s.Memory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
			return fmt.Errorf("mount files in memory: %w", err)
		}
		return nil
	}
	return nil
}

// writeMemory makes a file in memory and returns its path.
func writeMemory(dir string, n int, f *MemoryFile) (string, error) {
	path := filepath.Join(dir, fmt.Sprint(n))
	err := os.WriteFile(path, f.Content, 0o600)
	if err == nil {
		err = os.Chown(path, f.UID, f.GID)
	}
	if err == nil {
		err = os.Chmod(path, f.Mode.Perm())
	}
	if err != nil {
		return "", fmt.Errorf("make a file in memory: %w", err)
	}
	return path, nil
}

func (m Mount) mount(root *rootfs.Dir, s spec) error {
	dir := true
	if m.Source != "" {
		fi, err := os.Lstat(m.Source)
		if err != nil {
			return err
		}
		dir = fi.IsDir()
	}
	target, mode, err := place(root, m.Target, dir)
	if err != nil {
		return err
	}
	switch {
	case m.Tmpfs:
		data := fmt.Sprintf("mode=%04o", mode)
		if m.Size > 0 {
			data += fmt.Sprintf(",size=%d", m.Size)
		}
		if err := unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID, data); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
	case m.Discard != "":
		o := OverlayMount{Lower: []string{m.Source}, Upper: filepath.Join(m.Discard, "u"), Work: filepath.Join(m.Discard, "w")}
		if err := o.Mount(target, Namespace{User: s.User}); err != nil {
			return err
		}
	default:
		if err := bind(m.Source, target); err != nil {
			return err
		}
	}
	if !m.ReadOnly {
		return nil
	}
	err = unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) {
		return readOnly(target)
	}
	if err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	return nil
}

// tmpfsMode is the mode of a tmpfs where there was no directory, as with runc.
const tmpfsMode = 0o1777

// place finds, or makes, the file or directory to mount on, and returns its
// path and the permission bits it has, or a new tmpfs on it shall have.
func place(root *rootfs.Dir, target string, dir bool) (path string, mode uint32, err error) {
	name, err := rootfs.Resolve(root, target)
	if err != nil {
		return "", 0, err
	}
	if name == "." {
		return "", 0, errors.New("it is the root directory")
	}
	path, mode = filepath.Join(root.Path(), name), tmpfsMode
	e, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDirs(root, rootfs.Parent(name)); err != nil {
			return "", 0, err
		}
		stub := rootfs.Entry{Name: name, Mode: 0o755}
		if dir {
			stub.Mode |= fs.ModeDir
		}
		return path, mode, root.Put(stub, nil)
	case err != nil:
		return "", 0, err
	case dir && !e.Mode.IsDir():
		return "", 0, errors.New("what is there is not a directory")
	case !dir && e.Mode.IsDir():
		return "", 0, errors.New("what is there is a directory")
	}
	mode = uint32(e.Mode.Perm())
	if e.Mode&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return path, mode, nil
}

// makeDirs makes a directory, given by its resolved name, and those above it.
func makeDirs(root *rootfs.Dir, name string) error {
	e, err := root.Lstat(name)
	switch {
	case err == nil && e.Mode.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("/%s is not a directory", name)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := makeDirs(root, rootfs.Parent(name)); err != nil {
		return err
	}
	return root.Put(rootfs.Entry{Name: name, Mode: fs.ModeDir | 0o755}, nil)
}

// loopback brings up the loopback interface of a new network namespace. Where
// that is not allowed it stays down, and the namespace is a closed one still.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return nil
}
