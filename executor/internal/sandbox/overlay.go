package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// OverlayMount says what an overlay mount is made of. All are directories;
// Lower is ordered from the top down. Without Upper and Work it is read-only.
type OverlayMount struct {
	Lower       []string
	Upper, Work string
}

// Mount mounts it at target. Files written go to Upper completely: neither
// redirects nor metadata-only copies are made. Nothing is synced: a build that
// dies starts anew.
func (m OverlayMount) Mount(target string, ns Namespace) error {
	for _, volatile := range []bool{true, false} {
		err := m.mount(target, ns, volatile && m.Upper != "")
		if !errors.Is(err, unix.EINVAL) || !volatile {
			return err
		}
	}
	return nil
}

func (m OverlayMount) options(ns Namespace, volatile bool) [][2]string {
	var opts [][2]string
	if m.Upper != "" {
		opts = append(opts, [2]string{"upperdir", m.Upper}, [2]string{"workdir", m.Work})
	}
	if ns.User {
		opts = append(opts, [2]string{"userxattr", ""})
	} else {
		opts = append(opts, [2]string{"redirect_dir", "off"}, [2]string{"metacopy", "off"}, [2]string{"index", "off"})
	}
	if volatile {
		opts = append(opts, [2]string{"volatile", ""})
	}
	return opts
}

func (m OverlayMount) mount(target string, ns Namespace, volatile bool) error {
	opts := m.options(ns, volatile)
	err := m.mountByFD(target, opts)
	if errors.Is(err, errOldKernel) {
		err = m.mountByString(target, opts)
	}
	if err != nil {
		return fmt.Errorf("mount overlay of %d directories: %w", len(m.Lower), err)
	}
	return nil
}

// errOldKernel says that the kernel has no lowerdir+ option (Linux 6.8).
var errOldKernel = errors.New("the kernel cannot add lower directories one by one")

// mountByFD takes the lower directories one by one, up to the kernel's limit
// of 500, whatever the length of their names.
func (m OverlayMount) mountByFD(target string, opts [][2]string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return errOldKernel
	}
	defer unix.Close(fd)
	for _, dir := range m.Lower {
		if err := unix.FsconfigSetString(fd, "lowerdir+", dir); err != nil {
			if errors.Is(err, unix.EINVAL) {
				return errOldKernel
			}
			return fmt.Errorf("lower directory %s: %w", dir, err)
		}
	}
	for _, o := range opts {
		if o[1] == "" {
			err = unix.FsconfigSetFlag(fd, o[0])
		} else {
			err = unix.FsconfigSetString(fd, o[0], o[1])
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return fmt.Errorf("%w%s", err, hint(err))
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// maxMountData is how long the options of mount(2) may be.
const maxMountData = 4095

func (m OverlayMount) mountByString(target string, opts [][2]string) error {
	parts := []string{"lowerdir=" + strings.Join(m.Lower, ":")}
	for _, o := range opts {
		if o[1] == "" {
			parts = append(parts, o[0])
		} else {
			parts = append(parts, o[0]+"="+o[1])
		}
	}
	data := strings.Join(parts, ",")
	if len(data) > maxMountData {
		return fmt.Errorf("too many layers for this kernel (Linux 6.8 lifts the limit): use a shorter --work-dir or --isolation=inplace")
	}
	if err := unix.Mount("overlay", target, "overlay", 0, data); err != nil {
		return fmt.Errorf("%w%s", err, hint(err))
	}
	return nil
}

func hint(err error) string {
	switch {
	case errors.Is(err, unix.EINVAL):
		return " (the work directory must be on a disk or an emptyDir, not on a container's own overlay: set --work-dir)"
	case errors.Is(err, unix.EPERM):
		return " (the process may not mount)"
	}
	return ""
}

// Unmount detaches what is mounted at target.
func Unmount(target string) error {
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// RunIn runs p in the root filesystem mounted at root, in namespaces of its
// own. files are bound read-only, sources to clean names below the root; the
// files and /proc, /sys and /dev must exist there. It returns an *ExitError if
// the process ends with a status other than 0, and kills it when ctx ends. The
// directory that root is in must be the executor's own. Mount points that p.Mounts
// need and that do not exist are made, and stay.
func (ns Namespace) RunIn(ctx context.Context, root string, files map[string]string, p Process) error {
	s := specOf(p)
	s.Root, s.FreshProc, s.User = root, ns.hasFreshProc(), ns.User
	for source, target := range files {
		s.Mounts = append(s.Mounts, mount{source, target})
	}
	s.Given, s.NoNetwork, s.Hostname = p.Mounts, p.NoNetwork, cmp.Or(p.Hostname, DefaultHostname)
	if slices.ContainsFunc(p.Mounts, func(m Mount) bool { return m.File != nil }) {
		dir, err := os.MkdirTemp(filepath.Dir(root), "memory-*")
		if err != nil {
			return fmt.Errorf("prepare RUN: %w", err)
		}
		defer os.Remove(dir)
		s.Memory = dir
	}
	flags := uintptr(unix.CLONE_NEWNS)
	if p.NoNetwork {
		flags |= unix.CLONE_NEWNET
	}
	if s.FreshProc {
		flags |= unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	}
	return run(ctx, s, p, flags)
}

// ErrNoNetwork is the error of a RUN --network=none in place.
var ErrNoNetwork = errors.New("a RUN cannot be cut off from the network with --isolation=inplace: use --isolation=overlay")

// RunInPlace runs p in this process' own root. Its mounts are the caller's
// business: none can be made here. When it returns, everything
// that the process started has ended.
func RunInPlace(ctx context.Context, p Process) error {
	if p.NoNetwork {
		return ErrNoNetwork
	}
	return run(ctx, specOf(p), p, 0)
}

func specOf(p Process) spec {
	return spec{Args: p.Args, Env: p.Env, Dir: p.Dir, UID: p.UID, GID: p.GID, Groups: p.Groups}
}
