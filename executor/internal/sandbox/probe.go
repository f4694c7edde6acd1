package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// probeChild tries, inside new namespaces, all that Overlay mode needs, and
// prints a probeResult. Its arguments are the work directory and whether it is
// in a user namespace.
func probeChild(args []string, stdout io.Writer) int {
	var res probeResult
	if len(args) == 3 && args[0] == "proc" {
		return probeProc(args[1])
	}
	if len(args) != 2 {
		return 1
	}
	ns := Namespace{User: args[1] == "user"}
	if err := tryOverlay(args[0], ns, &res); err != nil {
		res.Error = err.Error()
	}
	if err := json.NewEncoder(stdout).Encode(res); err != nil {
		return 1
	}
	return 0
}

func tryOverlay(workDir string, ns Namespace, res *probeResult) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	dir, err := os.MkdirTemp(workDir, "probe-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sub := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"lower", "upper", "work", "merged", "proc"} {
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
	cmd := &exec.Cmd{Path: selfExe, Args: []string{roleProbe, "proc", sub("proc"), ""}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	res.FreshProc = cmd.Run() == nil
	return nil
}

// probeProc tells by its exit status whether /proc can be mounted in a new pid
// namespace.
func probeProc(target string) int {
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil ||
		unix.Mount("proc", target, "proc", quiet, "") != nil {
		return 1
	}
	return 0
}
