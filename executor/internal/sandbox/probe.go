package sandbox

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// probeChild tries, inside new namespaces, all that Overlay mode needs, and
// prints why it does not work. Its arguments are the work directory and whether it is
// in a user namespace.
func probeChild(args []string, stdout io.Writer) int {
	if len(args) == 1 && args[0] == "proc" {
		return probeProc()
	}
	if len(args) != 2 {
		return 1
	}
	if err := tryOverlay(args[0], Namespace{User: args[1] == "user"}); err != nil {
		fmt.Fprint(stdout, err)
	}
	return 0
}

func tryOverlay(workDir string, ns Namespace) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	dir, err := os.MkdirTemp(workDir, "probe-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sub := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(sub(name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(sub("lower/file"), []byte("x"), 0o644); err != nil {
		return err
	}
	m := OverlayMount{Lower: []string{sub("lower")}, Upper: sub("upper"), Work: sub("work")}
	if err := m.Mount(sub("merged"), ns); err != nil {
		return err
	}
	defer func() { _ = Unmount(sub("merged")) }()
	if err := os.Remove(sub("merged/file")); err != nil {
		return fmt.Errorf("delete a file of a lower layer: %w", err)
	}
	if err := os.WriteFile(sub("merged/owned"), nil, 0o644); err != nil {
		return err
	}
	if err := os.Lchown(sub("merged/owned"), 1, 1); err != nil {
		return fmt.Errorf("give a file to another user: %w", err)
	}
	return nil
}

// canHaveProc finds out whether a RUN of this process may have its own pid namespace
// and a /proc of it.
func canHaveProc() bool {
	cmd := command(roleProbe, "proc")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	return cmd.Run() == nil
}

// probeProc tells by its exit status whether /proc can be mounted in a new pid
// namespace.
func probeProc() int {
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil ||
		unix.Mount("proc", "/proc", "proc", quiet, "") != nil {
		return 1
	}
	return 0
}
