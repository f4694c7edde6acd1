package main

import (
	"io/fs"
	"strconv"
	"strings"
)

// oomKills is how many processes of the innermost control group that says so, and of
// those in it, the kernel has killed for want of memory, as version 2 or 1 counts them; 0
// if that cannot be had.
func oomKills(root fs.FS) uint64 {
	for _, file := range memoryFiles(root, "memory.events", "memory.oom_control") {
		raw, err := fs.ReadFile(root, file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
				n, err := strconv.ParseUint(value, 10, 64)
				if err == nil {
					return n
				}
			}
		}
	}
	return 0
}
