package main

import (
	"os"
	"strconv"
	"strings"
)

// oomKills is how many processes of the container the kernel has killed for want
// of memory, as cgroup version 2 or 1 counts them; 0 if that cannot be had.
func oomKills() uint64 {
	for _, path := range []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"} {
		raw, err := os.ReadFile(path)
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
