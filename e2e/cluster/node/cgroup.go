package node

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// controllers are the cgroup version 1 hierarchies that a kubelet wants.
func controllers() []string {
	return []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"}
}

// hasUnified reports whether the machine's controllers are those of cgroup
// version 2.
func hasUnified() bool {
	raw, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return err == nil && slices.Contains(strings.Fields(string(raw)), "memory")
}

// CgroupRoot is the cgroup below which the pods of a node have theirs, as the node sees
// it. Nodes that run at once have the same hierarchies: what one finds below its own
// root and does not know, it removes. With cgroup version 2 they share one still.
func (c Config) CgroupRoot() string {
	if c.Unified || c.Link == "" {
		return "/"
	}
	return "/" + c.Link
}

// podCgroups are the directories that hold the cgroups of a node's pods, as the host
// sees them.
func podCgroups(cfg Config, pid int) []string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	subs := []string{cfg.CgroupRoot()}
	if cfg.CgroupRoot() == "/" {
		subs = []string{"kubepods", "k8s.io"}
	}
	var dirs []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		_, rest, _ := strings.Cut(lines.Text(), ":")
		names, path, _ := strings.Cut(rest, ":")
		for name := range strings.SplitSeq(names, ",") {
			root := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(name, "name="), path)
			for _, sub := range subs {
				dirs = append(dirs, filepath.Join(root, sub))
			}
		}
	}
	return dirs
}

// removeCgroup removes a directory of cgroups whose processes have ended, or are
// about to.
func removeCgroup(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroups: %w", err)
	}
	slices.Reverse(dirs)
	deadline := time.Now().Add(emptyTimeout)
	for _, dir := range dirs {
		err := os.Remove(dir)
		for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
			err = os.Remove(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// emptyTimeout is how long the kernel may take to end the processes of a cgroup,
// after the first one of their namespace was killed.
const emptyTimeout = 20 * time.Second
