package launch

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// oomKills counts how often the kernel killed a process for want of memory,
// on this machine and in this process's cgroup. Only differences mean
// something. Where neither can be read it is 0.
func oomKills() uint64 {
	n := killsIn("/proc/vmstat")
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return n
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			n += killsIn(filepath.Join("/sys/fs/cgroup", path, "memory.events"))
		}
	}
	return n
}

// killsIn reads the number after "oom_kill" in a file of "name number" lines.
func killsIn(path string) uint64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(data) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == "oom_kill" {
			n, err := strconv.ParseUint(string(f[1]), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// fullBelow is the free space, in bytes, below which a disk counts as full.
const fullBelow = 4 << 20

// diskFull reports whether the disk of dir has no space or no inodes left.
func diskFull(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	return st.Bavail*uint64(st.Bsize) < fullBelow || st.Files > 0 && st.Ffree == 0
}
