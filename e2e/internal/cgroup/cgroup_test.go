package cgroup

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/need"
)

func group(t *testing.T) *Group {
	t.Helper()
	need.Root(t)
	g, err := New("kiln-test-" + strings.ToLower(rand.Text()))
	if errors.Is(err, ErrUnavailable) {
		need.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(g.memory); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the group is still there: %v", err)
		}
	})
	return g
}

func command(t *testing.T, g *Group, args ...string) *exec.Cmd {
	t.Helper()
	args = g.Command(args...)
	return exec.CommandContext(t.Context(), args[0], args[1:]...)
}

// TestUse proves that a group sees the time and memory of its processes, children
// that have ended included, and that a process which still runs goes with it.
func TestUse(t *testing.T) {
	g := group(t)
	before, err := g.CPU()
	if err != nil {
		t.Fatal(err)
	}
	const script = `(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done); head -c 50000000 /dev/zero | tail -c 50000000 >/dev/null`
	if out, err := command(t, g, "sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	after, err := g.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if used := after - before; used < 10*time.Millisecond {
		t.Errorf("200000 turns of a loop in a child took %v", used)
	}
	if peak, err := g.MemoryPeak(); err != nil || peak < 50_000_000 {
		t.Errorf("peak of memory: %d, %v; tail held 50 MB", peak, err)
	}
	if err := command(t, g, "sleep", "1000").Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		pids, err := g.Processes()
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes of the group: %v, want one", pids)
		}
	}
}

// TestLimit proves that a process which needs more than the limit is killed, and
// that the group knows.
func TestLimit(t *testing.T) {
	g := group(t)
	if err := g.LimitMemory(20 << 20); err != nil {
		t.Fatal(err)
	}
	if err := command(t, g, "sh", "-c", "head -c 100000000 /dev/zero | tail -c 100000000 | wc -c").Run(); err != nil {
		t.Logf("ended: %v", err)
	}
	if n, err := g.OOMKills(); err != nil || n == 0 {
		t.Errorf("%d were killed, %v; want one", n, err)
	}
	if peak, err := g.MemoryPeak(); err != nil || peak > 20<<20 {
		t.Errorf("peak of memory: %d, %v; want at most the limit", peak, err)
	}
}
