package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/ledger/ledgertest"
)

var (
	_ ledgertest.Store = (*ledger.Dir)(nil)
	_ ledgertest.Store = (*ledger.Mem)(nil)
)

func TestDir(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledgertest.Store { return open(t, t.TempDir()) })
}

func TestMem(t *testing.T) {
	ledgertest.Run(t, func(*testing.T) ledgertest.Store { return new(ledger.Mem) })
}

func open(t *testing.T, dir string) *ledger.Dir {
	t.Helper()
	d, err := ledger.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// Two opened stores on one directory, as two processes have, pass the suite
// when every call goes to the one or the other in turn.
func TestTwoStoresOnOneDirectory(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledgertest.Store {
		dir := t.TempDir()
		return &alternating{a: open(t, dir), b: open(t, dir), turn: make(chan bool, 1)}
	})
}

// alternating spreads calls over two stores.
type alternating struct {
	a, b *ledger.Dir
	turn chan bool
}

func (s *alternating) next() *ledger.Dir {
	select {
	case <-s.turn:
		return s.b
	default:
		select {
		case s.turn <- true:
		default:
		}
		return s.a
	}
}

func (s *alternating) Get(ctx context.Context, key string) ([]byte, string, error) {
	return s.next().Get(ctx, key)
}

func (s *alternating) Create(ctx context.Context, key string, data []byte) (string, error) {
	return s.next().Create(ctx, key, data)
}

func (s *alternating) Swap(ctx context.Context, key, version string, data []byte) (string, error) {
	return s.next().Swap(ctx, key, version, data)
}

func (s *alternating) Delete(ctx context.Context, key string) error { return s.next().Delete(ctx, key) }

func (s *alternating) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	return s.next().List(ctx, prefix, after, limit)
}

// childDir tells this test binary that it runs as one of several processes.
const childDir = "KILN_TEST_LEDGER_CHILD"

// Several processes that count in one directory count every step, and one that
// is killed on the way leaves a store that works.
func TestSeveralProcesses(t *testing.T) {
	const children, steps = 4, 40
	if dir := os.Getenv(childDir); dir != "" {
		// The journal begins anew all the time, whoever fills it.
		d, err := ledger.OpenDirWith(dir, ledger.DirOptions{JournalBytes: 1 << 10})
		if err != nil {
			t.Fatal(err)
		}
		for range steps {
			if err := ledgertest.Increment(t.Context(), d, "counter"); err != nil {
				t.Fatal(err)
			}
		}
		for { // until killed, so that the kill falls into the middle of something
			if err := ledgertest.Increment(t.Context(), d, "endless"); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := t.TempDir()
	var running []*exec.Cmd
	for range children {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSeveralProcesses$")
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	d := open(t, dir)
	want := strconv.Itoa(children * steps)
	deadline := time.Now().Add(time.Minute)
	for {
		data, _, err := d.Get(t.Context(), "counter")
		if err == nil && string(data) == want {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("after a minute the counter is %q, %v; want %s", data, err, want)
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, cmd := range running {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
	}
	if data, _, err := d.Get(t.Context(), "counter"); err != nil || string(data) != want {
		t.Errorf("counter is %q, %v; want %s", data, err, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := ledgertest.Increment(ctx, d, "endless"); err != nil {
		t.Errorf("after the others were killed: %v", err)
	}
}

// A lock that another process holds delays a swap, and a context ends the wait.
func TestSwapWaitsForTheLock(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	version, err := d.Create(t.Context(), "k", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(filepath.Join(dir, ".journal", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	why := errors.New("had enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
	defer cancel()
	if _, err := d.Swap(ctx, "k", version, []byte("2")); !errors.Is(err, why) {
		t.Errorf("swap while the lock is held: %v, want the cause of the context", err)
	}
	file.Close()
	if _, err := d.Swap(t.Context(), "k", version, []byte("2")); err != nil {
		t.Errorf("swap after the lock is free: %v", err)
	}
}

// What a store wrote is there when it is opened again; what a crash left half
// written is not, and is tidied away once it is old.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	d, err := ledger.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), "a/b", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	d.Close()
	fresh, old := filepath.Join(dir, ".tmp", "FRESH"), filepath.Join(dir, ".tmp", "OLD")
	for _, name := range []string{fresh, old} {
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	if data, _, err := d.Get(t.Context(), "a/b"); err != nil || string(data) != "kept" {
		t.Errorf("after reopening: %q, %v", data, err)
	}
	if keys, err := d.List(t.Context(), "", "", 0); err != nil || fmt.Sprint(keys) != "[a/b]" {
		t.Errorf("keys %q, %v", keys, err)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old half-written file is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("the fresh file, which somebody may be writing, is gone: %v", err)
	}
}

// A link planted in the store does not lead out of it.
func TestLinksDoNotLeadOut(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	if data, _, err := d.Get(t.Context(), "out/secret"); err == nil {
		t.Errorf("read %q through a link", data)
	}
	if _, err := d.Create(t.Context(), "out/new", nil); err == nil {
		t.Error("created a file through a link")
	}
}

// No temporary file and no empty directory is left by what succeeded.
func TestNothingIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	v, err := d.Create(t.Context(), "a/b/c", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), "a/b/c", []byte("1")); err == nil {
		t.Fatal("created twice")
	}
	if _, err := d.Swap(t.Context(), "a/b/c", v, []byte("2")); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(t.Context(), "a/b/c"); err != nil {
		t.Fatal(err)
	}
	left := func(name string) []string {
		entries, err := os.ReadDir(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if got := strings.Join(left("."), " "); got != ".journal .tmp" {
		t.Errorf("directory holds %s", got)
	}
	if got := left(".tmp"); len(got) != 0 {
		t.Errorf("temporary files %q", got)
	}
}

func FuzzCheckKey(f *testing.F) {
	for _, s := range []string{"a/b", "../x", "/x", "a//b", ".x", "a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if ledger.CheckKey(key) != nil {
			return
		}
		if !filepath.IsLocal(key) || filepath.Clean(key) != key || strings.Contains(key, "/.") || key[0] == '.' {
			t.Errorf("key %q is accepted", key)
		}
	})
}

func BenchmarkDirCreate(b *testing.B) {
	d, err := ledger.OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	value := bytes.Repeat([]byte("x"), 1000)
	var next atomic.Int64
	create := func(b *testing.B) {
		if _, err := d.Create(b.Context(), fmt.Sprintf("builds/%09d/request.json", next.Add(1)), value); err != nil {
			b.Error(err)
		}
	}
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			create(b)
		}
	})
	b.Run("hundred", func(b *testing.B) {
		b.SetParallelism(100)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				create(b)
			}
		})
	})
}
