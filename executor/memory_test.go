package main

import (
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestMemoryLimit(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, c := range []struct {
		name string
		root fstest.MapFS
		want int64
	}{
		{"no control groups", fstest.MapFS{}, 0},
		{"version 2, none", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("max\n")}, 0},
		{"version 2", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("268435456\n")}, 256 << 20},
		{"version 2, nested", fstest.MapFS{
			"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("max\n"), "sys/fs/cgroup/a/memory.max": file("1048576\n"),
		}, 1 << 20},
		{"the host's path in a container", fstest.MapFS{
			"proc/self/cgroup": file("0::/kubepods/pod1/c\n"), "sys/fs/cgroup/memory.max": file("2097152\n"),
		}, 2 << 20},
		{"version 1", fstest.MapFS{
			"proc/self/cgroup": file("9:name=systemd:/\n4:cpu,memory:/x\n0::/\n"), "sys/fs/cgroup/memory/x/memory.limit_in_bytes": file("3145728\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, 3 << 20},
		{"version 1, none", fstest.MapFS{
			"proc/self/cgroup": file("4:memory:/\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, 0},
	} {
		if got := memoryLimit(c.root); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	old := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(old)
	root := fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("268435456\n")}
	percent := debug.SetGCPercent(100)
	defer debug.SetGCPercent(percent)
	limitMemory(root, func(string) (string, bool) { return "1GiB", true })
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("GOGC is set and became %d", got)
	}
	if got := debug.SetMemoryLimit(-1); got != old {
		t.Errorf("GOMEMLIMIT is set and the limit became %d", got)
	}
	limitMemory(root, func(string) (string, bool) { return "", false })
	if got := debug.SetMemoryLimit(-1); got != 128<<20 {
		t.Errorf("the limit is %d", got)
	}
	if got := debug.SetGCPercent(100); got != gcPercent {
		t.Errorf("GOGC became %d", got)
	}
}
