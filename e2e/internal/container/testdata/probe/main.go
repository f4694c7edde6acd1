// Command probe says what a process in a container sees and can do. It is a
// static program, so that it runs in a root that holds nothing else.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Report is what the probe prints.
type Report struct {
	Root     []string        // names in /
	Exists   map[string]bool // for each path given
	Mounts   []string        // mount points
	Caps     string          // effective capabilities, in hex
	Hostname string
	PIDs     int // processes that are visible
	Env      []string
	Dir      string
	Tries    map[string]string // what was tried, and "" or the error
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "exit" {
		status, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		os.Exit(status)
	}
	if len(os.Args) > 1 && os.Args[1] == "sleep" {
		fmt.Println("sleeping")
		child := exec.Command("/proc/self/exe", "sleep-quietly")
		child.Stdout = os.Stdout
		_ = child.Run()
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "sleep-quietly" {
		time.Sleep(time.Hour)
	}
	if err := json.NewEncoder(os.Stdout).Encode(report(os.Args[1:])); err != nil {
		panic(err)
	}
}

func report(paths []string) Report {
	r := Report{Exists: map[string]bool{}, Tries: map[string]string{}, Env: os.Environ()}
	entries, err := os.ReadDir("/")
	r.try("list /", err)
	for _, e := range entries {
		r.Root = append(r.Root, e.Name())
	}
	for _, p := range paths {
		_, err := os.Lstat(p)
		r.Exists[p] = !errors.Is(err, fs.ErrNotExist)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	r.try("read mounts", err)
	for line := range strings.Lines(string(mounts)) {
		r.Mounts = append(r.Mounts, strings.Fields(line)[4])
	}
	status, err := os.ReadFile("/proc/self/status")
	r.try("read status", err)
	for line := range strings.Lines(string(status)) {
		if caps, ok := strings.CutPrefix(line, "CapEff:\t"); ok {
			r.Caps = strings.TrimSpace(caps)
		}
	}
	r.Hostname, err = os.Hostname()
	r.try("hostname", err)
	r.Dir, err = os.Getwd()
	r.try("getwd", err)
	procs, err := filepath.Glob("/proc/[0-9]*")
	r.try("list processes", err)
	r.PIDs = len(procs)
	r.try("write", os.WriteFile("/written", []byte("x"), 0o600))
	r.try("chown", os.Chown("/written", 1234, 5678))
	r.try("setuid bit", os.Chmod("/written", 0o755|fs.ModeSetuid))
	r.try("remove own program", os.Remove("/kaniko/executor"))
	r.try("mknod", syscall.Mknod("/node", syscall.S_IFCHR|0o600, 1<<8|3))
	r.try("setxattr", syscall.Setxattr("/written", "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00"+strings.Repeat("\x00", 12)), 0))
	r.try("chroot", syscall.Chroot("/"))
	r.try("mount", syscall.Mount("none", "/proc", "tmpfs", 0, ""))
	r.try("write /sys", os.WriteFile("/sys/kernel/probe", nil, 0o600))
	r.try("write /proc/sys", os.WriteFile("/proc/sys/kernel/hostname", []byte("x"), 0o600))
	r.try("open disk", openDisk())
	return r
}

// openDisk tries to read the host's disk through a device node of its own.
func openDisk() error {
	if err := syscall.Mknod("/disk", syscall.S_IFBLK|0o600, 254<<8); err != nil {
		return err
	}
	f, err := os.Open("/disk")
	if err != nil {
		return err
	}
	return f.Close()
}

func (r Report) try(what string, err error) {
	if err == nil {
		r.Tries[what] = ""
		return
	}
	r.Tries[what] = err.Error()
}
