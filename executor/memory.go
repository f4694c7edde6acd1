package main

import (
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// gcPercent is how much garbage there may be, in percent of what is in use. Most of a
// build's time goes into the kernel, compression and hashes, which make none: half of Go's
// default costs no processor time that can be measured.
const gcPercent = 50

// limitMemory lets the garbage collector know how much memory there is, unless
// $GOMEMLIMIT does: half of what the control group may have, since page cache and
// the processes of RUN count too. It also keeps less garbage than Go does, unless $GOGC
// says how much. It returns the group's limit in bytes, 0 for none.
func limitMemory(root fs.FS, lookup func(string) (string, bool)) int64 {
	if _, ok := lookup("GOGC"); !ok {
		debug.SetGCPercent(gcPercent)
	}
	limit := memoryLimit(root)
	if _, ok := lookup("GOMEMLIMIT"); !ok && limit > 0 {
		debug.SetMemoryLimit(limit / 2)
	}
	return limit
}

// memoryLimit reads the least limit of the control groups that this process is
// in, of version 1 or 2, as cgroups(7) has them; 0 is none.
func memoryLimit(root fs.FS) int64 {
	least := int64(math.MaxInt64)
	for _, file := range memoryFiles(root, "memory.max", "memory.limit_in_bytes") {
		if n := readLimit(root, file); n > 0 {
			least = min(least, n)
		}
	}
	if least >= unlimited {
		return 0
	}
	return least
}

// memoryFiles are the files, if they are there, that say something of the memory of the
// control groups that this process is in, the innermost first: v2 is their name in
// version 2, v1 in version 1.
func memoryFiles(root fs.FS, v2, v1 string) []string {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	var files []string
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", v2
		switch {
		case f[0] == "0" && f[1] == "":
		case strings.Contains(","+f[1]+",", ",memory,"):
			mount, file = "sys/fs/cgroup/memory", v1
		default:
			continue
		}
		// In a container the path may be that of the host, of which only the
		// last part, or nothing, is to be seen.
		for group := path.Join("/", f[2]); ; group = path.Dir(group) {
			files = append(files, path.Join(mount, group, file))
			if group == "/" {
				break
			}
		}
	}
	return files
}

// unlimited is what version 1 says where there is no limit, or more.
const unlimited = 1 << 60

func readLimit(root fs.FS, name string) int64 {
	raw, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return 0 // "max"
	}
	return n
}
