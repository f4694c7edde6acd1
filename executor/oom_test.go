package main

import (
	"testing"
	"testing/fstest"
)

// A kill is found where the kernel of either version counts it: in the group of this
// process, or, in a container that sees only its own, at the top.
func TestOOMKills(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	const events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
	for name, tc := range map[string]struct {
		root fstest.MapFS
		want uint64
	}{
		"no control groups": {fstest.MapFS{}, 0},
		"version 2":         {fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.events": file(events)}, 2},
		"version 2, nested, where the root has no such file": {fstest.MapFS{
			"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.events": file(events), "sys/fs/cgroup/a/memory.events": file("oom_kill 9\n"),
		}, 2},
		"version 2, the host's path in a container": {fstest.MapFS{
			"proc/self/cgroup": file("0::/kubepods/pod1/c\n"), "sys/fs/cgroup/memory.events": file(events),
		}, 2},
		"version 1": {fstest.MapFS{
			"proc/self/cgroup":                          file("9:name=systemd:/\n4:cpu,memory:/x\n0::/\n"),
			"sys/fs/cgroup/memory/x/memory.oom_control": file("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
		}, 4},
		"an old kernel, which does not count": {fstest.MapFS{
			"proc/self/cgroup": file("4:memory:/\n"), "sys/fs/cgroup/memory/memory.oom_control": file("oom_kill_disable 0\nunder_oom 0\n"),
		}, 0},
	} {
		if got := oomKills(tc.root); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}
