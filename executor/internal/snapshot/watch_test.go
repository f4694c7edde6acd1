package snapshot

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// doubtful returns a walk over a directory with some files whose ctimes do not tell
// everything.
func doubtful(t *testing.T, kind string, leave []string, files ...string) (w *Walk, root string) {
	t.Helper()
	root = fileSystems(t)[kind](t)
	for _, name := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range files {
		if err := os.Chtimes(filepath.Join(root, name), time.Time{}, time.Unix(9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := rootfs.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	w = NewWalk(dir, leave)
	return w, root
}

// begin is what is done before a RUN.
func begin(t *testing.T, w *Walk, dir string) {
	t.Helper()
	if err := w.Baseline(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Settle(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
}

func wantChanges(t *testing.T, w *Walk, want ...string) {
	t.Helper()
	changes, err := w.Diff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := texts(changes); !slices.Equal(got, want) {
		t.Errorf("changes %q, want %q", got, want)
	}
}

// Where ctimes do not tell everything, what was not opened is known for that and what was
// is not, whatever became of the directory.
func TestWatcherTellsWhatWasOpened(t *testing.T) {
	for _, kind := range []string{"tmpfs", "overlay on tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			w, root := doubtful(t, kind, nil, "d/read", "d/stored", "d/left")
			begin(t, w, root)
			id, ok := w.watcher.watch(filepath.Join(root, "d"))
			if !ok {
				t.Fatal("the directory cannot be watched")
			}
			if _, err := os.ReadFile(filepath.Join(root, "d/read")); err != nil {
				t.Fatal(err)
			}
			storeMapped(t, filepath.Join(root, "d/stored"), 'n')
			w.watcher.collect()
			for name, want := range map[string]bool{"read": false, "stored": false, "left": true} {
				if got := w.watcher.unopened(id, name); got != want {
					t.Errorf("%s: unopened is %v, want %v", name, got, want)
				}
			}
			wantChanges(t, w, "d/stored")
			// The next RUN is told apart from this one.
			begin(t, w, root)
			if !w.watcher.unopened(id, "stored") {
				t.Error("what the walk itself opened counts")
			}
			storeMapped(t, filepath.Join(root, "d/left"), 'n')
			wantChanges(t, w, "d/left")
		})
	}
}

// A file is stored to by a name in a directory that no walk looks at.
func TestStoreByANameThatIsLeftAlone(t *testing.T) {
	w, root := doubtful(t, "tmpfs", []string{"keep"}, "keep/other", "f")
	if err := os.Link(filepath.Join(root, "f"), filepath.Join(root, "keep/f")); err != nil {
		t.Fatal(err)
	}
	begin(t, w, root)
	storeMapped(t, filepath.Join(root, "keep/f"), 'n')
	wantChanges(t, w, "f")
}

// More is opened than the kernel keeps events of.
func TestStoreAfterTooManyEvents(t *testing.T) {
	raw, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	w, root := doubtful(t, "tmpfs", nil, "a", "b", "f")
	begin(t, w, root)
	for i := range most + 2 { // two that are the same, one after the other, would be one
		f, err := os.Open(filepath.Join(root, []string{"a", "b"}[i%2]))
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	storeMapped(t, filepath.Join(root, "f"), 'n')
	wantChanges(t, w, "f")
	if !w.watcher.lost {
		t.Error("no event was lost: the test proves nothing")
	}
	begin(t, w, root)
	storeMapped(t, filepath.Join(root, "a"), 'n')
	wantChanges(t, w, "a")
	if w.watcher.lost {
		t.Error("events that were lost before count still")
	}
}

// A directory that was not there when processes were started, or that is another now,
// has files that nobody watched.
func TestStoreInADirectoryThatIsAnother(t *testing.T) {
	w, root := doubtful(t, "tmpfs", nil, "a/f", "b/f")
	begin(t, w, root)
	path := func(name string) string { return filepath.Join(root, name) }
	for _, r := range [][2]string{{"a", "c"}, {"b", "a"}, {"c", "b"}} {
		if err := os.Rename(path(r[0]), path(r[1])); err != nil {
			t.Fatal(err)
		}
	}
	storeMapped(t, path("a/f"), 'n')
	wantChanges(t, w, "a/f")
	// As a COPY between two RUNs.
	if err := os.MkdirAll(path("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("new/f"), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Refresh([]string{"new", "new/f"}); err != nil {
		t.Fatal(err)
	}
	begin(t, w, root)
	storeMapped(t, path("new/f"), 'n')
	wantChanges(t, w, "new/f")
}

// FuzzEvents proves that no answer of the kernel makes the watcher read beyond it.
func FuzzEvents(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(make([]byte, 12), 16, 0, 0, 0, 'a', 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		w := newWatcher()
		w.events(raw)
	})
}
