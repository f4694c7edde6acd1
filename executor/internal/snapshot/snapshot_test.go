package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/nstest"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// state is what a layer can tell about a tree, by reading everything.
func fullState(t testing.TB, fsys rootfs.FS) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := rootfs.Walk(fsys, ".", func(e rootfs.Entry) error {
		s := fmt.Sprintf("%v %d:%d %d %d %q %v", e.Mode, e.UID, e.GID, e.Major, e.Minor, e.Link, e.Xattrs)
		if !e.Mode.IsDir() {
			s += fmt.Sprintf(" %d %d", e.Size, e.ModTime.UnixNano())
		}
		if e.Mode.IsRegular() {
			p, err := PrintFile(fsys, e.Name)
			if err != nil {
				return err
			}
			s += fmt.Sprint(p)
		}
		out[e.Name] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// diffStates is the oracle: the changes between two full readings.
func diffStates(before, after map[string]string) []string {
	var out []string
	for n, s := range after {
		if before[n] != s {
			out = append(out, n)
		}
	}
	for n := range before {
		_, still := after[n]
		// What went with the directory above it is not told apart.
		if p := rootfs.Parent(n); !still && isDirState(after[p]) {
			out = append(out, "-"+n)
		}
	}
	sort.Strings(out)
	return out
}

func isDirState(s string) bool { return strings.HasPrefix(s, "d") }

func texts(changes []Change) []string {
	var out []string
	for _, c := range changes {
		if c.Deleted {
			out = append(out, "-"+c.Name)
		} else {
			out = append(out, c.Name)
		}
	}
	sort.Strings(out)
	return out
}

// mutate does something to the tree at root, as a RUN would.
func mutate(t testing.TB, r *rand.Rand, root string) {
	t.Helper()
	var files, dirs []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, p)
		} else {
			files = append(files, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := dirs[r.IntN(len(dirs))]
	fresh := filepath.Join(dir, fmt.Sprintf("n%d", r.IntN(40)))
	some := fresh
	if len(files) > 0 {
		some = files[r.IntN(len(files))]
	}
	write := func(p string) { _ = os.WriteFile(p, fmt.Appendf(nil, "%08d", r.IntN(1e8)), 0o644) }
	switch r.IntN(14) {
	case 0, 1:
		write(fresh)
	case 2:
		_ = os.Mkdir(fresh, 0o755)
	case 3:
		_ = os.Symlink(fmt.Sprint(r.IntN(9)), fresh)
	case 4: // same size, mtime put back: only ctime tells
		if fi, err := os.Lstat(some); err == nil && fi.Mode().IsRegular() {
			write(some)
			_ = os.Chtimes(some, fi.ModTime(), fi.ModTime())
		}
	case 5:
		_ = os.Chmod(some, fs.FileMode(0o600+r.IntN(64)))
	case 6:
		_ = os.Remove(some)
	case 7:
		if dir != root {
			_ = os.RemoveAll(dir)
		}
	case 8:
		_ = os.Rename(some, fresh)
	case 9:
		_ = os.Link(some, fresh)
	case 10: // a directory is replaced by a new one of the same name
		if dir != root {
			_ = os.RemoveAll(dir)
			_ = os.Mkdir(dir, 0o755)
			write(filepath.Join(dir, "inner"))
		}
	case 13: // what a directory is called says nothing about what it is
		if dir != root && !strings.HasPrefix(fresh, dir) {
			_ = os.Rename(dir, fresh)
		}
	case 12: // a mapping that is read, and then written to
		if fi, err := os.Lstat(some); err == nil && fi.Mode().IsRegular() && fi.Size() > 0 {
			storeMapped(t, some, byte('0'+r.IntN(10)))
			_ = os.Chtimes(some, fi.ModTime(), fi.ModTime())
		}
	case 11:
		_ = unix.Lsetxattr(some, "user.k", fmt.Append(nil, r.IntN(4)), 0)
	}
}

// storeMapped changes the first byte of a file through a mapping that is read
// first. On tmpfs no ctime tells of that, unless the mtime is put back.
func storeMapped(t testing.TB, name string, b byte) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return // not writable any more
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if m[0] != b {
		m[0] = b
	}
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
}

// fileSystems returns a directory on each kind that there is room for.
func fileSystems(t *testing.T) map[string]func(t *testing.T) string {
	t.Helper()
	nstest.Need(t)
	tmpfs := func(t *testing.T) string {
		t.Helper()
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	return map[string]func(t *testing.T) string{
		"disk":    func(t *testing.T) string { t.Helper(); return t.TempDir() },
		"tmpfs":   tmpfs,
		"overlay": func(t *testing.T) string { t.Helper(); m, _ := mountOverlay(t, t.TempDir()); return m },
		"overlay on tmpfs": func(t *testing.T) string {
			t.Helper()
			where := tmpfs(t)
			merged, _ := mountOverlayAt(t, filepath.Join(where, "lower"), where)
			return merged
		},
		// Its files are on other devices than its directories.
		"overlay on two": func(t *testing.T) string { t.Helper(); m, _ := mountOverlay(t, tmpfs(t)); return m },
	}
}

// TestTrustIsThatOfFiles proves that the files of an overlay whose directories
// lie on two file systems are trusted: they have another device than the overlay's directories.
func TestTrustIsThatOfFiles(t *testing.T) {
	if where := fileSystems(t)["disk"](t); !mappingsTell(t, where) {
		t.Skip("the ctimes of this disk do not tell of stores into mappings")
	}
	root := fileSystems(t)["overlay on two"](t)
	name := filepath.Join(root, "file")
	if err := os.WriteFile(name, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	var dir, file unix.Stat_t
	if err := errors.Join(unix.Lstat(root, &dir), unix.Lstat(name, &file)); err != nil {
		t.Fatal(err)
	}
	if dir.Dev == file.Dev {
		t.Skip("this kernel gives both the same device")
	}
	var d devices
	got, err := d.honest(t.Context(), uint32(dir.Dev), root)
	if want := (trust{honest: true, files: uint32(file.Dev)}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if !d.trusted(uint32(file.Dev)) || d.trusted(uint32(dir.Dev)) {
		t.Error("it is the directories that are trusted, not the files")
	}
}

func mappingsTell(t *testing.T, dir string) bool {
	t.Helper()
	told, err := probeMapping(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return told.honest
}

// noWatch is a kernel that watches nothing from now on.
func noWatch(t *testing.T, w *Walk) {
	t.Helper()
	none, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	if err := unix.Dup3(int(none.Fd()), w.watcher.fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
}

// A Walk finds exactly what reading everything finds, over long random
// sequences of operations, on every file system.
func TestWalkFindsWhatAFullReadingFinds(t *testing.T) {
	for kind, where := range fileSystems(t) {
		for seed := range uint64(8) {
			t.Run(fmt.Sprint(kind, seed), func(t *testing.T) {
				t.Parallel()
				at := where(t)
				root, outside := filepath.Join(at, "tree"), filepath.Join(at, "outside")
				if err := errors.Join(os.Mkdir(root, 0o755), os.Mkdir(outside, 0o755)); err != nil {
					t.Fatal(err)
				}
				walkAsFullReading(t, rand.New(rand.NewPCG(seed, 1)), root, outside)
			})
		}
	}
}

func walkAsFullReading(t *testing.T, r *rand.Rand, root, outside string) {
	t.Helper()
	for range 60 {
		mutate(t, r, root)
	}
	dir, err := rootfs.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	w := NewWalk(dir, nil)
	learnAll(t, w, dir)
	if err := w.Baseline(t.Context()); err != nil {
		t.Fatal(err)
	}
	for round := range 25 {
		before := fullState(t, dir)
		if r.IntN(60) == 0 {
			noWatch(t, w)
		}
		if err := w.Settle(t.Context(), t.TempDir()); err != nil {
			t.Fatal(err)
		}
		for range r.IntN(6) {
			if mutate(t, r, root); r.IntN(2) == 0 {
				beSly(t, r, root, outside)
			}
		}
		dir.Flush()
		changes, err := w.Diff(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := texts(changes), diffStates(before, fullState(t, dir)); !slices.Equal(got, want) {
			t.Fatalf("round %d: walk says %q, a full reading says %q", round, got, want)
		}
		// As writing the layer would.
		for _, c := range changes {
			if !c.Deleted {
				learn(t, w, dir, c.Name)
			}
		}
	}
}

// A store that no time tells of is found all the same, whoever wrote the file
// before: an image, a step or a process.
func TestStoresThatNoTimeTells(t *testing.T) {
	for kind, where := range fileSystems(t) {
		t.Run(kind, func(t *testing.T) {
			root := where(t)
			dir, err := rootfs.OpenDir(root)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			write := func(name string) {
				if err := os.WriteFile(filepath.Join(root, name), []byte("old"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("image")
			w := NewWalk(dir, nil)
			if err := w.Baseline(t.Context()); err != nil {
				t.Fatal(err)
			}
			write("step")
			if err := w.Refresh([]string{"step"}); err != nil {
				t.Fatal(err)
			}
			write("process")
			if changes, err := w.Diff(t.Context()); err != nil || !slices.Equal(texts(changes), []string{"process"}) {
				t.Fatalf("changes %v, %v", changes, err)
			}
			if err := w.Settle(t.Context(), root); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"image", "step", "process"} {
				storeMapped(t, filepath.Join(root, name), 'n')
			}
			want := []string{"image", "process", "step"}
			if changes, err := w.Diff(t.Context()); err != nil || !slices.Equal(texts(changes), want) {
				t.Errorf("changes %v, %v; want %v", changes, err, want)
			}
			if left, err := filepath.Glob(filepath.Join(root, ".ctime*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

func learn(t testing.TB, w *Walk, fsys rootfs.FS, name string) {
	t.Helper()
	e, err := fsys.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	var p Print
	switch {
	case e.Mode.IsRegular():
		if p, err = PrintFile(fsys, name); err != nil {
			t.Fatal(err)
		}
	case e.Mode&fs.ModeSymlink != 0:
		p = PrintString(e.Link)
	}
	if name != "." {
		w.Learn(name, p, e.Xattrs)
	}
}

func learnAll(t testing.TB, w *Walk, fsys rootfs.FS) {
	t.Helper()
	if err := rootfs.Walk(fsys, ".", func(e rootfs.Entry) error { learn(t, w, fsys, e.Name); return nil }); err != nil {
		t.Fatal(err)
	}
}

// What was not changed but looks suspicious must not be in a layer.
func TestWalkClearsSuspects(t *testing.T) {
	root := t.TempDir()
	name := filepath.Join(root, "f")
	if err := os.WriteFile(name, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir, err := rootfs.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	w := NewWalk(dir, nil)
	learnAll(t, w, dir)
	if err := w.Baseline(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, touch := range []func() error{
		func() error { return os.Chmod(name, 0o644) },
		func() error { return os.Link(name, name+"2") },
		func() error { return os.Remove(name + "2") },
		func() error {
			if err := os.Rename(name, name+"3"); err != nil {
				return err
			}
			return os.Rename(name+"3", name)
		},
	} {
		if err := touch(); err != nil {
			t.Fatal(err)
		}
		changes, err := w.Diff(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(changes, func(c Change) bool { return c.Name == "f" }); i >= 0 {
			t.Errorf("f is reported as changed: %v", changes)
		}
	}
}

// A name that comes or goes does not change the other names of its file, of
// which one alone was read.
func TestWalkLinks(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a", "d/b", "d/c", "e"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "a" {
			if err := os.WriteFile(filepath.Join(root, name), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if err := os.Link(filepath.Join(root, "a"), filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := rootfs.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	w := NewWalk(dir, nil)
	learn(t, w, dir, "a") // only: it is read once
	if err := w.Baseline(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		do   func() error
		want []string
	}{
		{func() error { return os.Remove(filepath.Join(root, "e")) }, []string{"-e"}},
		{func() error { return os.Link(filepath.Join(root, "d/c"), filepath.Join(root, "d/new")) }, []string{"d/new"}},
		{func() error { return os.Rename(filepath.Join(root, "d/new"), filepath.Join(root, "new")) }, []string{"-d/new", "new"}},
		{func() error { return os.Remove(filepath.Join(root, "a")) }, []string{"-a"}},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		dir.Flush()
		changes, err := w.Diff(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := texts(changes); !slices.Equal(got, c.want) {
			t.Errorf("changes %q, want %q", got, c.want)
		}
	}
}

func TestWalkSkips(t *testing.T) {
	root := t.TempDir()
	dir, err := rootfs.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	w := NewWalk(dir, []string{"/kaniko"})
	if err := w.Baseline(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "kaniko/x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if changes, err := w.Diff(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("changes %v, %v", changes, err)
	}
}

// mountOverlay mounts lower with an empty upper directory.
func mountOverlay(t *testing.T, lower string) (merged, upper string) {
	t.Helper()
	return mountOverlayAt(t, lower, t.TempDir())
}

// mountOverlayAt makes what it needs, lower included, in base.
func mountOverlayAt(t *testing.T, lower, base string) (merged, upper string) {
	t.Helper()
	nstest.Need(t)
	if err := os.MkdirAll(lower, 0o755); err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, n := range []string{"upper", "work", "merged"} {
		d := filepath.Join(base, n)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, d)
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=off,metacopy=off,index=off", lower, dirs[0], dirs[1])
	if err := unix.Mount("overlay", dirs[2], "overlay", 0, data); err != nil {
		t.Fatalf("mount overlay: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dirs[2], unix.MNT_DETACH) })
	return dirs[2], dirs[0]
}

// The upper directory tells exactly what reading everything tells.
func TestUpperFindsWhatAFullReadingFinds(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			lower := t.TempDir()
			for range 60 {
				mutate(t, r, lower)
			}
			breakHardlinks(t, lower)
			base, err := rootfs.OpenDir(lower)
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			before := fullState(t, base)
			merged, upper := mountOverlay(t, lower)
			for range 12 {
				mutate(t, r, merged)
			}
			dir, err := rootfs.OpenDir(merged)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			changes, err := Upper(t.Context(), upper, base, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := texts(changes), diffStates(before, fullState(t, dir)); !slices.Equal(got, want) {
				t.Fatalf("the upper directory says %q, a full reading says %q", got, want)
			}
		})
	}
}

// breakHardlinks gives every name a file of its own: a copy-up of one name of
// a lower hard link leaves the others as they were, which no reading of the
// merged tree can foresee.
func breakHardlinks(t *testing.T, root string) {
	t.Helper()
	dir, err := rootfs.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	err = rootfs.Walk(dir, ".", func(e rootfs.Entry) error {
		if e.Mode.IsDir() || e.Nlink < 2 {
			return nil
		}
		if !e.Mode.IsRegular() {
			return dir.Put(e, nil)
		}
		f, err := dir.Open(e.Name)
		if err != nil {
			return err
		}
		defer f.Close()
		return dir.Put(e, f)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Recorder and Refresh together leave the index as a Walk would find it.
func TestRefreshAfterRecordedChanges(t *testing.T) {
	root := t.TempDir()
	dir, err := rootfs.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	me := func(e rootfs.Entry) rootfs.Entry { e.UID, e.GID = os.Geteuid(), os.Getegid(); return e }
	w := NewWalk(dir, nil)
	for _, e := range []rootfs.Entry{
		{Name: "old", Mode: fs.ModeDir | 0o755}, {Name: "old/a", Mode: 0o644, ModTime: time.Unix(9, 0)}, {Name: "gone", Mode: fs.ModeDir | 0o755}, {Name: "gone/x", Mode: 0o644},
	} {
		if err := dir.Put(me(e), strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Baseline(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := NewRecorder(dir)
	for _, e := range []rootfs.Entry{
		{Name: "old", Mode: fs.ModeDir | 0o755},                // as it was
		{Name: "old/a", Mode: 0o644, ModTime: time.Unix(9, 0)}, // as it was
		{Name: "new", Mode: fs.ModeDir | 0o711},
		{Name: "new/b", Mode: 0o600},
		{Name: "new/a", Mode: 0o600},
		{Name: "gone", Mode: 0o644}, // a file where a directory was
	} {
		if err := r.Put(me(e), strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
	}
	changes, err := r.Changes()
	if err != nil {
		t.Fatal(err)
	}
	if got := texts(changes); !slices.Equal(got, []string{"gone", "new", "new/a", "new/b"}) {
		t.Errorf("recorded changes are %q", got)
	}
	if err := w.Refresh(r.Touched()); err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		learn(t, w, dir, c.Name)
	}
	if changes, err := w.Diff(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("the walk still finds %v, %v", changes, err)
	}
	// What was learned is of use.
	if err := os.Chmod(filepath.Join(root, "new/b"), 0o600); err != nil {
		t.Fatal(err)
	}
	if changes, err := w.Diff(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("a chmod to what it was is found as %v, %v", changes, err)
	}
}

func BenchmarkWalk24k(b *testing.B) { benchmarkWalk(b, 240) }

// BenchmarkWalk700k is for what the index holds: making the files takes longer than
// walking them.
func BenchmarkWalk700k(b *testing.B) { benchmarkWalk(b, 7000) }

// benchmarkWalk walks directories of 100 files each in which nothing changes. It
// reports processor time and memory of the index for a file.
func benchmarkWalk(b *testing.B, dirs int) {
	root := b.TempDir()
	for i := range dirs {
		d := filepath.Join(root, fmt.Sprint(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if err := os.WriteFile(filepath.Join(d, fmt.Sprint("file-", j)), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	files := float64(dirs * 101)
	dir, err := rootfs.OpenDir(root)
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	held := heap()
	w := NewWalk(dir, nil)
	if err := w.Baseline(b.Context()); err != nil {
		b.Fatal(err)
	}
	held = heap() - held
	b.ReportAllocs()
	for b.Loop() {
		if changes, err := w.Diff(b.Context()); err != nil || len(changes) != 0 {
			b.Fatal(changes, err)
		}
	}
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	if _, err := w.Diff(b.Context()); err != nil {
		b.Fatal(err)
	}
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/files, "cpu-ns/file")
	b.ReportMetric(held/files, "index-B/file")
	b.ReportMetric(float64(after.Maxrss)/1024, "rss-MiB")
}

// heap is how much of it is in use, in bytes.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
