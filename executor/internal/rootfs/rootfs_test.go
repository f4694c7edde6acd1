package rootfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/need"
)

// each runs a test against every FS there is: what it asserts is what it means
// to implement FS.
func each(t *testing.T, test func(t *testing.T, fsys FS)) {
	t.Helper()
	t.Run("Mem", func(t *testing.T) { test(t, NewMem()) })
	t.Run("Dir", func(t *testing.T) {
		d := openTemp(t)
		test(t, d)
	})
	t.Run("Dir without openat2", func(t *testing.T) {
		d := openTemp(t)
		d.openat2 = false
		test(t, d)
	})
}

func openTemp(t *testing.T) *Dir {
	t.Helper()
	d, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func put(t *testing.T, fsys FS, e Entry, content string) {
	t.Helper()
	if os.Geteuid() != 0 {
		e.UID, e.GID = os.Geteuid(), os.Getegid()
	}
	if err := fsys.Put(e, strings.NewReader(content)); err != nil {
		t.Fatalf("put %s: %v", e.Name, err)
	}
}

func read(t *testing.T, fsys FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPutKeepsEverythingAboutAFile(t *testing.T) {
	need.Root(t)
	when := time.Unix(1_500_000_000, 123_000_000)
	each(t, func(t *testing.T, fsys FS) {
		put(t, fsys, Entry{Name: "d", Mode: fs.ModeDir | fs.ModeSetgid | 0o750, UID: 7, GID: 8, ModTime: when}, "")
		put(t, fsys, Entry{Name: "d/f", Mode: fs.ModeSetuid | 0o755, UID: 1, GID: 2, ModTime: when, Xattrs: map[string]string{"user.a": "x\x00y"}}, "hello")
		put(t, fsys, Entry{Name: "d/l", Mode: fs.ModeSymlink | 0o777, UID: 3, GID: 4, Link: "../nowhere", ModTime: when}, "")
		put(t, fsys, Entry{Name: "d/p", Mode: fs.ModeNamedPipe | 0o622, ModTime: when}, "")
		put(t, fsys, Entry{Name: "d/h", Hard: true, Link: "d/f"}, "")

		f, err := fsys.Lstat("d/f")
		if err != nil {
			t.Fatal(err)
		}
		if f.Mode != fs.ModeSetuid|0o755 || f.UID != 1 || f.GID != 2 || f.Size != 5 || !f.ModTime.Equal(when) || f.Xattrs["user.a"] != "x\x00y" || f.Nlink != 2 {
			t.Errorf("d/f is %+v", f)
		}
		if h, _ := fsys.Lstat("d/h"); h.Inode != f.Inode {
			t.Errorf("d/h is not another name of d/f: %+v", h)
		}
		l, err := fsys.Lstat("d/l")
		if err != nil || l.Mode&fs.ModeSymlink == 0 || l.Link != "../nowhere" || l.UID != 3 || !l.ModTime.Equal(when) {
			t.Errorf("d/l is %+v, %v", l, err)
		}
		if p, err := fsys.Lstat("d/p"); err != nil || p.Mode != fs.ModeNamedPipe|0o622 {
			t.Errorf("d/p is %+v, %v", p, err)
		}
		if got := read(t, fsys, "d/h"); got != "hello" {
			t.Errorf("d/h holds %q", got)
		}
		names, err := fsys.List("d")
		if err != nil || strings.Join(names, " ") != "f h l p" {
			t.Errorf("d lists %v, %v", names, err)
		}
	})
}

func TestPutReplacesWhatIsOfAnotherKind(t *testing.T) {
	each(t, func(t *testing.T, fsys FS) {
		put(t, fsys, Entry{Name: "x", Mode: fs.ModeDir | 0o755}, "")
		put(t, fsys, Entry{Name: "x/y", Mode: 0o644}, "old")
		put(t, fsys, Entry{Name: "x", Mode: fs.ModeDir | 0o700}, "")
		if got := read(t, fsys, "x/y"); got != "old" {
			t.Errorf("a directory put over a directory lost its child: %q", got)
		}
		put(t, fsys, Entry{Name: "x", Mode: 0o644}, "file")
		if got := read(t, fsys, "x"); got != "file" {
			t.Errorf("x holds %q", got)
		}
		put(t, fsys, Entry{Name: "x", Mode: fs.ModeSymlink | 0o777, Link: "a"}, "")
		put(t, fsys, Entry{Name: "x", Mode: fs.ModeDir | 0o755}, "")
		if _, err := fsys.Lstat("x/y"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("x/y came back: %v", err)
		}
	})
}

func TestErrors(t *testing.T) {
	each(t, func(t *testing.T, fsys FS) {
		put(t, fsys, Entry{Name: "f", Mode: 0o644}, "")
		if _, err := fsys.Lstat("none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("lstat of nothing: %v", err)
		}
		if _, err := fsys.Lstat("f/below"); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("lstat below a file: %v", err)
		}
		if err := fsys.Put(Entry{Name: "no/f", Mode: 0o644}, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("put without a parent: %v", err)
		}
		if _, err := fsys.Open("."); err == nil {
			t.Error("a directory could be opened as a file")
		}
		if err := fsys.Remove("none/at/all"); err != nil {
			t.Errorf("remove of nothing: %v", err)
		}
		if err := fsys.Remove("."); err == nil {
			t.Error("the root could be removed")
		}
	})
}

// Links lead anywhere in a hostile image. No name may reach what is outside.
func TestNothingLeavesTheRoot(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, fsys FS) {
		put(t, fsys, Entry{Name: "abs", Mode: fs.ModeSymlink | 0o777, Link: outside}, "")
		put(t, fsys, Entry{Name: "up", Mode: fs.ModeSymlink | 0o777, Link: "../../../../../../../../../.." + outside}, "")
		put(t, fsys, Entry{Name: "tmp", Mode: fs.ModeDir | 0o755}, "")
		for _, via := range []string{"abs", "up"} {
			if _, err := fsys.Open(via + "/secret"); err == nil {
				t.Errorf("%s/secret was opened", via)
			}
			if err := fsys.Put(Entry{Name: via + "/new", Mode: 0o644}, nil); err == nil {
				t.Errorf("%s/new was made", via)
			}
			if err := fsys.Remove(via + "/secret"); err != nil {
				t.Errorf("remove of %s/secret: %v", via, err)
			}
			name, err := Resolve(fsys, via+"/secret")
			if err != nil || name != Clean(secret) {
				t.Errorf("resolve %s/secret: %q, %v", via, name, err)
			}
		}
	})
	if b, err := os.ReadFile(secret); err != nil || string(b) != "outside" {
		t.Fatalf("the file outside is %q, %v", b, err)
	}
	if names, _ := os.ReadDir(outside); len(names) != 1 {
		t.Fatalf("the directory outside holds %v", names)
	}
}

func TestResolve(t *testing.T) {
	m := NewMem()
	for _, e := range []Entry{
		{Name: "run", Mode: fs.ModeDir | 0o755},
		{Name: "var", Mode: fs.ModeDir | 0o755},
		{Name: "var/run", Mode: fs.ModeSymlink, Link: "/run"},
		{Name: "a", Mode: fs.ModeSymlink, Link: "b"},
		{Name: "b", Mode: fs.ModeSymlink, Link: "var/../var/run/x"},
		{Name: "loop", Mode: fs.ModeSymlink, Link: "loop"},
		{Name: "file", Mode: 0o644},
	} {
		put(t, m, e, "")
	}
	for _, c := range []struct{ path, want, parent string }{
		{"/", ".", "."},
		{"", ".", "."},
		{"/var/run/lock", "run/lock", "run/lock"},
		{"a", "run/x", "a"},
		{"../../etc", "etc", "etc"},
		{"var/run/..", ".", "."},
		{"none/at/../all", "none/all", "none/all"},
		{"file/below", "file/below", "file/below"},
	} {
		if got, err := Resolve(m, c.path); err != nil || got != c.want {
			t.Errorf("Resolve(%q) = %q, %v; want %q", c.path, got, err, c.want)
		}
		if got, err := ResolveParent(m, c.path); err != nil || got != c.parent {
			t.Errorf("ResolveParent(%q) = %q, %v; want %q", c.path, got, err, c.parent)
		}
	}
	if _, err := Resolve(m, "loop/x"); !errors.Is(err, ErrTooManyLinks) {
		t.Errorf("a loop resolves to %v", err)
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("a/b", "../../etc", "a/b/../c")
	f.Add("x", "/", "x/../../..")
	f.Fuzz(func(t *testing.T, name, link, p string) {
		m := NewMem()
		name = Clean(name)
		if name == "." || strings.Contains(name, "/") || strings.ContainsRune(name, 0) {
			return
		}
		if err := m.Put(Entry{Name: name, Mode: fs.ModeSymlink, Link: link}, nil); err != nil {
			t.Fatal(err)
		}
		got, err := Resolve(m, p)
		if err == nil && got != Clean(got) {
			t.Fatalf("Resolve(%q) = %q, which is not clean", p, got)
		}
	})
}

// A stale descriptor would write into a directory that is no longer there.
func TestFlushAfterChangesFromOutside(t *testing.T) {
	d := openTemp(t)
	put(t, d, Entry{Name: "d", Mode: fs.ModeDir | 0o755}, "")
	put(t, d, Entry{Name: "d/a", Mode: 0o644}, "1")
	if err := os.RemoveAll(filepath.Join(d.Path(), "d")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(d.Path(), "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	d.Flush()
	put(t, d, Entry{Name: "d/b", Mode: 0o644}, "2")
	if got := read(t, d, "d/b"); got != "2" {
		t.Errorf("d/b holds %q", got)
	}
	if _, err := os.Stat(filepath.Join(d.Path(), "d/b")); err != nil {
		t.Error(err)
	}
}
