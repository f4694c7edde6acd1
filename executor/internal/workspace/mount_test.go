package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/executor/internal/nstest"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
)

// lab is a root with a shell in which mounts are tried. A script finds it at $R.
type lab struct {
	root Root
	at   string // $R
}

// eachLab runs a test in both kinds of workspace. In place the root is a
// directory that plays the container's, and the shell is this machine's.
func eachLab(t *testing.T, test func(t *testing.T, l lab)) {
	t.Helper()
	shell, err := os.ReadFile("/bin/busybox")
	if err != nil {
		need.Missing(t, "Debian's busybox-static (run .ci/setup)")
	}
	image := Image{Key: "lab"}
	applets := []string{"bin/"}
	for _, a := range strings.Fields("sh cat ls rm stat test") {
		applets = append(applets, "bin/"+a+"=->busybox")
	}
	image.Layers = append(image.Layers, layerOf(t, append(applets, "etc/", "etc/old=old", "opt/", "opt/full/", "opt/full/x=x", "opt/empty/", "way=->opt")...))
	t.Run("Overlay", func(t *testing.T) {
		nstest.Need(t)
		w, err := NewOverlay(t.TempDir(), sandbox.Namespace{FreshProc: true}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeAll(t, w) })
		r, err := w.Begin(t.Context(), Ground{Image: image})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.FS().Put(rootfs.Entry{Name: "bin/busybox", Mode: 0o755}, bytes.NewReader(shell)); err != nil {
			t.Fatal(err)
		}
		test(t, lab{settled(t, r, ""), ""})
	})
	t.Run("InPlace", func(t *testing.T) {
		nstest.Need(t)
		w, root := inPlace(t)
		r, err := w.Begin(t.Context(), Ground{Image: image})
		if err != nil {
			t.Fatal(err)
		}
		test(t, lab{settled(t, r, root), root})
	})
}

// settled commits what a first RUN leaves in every image.
func settled(t *testing.T, r Root, at string) Root {
	t.Helper()
	l := lab{r, at}
	if out, err := l.sh(t, ":"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, _ := commit(t, r)
	c.Release()
	return r
}

func (l lab) sh(t *testing.T, script string, mounts ...Mount) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := l.root.Run(t.Context(), sandbox.Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin", "R=" + l.at}, Dir: "/", Stdout: &out, Stderr: &out}, mounts...)
	return strings.TrimSpace(out.String()), err
}

func sourceDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "src/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "src/a"), []byte("of a\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "src")
}

// Whatever a process sees and does in a mount, the layer has nothing of it, and
// what was at its target is there again.
func TestMountsLeaveNothing(t *testing.T) {
	secret := &sandbox.MemoryFile{Content: []byte("hunter2"), Mode: 0o440, UID: 5, GID: 6}
	for _, c := range []struct {
		name    string
		mount   func(src string) []Mount
		script  string
		want    string
		changes string
	}{
		{"a bind", func(src string) []Mount { return []Mount{{Target: "/new/deep/dir", Source: src, ReadOnly: true}} }, "cat $R/new/deep/dir/a", "of a", ""},
		{"a bind of a file", func(src string) []Mount { return []Mount{{Target: "/new/file", Source: src + "/a", ReadOnly: true}} }, "cat $R/new/file", "of a", ""},
		{"what is written to a bind", func(src string) []Mount { return []Mount{{Target: "/opt/empty", Source: src}} }, "rm $R/opt/empty/a; echo n > $R/opt/empty/n; ls $R/opt/empty", "n\nsub", ""},
		{"what is written to a bind of a file", func(src string) []Mount { return []Mount{{Target: "/etc/old", Source: src + "/a"}} }, "echo n > $R/etc/old; cat $R/etc/old", "n", ""},
		{"a bind over what is there", func(src string) []Mount { return []Mount{{Target: "/opt/full", Source: src, ReadOnly: true}} }, "ls $R/opt/full", "a\nsub", ""},
		{"a bind by a link", func(src string) []Mount { return []Mount{{Target: "/way/full", Source: src, ReadOnly: true}} }, "ls $R/opt/full", "a\nsub", ""},
		{"what is written beside", func(src string) []Mount { return []Mount{{Target: "/new/dir", Source: src, ReadOnly: true}} }, "echo n > $R/new/n; echo m > $R/etc/m", "", "etc/m new new/n"},
		{"tmpfs", func(string) []Mount { return []Mount{{Target: "/t", Tmpfs: true}} }, "ls $R/t; echo n > $R/t/n; stat -c %a $R/t; cat $R/t/n", "1777\nn", ""},
		{"tmpfs over what is there", func(string) []Mount { return []Mount{{Target: "/opt", Tmpfs: true}} }, "ls $R/opt; echo n > $R/opt/n; stat -c %a $R/opt", "755", ""},
		{"a secret", func(string) []Mount { return []Mount{{Target: "/run/secrets/s", File: secret, ReadOnly: true}} }, "cat $R/run/secrets/s; echo; stat -c '%a %u:%g' $R/run/secrets/s", "hunter2\n440 5:6", ""},
		{"a secret over a file", func(string) []Mount { return []Mount{{Target: "/etc/old", File: secret, ReadOnly: true}} }, "cat $R/etc/old", "hunter2", ""},
		{"a secret and a process that fails", func(string) []Mount { return []Mount{{Target: "/run/secrets/s", File: secret, ReadOnly: true}} }, "cat $R/run/secrets/s; exit 3", "hunter2", ""},
		{"a script", func(string) []Mount {
			return []Mount{{Target: "/dev/pipes/x", ReadOnly: true, File: &sandbox.MemoryFile{Content: []byte("#!/bin/sh\necho ran"), Mode: 0o755}}}
		}, "$R/dev/pipes/x", "ran", ""},
		{"a mount in a mount", func(src string) []Mount {
			return []Mount{{Target: "/d", Source: src}, {Target: "/d/sub/s", File: secret}}
		}, "cat $R/d/a $R/d/sub/s", "of a\nhunter2", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachLab(t, func(t *testing.T, l lab) {
				src := sourceDir(t)
				got, err := l.sh(t, c.script, c.mount(src)...)
				var exit *sandbox.ExitError
				if err != nil && !(errors.As(err, &exit) && exit.Code == 3) {
					t.Fatalf("%v: %s", err, got)
				}
				if got != c.want {
					t.Errorf("it printed %q, want %q", got, c.want)
				}
				k, changes := commit(t, l.root)
				if changes != c.changes {
					t.Errorf("the layer has %q, want %q", changes, c.changes)
				}
				for name, want := range map[string]string{"etc/old": "old", "opt/full/x": "x"} {
					if text := content(t, k.FS, name); text != want {
						t.Errorf("%s is %q", name, text)
					}
				}
				k.Release()
				if b, err := os.ReadFile(src + "/a"); err != nil || string(b) != "of a\n" {
					t.Errorf("the source is %q, %v", b, err)
				}
			})
		})
	}
}

// In place a process can move a secret: it is empty then, and there is no layer.
func TestMovedSecret(t *testing.T) {
	nstest.Need(t)
	for _, script := range []string{"mv $R/run/secrets $R/kept", "ln $R/run/secrets/s $R/kept"} {
		w, root := inPlace(t)
		r, err := w.Begin(t.Context(), Ground{})
		if err != nil {
			t.Fatal(err)
		}
		secret := &sandbox.MemoryFile{Content: []byte("hunter2"), Mode: 0o400}
		out, err := lab{r, root}.sh(t, script, Mount{Target: "/run/secrets/s", File: secret})
		if err == nil || !strings.Contains(err.Error(), "moved or linked /run/secrets/s") {
			t.Errorf("%s: %v: %s", script, err, out)
		}
		for _, name := range []string{"kept", "kept/s", "run/secrets/s"} {
			if b, err := os.ReadFile(filepath.Join(root, name)); err == nil && len(b) > 0 {
				t.Errorf("%s: %s is %q", script, name, b)
			}
		}
	}
}

// A cache keeps what is written to it, also by a process that fails, and a
// read-only one does not.
func TestMountedCache(t *testing.T) {
	eachLab(t, func(t *testing.T, l lab) {
		path, release, err := NewCaches(filepath.Join(t.TempDir(), "caches")).Open(t.Context(), CacheSpec{Key: "k", Sharing: LockedCache, Mode: 0o755})
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		cache := Mount{Target: "/opt/full", Source: path, Keep: true}
		if out, err := l.sh(t, "echo one > $R/opt/full/one; exit 3", cache); err == nil {
			t.Fatal(out)
		}
		if out, err := l.sh(t, "cat $R/opt/full/one; echo two > $R/opt/full/two", cache); err != nil || out != "one" {
			t.Fatalf("%v: %s", err, out)
		}
		cache.ReadOnly = true
		if out, err := l.sh(t, "ls $R/opt/full; rm -f $R/opt/full/one 2> /dev/null; :", cache); err != nil || out != "one\ntwo" {
			t.Fatalf("%v: %s", err, out)
		}
		if b, err := os.ReadFile(filepath.Join(path, "one")); err != nil || string(b) != "one\n" {
			t.Errorf("%q, %v", b, err)
		}
		c, changes := commit(t, l.root)
		defer c.Release()
		if changes != "" || content(t, c.FS, "opt/full/x") != "x" {
			t.Errorf("the layer has %q", changes)
		}
	})
}

// Behind the socket that a process sees the agent answers, for whom it may.
func TestMountedAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	own := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	stop, err := forward(filepath.Join(own, "s"), Agent{Path: path, Mode: 0o600, UID: 1, GID: 2})
	if err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(own)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/s", d.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "ping"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
		t.Errorf("it answered %q, %v", b, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(own, "s")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	eachLab(t, func(t *testing.T, l lab) {
		out, err := l.sh(t, "test -S $R/run/buildkit/ssh_agent.0 && stat -c '%a %u:%g' $R/run/buildkit/ssh_agent.0",
			Mount{Target: "/run/buildkit/ssh_agent.0", Agent: &Agent{Path: path, Mode: 0o600, UID: 1, GID: 2}})
		if err != nil || out != "600 1:2" {
			t.Errorf("%v: %s", err, out)
		}
		k, changes := commit(t, l.root)
		defer k.Release()
		if changes != "" {
			t.Errorf("the layer has %q", changes)
		}
	})
}

// Sharing says who may use a cache at the same time, also of another process.
func TestCaches(t *testing.T) {
	caches := NewCaches(filepath.Join(t.TempDir(), "c"))
	open := func(key string, how Sharing) (string, func() error, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return caches.Open(ctx, CacheSpec{Key: key, Sharing: how, Mode: 0o750, UID: 3, GID: 4, Fill: func(d *rootfs.Dir) error {
			return d.Put(rootfs.Entry{Name: "begun", Mode: 0o644}, strings.NewReader("x"))
		}})
	}
	one, release, err := open("../../k", SharedCache)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(one); err != nil || fi.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", fi, err)
	}
	if _, err := os.Stat(one + "/begun"); err != nil {
		t.Error(err)
	}
	two, again, err := open("../../k", SharedCache)
	if err != nil || two != one {
		t.Errorf("shared: %s and %s, %v", one, two, err)
	}
	if _, _, err := open("../../k", LockedCache); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked while shared: %v", err)
	}
	other, third, err := open("../../k", PrivateCache)
	if err != nil || other == one {
		t.Errorf("private: %s, %v", other, err)
	}
	for _, f := range []func() error{release, again, third} {
		if err := f(); err != nil {
			t.Error(err)
		}
	}
	if back, f, err := open("../../k", LockedCache); err != nil || back != one {
		t.Errorf("locked, later: %s, %v", back, err)
	} else if err := f(); err != nil {
		t.Error(err)
	}
	if strange, f, err := open("l", SharedCache); err != nil || strange == one || f() != nil {
		t.Errorf("another key: %s, %v", strange, err)
	}
	if rel, err := filepath.Rel(caches.dir, one); err != nil || !filepath.IsLocal(rel) {
		t.Errorf("%s is not below %s", one, caches.dir)
	}
}
