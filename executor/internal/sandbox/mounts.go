package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// enterRoot makes s.Root the root of this process' mount namespace, with the
// file systems that a container has.
func enterRoot(s spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, step := range []func(spec) error{mountProc, mountSys, mountDev, mountFiles, mountGiven} {
		if err := step(s); err != nil {
			return err
		}
	}
	if s.FreshProc {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", s.Hostname, err)
		}
	}
	if err := os.Chdir(s.Root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	return nil
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func mountProc(s spec) error {
	target := filepath.Join(s.Root, "proc")
	if !s.FreshProc {
		return bind("/proc", target)
	}
	if err := unix.Mount("proc", target, "proc", quiet, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if s.User {
		return nil // root here is nobody to the machine: /proc is harmless
	}
	for _, name := range []string{"bus", "fs", "irq", "sys", "sysrq-trigger"} {
		if err := readOnly(filepath.Join(target, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"} {
		if err := hide(filepath.Join(target, name)); err != nil {
			return err
		}
	}
	return nil
}

func mountSys(s spec) error {
	target := filepath.Join(s.Root, "sys")
	fresh := false
	if s.NoNetwork {
		// What /sys shows of networks is that of whoever mounts it. In a
		// container that hides parts of /sys that is not allowed.
		fresh = unix.Mount("sysfs", target, "sysfs", quiet, "") == nil
	}
	if fresh {
		if _, err := os.Stat("/sys/fs/cgroup"); err == nil {
			if err := bind("/sys/fs/cgroup", filepath.Join(target, "fs/cgroup")); err != nil {
				return err
			}
		}
	} else if err := bind("/sys", target); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &attr)
	if errors.Is(err, unix.ENOSYS) {
		err = readOnly(target)
	}
	if err != nil {
		return fmt.Errorf("make /sys read-only: %w", err)
	}
	return hide(filepath.Join(target, "firmware"))
}

// mountDev makes a /dev of the devices every container has.
func mountDev(s spec) error {
	dev := filepath.Join(s.Root, "dev")
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_STRICTATIME, "mode=755,size=65536k"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		target := filepath.Join(dev, name)
		if err := os.WriteFile(target, nil, 0o666); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
		if err := bind("/dev/"+name, target); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "core": "/proc/kcore", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join(dev, link)); err != nil {
			return fmt.Errorf("make /dev/%s: %w", link, err)
		}
	}
	for _, m := range []struct {
		name, fstype, data string
		flags              uintptr
		optional           bool
	}{
		{"shm", "tmpfs", "mode=1777,size=65536k", quiet, false},
		{"pts", "devpts", "newinstance,ptmxmode=0666,mode=0620", unix.MS_NOSUID | unix.MS_NOEXEC, false},
		{"mqueue", "mqueue", "", quiet, true},
	} {
		target := filepath.Join(dev, m.name)
		if err := os.Mkdir(target, 0o755); err != nil {
			return fmt.Errorf("make /dev/%s: %w", m.name, err)
		}
		err := unix.Mount(m.fstype, target, m.fstype, m.flags, m.data)
		if err != nil && !m.optional {
			return fmt.Errorf("mount /dev/%s: %w", m.name, err)
		}
	}
	return nil
}

// hostsFile is the file that gives this machine its name.
const hostsFile = "/etc/hosts"

// mountFiles binds the executor's own files, read-only.
func mountFiles(s spec) error {
	for _, m := range s.Mounts {
		target := filepath.Join(s.Root, m.Target)
		if m.Source == hostsFile && s.FreshProc {
			if err := mountHosts(target, s); err != nil {
				return err
			}
			continue
		}
		if err := bind(m.Source, target); err != nil {
			return err
		}
		if err := readOnly(target); err != nil {
			return err
		}
	}
	return nil
}

// mountHosts binds the executor's hosts with the host name added, which a
// program may look up. The file is part of the process' /dev and has no name.
func mountHosts(target string, s spec) error {
	content, err := os.ReadFile(hostsFile)
	if err != nil {
		return fmt.Errorf("add the host name to %s: %w", hostsFile, err)
	}
	if len(content) > 0 && content[len(content)-1] != '\n' {
		content = append(content, '\n')
	}
	content = fmt.Appendf(content, "127.0.0.1\t%s\n", s.Hostname)
	path := filepath.Join(s.Root, "dev", "hosts")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return fmt.Errorf("add the host name to %s: %w", hostsFile, err)
	}
	err = bind(path, target)
	if err == nil {
		err = unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID, "")
	}
	if rerr := os.Remove(path); err == nil && rerr != nil {
		err = fmt.Errorf("add the host name to %s: %w", hostsFile, rerr)
	}
	return err
}

func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	return nil
}

// readOnly makes a path read-only; one that does not exist is read-only already.
func readOnly(target string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	if err := unix.Mount(target, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	// Flags that the mount has may not be dropped in a user namespace.
	keep := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|keep, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	return nil
}

// hide puts nothing in the place of a file or directory.
func hide(target string) error {
	fi, err := os.Lstat(target)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && fi.IsDir() {
		err = unix.Mount("tmpfs", target, "tmpfs", unix.MS_RDONLY, "size=0")
	} else if err == nil {
		err = unix.Mount("/dev/null", target, "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("hide %s: %w", target, err)
	}
	return nil
}
