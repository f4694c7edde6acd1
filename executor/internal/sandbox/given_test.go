package sandbox

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sources are things of the executor that a process may be given.
func sources(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"dir/sub", "discard/u", "discard/w", "link-target"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"dir/a": "of a\n", "file": "of file\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello\n"))
			c.Close()
		}
	}()
	return dir
}

// A process sees what it is given where it should be, and can do no more with
// it than it may.
func TestMounts(t *testing.T) {
	root, upper := machine(t)
	src := sources(t)
	at := func(name string) string { return filepath.Join(src, name) }
	if err := os.Symlink("/opt/real", filepath.Join(root, "via")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../escape", filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	secret := &MemoryFile{Content: []byte("hunter2"), Mode: 0o400, UID: 3, GID: 4}
	for _, c := range []struct {
		name   string
		mounts []Mount
		script string
		want   string
	}{
		{"a directory", []Mount{{Target: "/given/deep", Source: at("dir"), ReadOnly: true}}, `cat /given/deep/a; touch /given/deep/x 2>&1 | grep -o 'Read-only'`, "of a\nRead-only"},
		{"a file", []Mount{{Target: "/opt/f", Source: at("file"), ReadOnly: true}}, `cat /opt/f; (echo x > /opt/f) 2>/dev/null || echo no`, "of file\nno"},
		{"a cache", []Mount{{Target: "/c", Source: at("dir/sub")}}, `echo kept > /c/kept; cat /c/kept`, "kept"},
		{"what is written and thrown away", []Mount{{Target: "/d", Source: at("dir"), Discard: at("discard")}}, `echo new > /d/new; rm /d/a; ls /d`, "new\nsub"},
		{"a mount in a mount", []Mount{{Target: "/c", Source: at("dir/sub")}, {Target: "/c/in/it", Tmpfs: true}}, `echo x > /c/in/it/x; ls /c/in/it; test -e /c/kept && echo kept`, "x\nkept"},
		{"an empty file system of a size", []Mount{{Target: "/t", Tmpfs: true, Size: 1 << 16}}, `stat -c %a /t; head -c 100000 /dev/zero > /t/x 2>/dev/null || echo full`, "1777\nfull"},
		{"an empty file system on a directory", []Mount{{Target: "/etc", Tmpfs: true}}, `echo /etc/*; stat -c %a /etc`, "/etc/*\n755"},
		{"an empty file system that stays so", []Mount{{Target: "/t", Tmpfs: true, ReadOnly: true}}, `(echo x > /t/x) 2>/dev/null || echo no`, "no"},
		{"a secret", []Mount{{Target: "/run/secrets/s", File: secret, ReadOnly: true}}, `cat /run/secrets/s; echo; stat -c '%a %u:%g' /run/secrets/s; (echo x > /run/secrets/s) 2>/dev/null || echo no`, "hunter2\n400 3:4\nno"},
		{"a script", []Mount{{Target: "/dev/pipes/x", File: &MemoryFile{Content: []byte("#!/bin/sh\necho ran\n"), Mode: 0o755}, ReadOnly: true}}, `/dev/pipes/x`, "ran"},
		{"a socket", []Mount{{Target: "/run/s.sock", Source: at("sock")}}, `perl -MIO::Socket::UNIX -e 'print IO::Socket::UNIX->new("/run/s.sock")->getline'`, "hello"},
		{"by a link", []Mount{{Target: "/via/x", Source: at("file")}}, `cat /opt/real/x`, "of file"},
		{"not outside of the root", []Mount{{Target: "/out/x", Source: at("file")}}, `cat /escape/x`, "of file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := sh(t, root, c.script, func(p *Process) { p.Mounts = c.mounts })
			if err != nil {
				t.Fatalf("%v: %s", err, got)
			}
			if got != c.want {
				t.Errorf("it printed %q, want %q", got, c.want)
			}
		})
	}
	if b, err := os.ReadFile(at("dir/a")); err != nil || string(b) != "of a\n" {
		t.Errorf("what was thrown away is %q, %v", b, err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(root), "memory-*")); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	nowhere(t, upper, "hunter2")
}

// nowhere fails if a file below dir holds text.
func nowhere(t *testing.T, dir, text string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), text) {
			t.Errorf("%s holds %s", path, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMountErrors(t *testing.T) {
	root, _ := machine(t)
	src := sources(t)
	for _, c := range []struct {
		name  string
		mount Mount
		want  string
	}{
		{"a directory on a file", Mount{Target: "/etc/passwd", Source: src}, "mount at /etc/passwd: what is there is not a directory"},
		{"a file on a directory", Mount{Target: "/etc", Source: src + "/file"}, "mount at /etc: what is there is a directory"},
		{"below a file", Mount{Target: "/etc/passwd/x", Source: src}, "mount at /etc/passwd/x: "},
		{"the root", Mount{Target: "/etc/..", Tmpfs: true}, "mount at /etc/..: it is the root directory"},
		{"nothing", Mount{Target: "/x", Source: src + "/none"}, "no such file"},
	} {
		_, err := sh(t, root, "true", func(p *Process) { p.Mounts = []Mount{c.mount} })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Without a network there is loopback, which is up and has its address, and no
// more.
func TestNoNetwork(t *testing.T) {
	root, _ := machine(t)
	got, err := sh(t, root, `tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; cat /proc/net/route | wc -l; wc -l < /proc/net/fib_trie; test -d /proc/net`, func(p *Process) { p.NoNetwork = true })
	if lines := strings.Split(got, "\n"); err != nil || len(lines) != 3 || lines[0] != "lo" || lines[1] != "1" || lines[2] == "0" {
		t.Errorf("it has %q, %v", got, err)
	}
	if err := RunInPlace(t.Context(), Process{Args: []string{"true"}, NoNetwork: true}); err == nil || !strings.Contains(err.Error(), "--isolation=overlay") {
		t.Errorf("in place: %v", err)
	}
}
