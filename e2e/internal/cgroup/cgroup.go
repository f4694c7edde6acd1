// Package cgroup puts the processes of a test or a measurement into a control
// group of their own, of version 1 or 2, whichever has the memory of this
// machine, and says what they used together.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// mountPoint is where systems mount control groups.
const mountPoint = "/sys/fs/cgroup"

// killTime is how long the processes of a group may take to end once killed.
const killTime = 10 * time.Second

// ErrUnavailable says that no groups with processor time and memory can be made.
var ErrUnavailable = errors.New("control groups for memory and processor time cannot be made here")

// Group is a control group. Its files are those of cgroups(7).
type Group struct {
	name        string
	unified     bool   // version 2
	cpu, memory string // directories, the same one in version 2
}

// New makes a group below the root of the hierarchies, for which it needs root
// and a file system of control groups that may be written. Remove removes it.
// The name must be new.
func New(name string) (*Group, error) {
	g := &Group{name: name}
	if _, err := os.Stat(filepath.Join(mountPoint, "cgroup.controllers")); err == nil {
		g.unified = true
		g.cpu = filepath.Join(mountPoint, name)
		g.memory = g.cpu
		control := filepath.Join(mountPoint, "cgroup.subtree_control")
		if err := os.WriteFile(control, []byte("+cpu +memory"), 0); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	} else {
		g.cpu = filepath.Join(mountPoint, "cpuacct", name)
		g.memory = filepath.Join(mountPoint, "memory", name)
	}
	for _, dir := range g.dirs() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnavailable, err), g.Remove())
		}
	}
	return g, nil
}

func (g *Group) dirs() []string {
	if g.unified {
		return []string{g.cpu}
	}
	return []string{g.cpu, g.memory}
}

// Path is the group as a container runtime names it: what it makes below is
// part of the group.
func (g *Group) Path() string { return "/" + g.name }

// Command returns the arguments that run a command in the group: a shell joins
// it and becomes the command.
func (g *Group) Command(args ...string) []string {
	var join strings.Builder
	for _, dir := range g.dirs() {
		fmt.Fprintf(&join, "echo 0 > %s/cgroup.procs; ", dir)
	}
	return append([]string{"/bin/sh", "-ec", join.String() + `exec "$@"`, "sh"}, args...)
}

// CPU is the processor time that all processes of the group used so far, those
// that have ended included: user and system together.
func (g *Group) CPU() (time.Duration, error) {
	if !g.unified {
		n, err := readNumber(filepath.Join(g.cpu, "cpuacct.usage"))
		return time.Duration(n), err
	}
	raw, err := os.ReadFile(filepath.Join(g.cpu, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s/cpu.stat has no usage_usec", g.cpu)
}

// MemoryPeak is the most memory that the group held at once, in bytes: that of
// its processes, the page cache of the files they read and wrote, files on a
// tmpfs, and what the kernel keeps for them.
func (g *Group) MemoryPeak() (int64, error) {
	if g.unified {
		return readNumber(filepath.Join(g.memory, "memory.peak"))
	}
	return readNumber(filepath.Join(g.memory, "memory.max_usage_in_bytes"))
}

// LimitMemory lets the group have no more memory than so many bytes, and no swap.
// Whoever needs more is killed.
func (g *Group) LimitMemory(bytes int64) error {
	if g.unified {
		return errors.Join(g.write("memory.max", bytes), ignoreMissing(g.write("memory.swap.max", 0)))
	}
	return errors.Join(g.write("memory.limit_in_bytes", bytes), ignoreMissing(g.write("memory.memsw.limit_in_bytes", bytes)))
}

// OOMKills says how often the kernel killed a process of the group for want of memory.
func (g *Group) OOMKills() (int64, error) {
	file := "memory.oom_control"
	if g.unified {
		file = "memory.events"
	}
	raw, err := os.ReadFile(filepath.Join(g.memory, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s/%s has no oom_kill", g.memory, file)
}

func (g *Group) write(file string, n int64) error {
	f, err := os.OpenFile(filepath.Join(g.memory, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(f, n)
	return errors.Join(err, f.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Processes are the processes of the group and of those below.
func (g *Group) Processes() ([]int, error) { return processes(g.memory) }

func processes(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return ignoreMissing(err) // a runtime removed its group meanwhile
		}
		if !d.IsDir() {
			return nil
		}
		raw, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil && !errors.Is(err, syscall.ENODEV) {
			return ignoreMissing(err)
		}
		for _, field := range strings.Fields(string(raw)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}

// Remove kills what still runs in the group and removes it, with what container
// runtimes made below it in any hierarchy.
func (g *Group) Remove() error {
	dirs, err := filepath.Glob(filepath.Join(mountPoint, "*", g.name))
	if err != nil {
		return err
	}
	if g.unified {
		dirs = append(dirs, g.cpu)
	}
	var errs []error
	for _, dir := range dirs {
		if err := remove(dir); err != nil {
			errs = append(errs, fmt.Errorf("remove control group: %w", err))
		}
	}
	return errors.Join(errs...)
}

// remove tries until nothing is left: a killed process stays in its group until
// it is gone.
func remove(dir string) error {
	var err error
	for deadline := time.Now().Add(killTime); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var pids []int
		if pids, err = processes(dir); err != nil {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if err = removeTree(dir); err == nil {
			return nil
		}
	}
	return err
}

func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return ignoreMissing(err)
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := ignoreMissing(os.Remove(d)); err != nil {
			return err
		}
	}
	return nil
}

func readNumber(path string) (int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}
