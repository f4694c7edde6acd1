package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/need"
)

// report is what testdata/probe prints.
type report struct {
	Root, Mounts, Env   []string
	Exists              map[string]bool
	Caps, Hostname, Dir string
	PIDs                int
	Tries               map[string]string
}

// image makes a root that holds the probe as /kaniko/executor and nothing else.
func image(t *testing.T) Spec {
	t.Helper()
	need.Root(t)
	need.Overlays(t, t.TempDir())
	runc := need.Command(t, "runc")
	root := t.TempDir()
	program := filepath.Join(root, "kaniko", "executor")
	if err := os.Mkdir(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build probe: %v\n%s", err, out)
	}
	return Spec{Runc: runc, Root: root, Scratch: t.TempDir()}
}

// TestContainerIsAlone proves that a container sees its own root and not the
// host's, that it has what Docker gives it and no more, and that neither its
// image nor the host is changed by what it does to its root.
func TestContainerIsAlone(t *testing.T) {
	s := image(t)
	marker := filepath.Join(t.TempDir(), "marker")
	if err := os.WriteFile(marker, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	s.Args = []string{"/kaniko/executor", marker, "/etc/passwd", "/usr", "/root", "/workspace/file", "/etc/hosts"}
	s.Env = []string{"A=1", "HOME=/root"} // runc adds HOME if there is none
	s.Dir = "/workspace"
	s.Binds = []Bind{{Source: shared, Target: "/workspace", ReadOnly: true}}
	s.Stdout, s.Stderr = &stdout, &stderr
	status, err := Run(t.Context(), s)
	if err != nil || status != 0 {
		t.Fatalf("status %d, error %v\n%s", status, err, &stderr)
	}
	var got report
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if want := []string{"dev", "etc", "kaniko", "proc", "sys", "workspace"}; !slices.Equal(got.Root, want) {
		t.Errorf("/ holds %q, want %q", got.Root, want)
	}
	for path, exists := range got.Exists {
		if want := path == "/workspace/file" || path == "/etc/hosts"; exists != want {
			t.Errorf("%s is visible: %v, want %v", path, exists, want)
		}
	}
	if got.Caps != "00000000a80425fb" {
		t.Errorf("effective capabilities %s, want Docker's 00000000a80425fb", got.Caps)
	}
	if got.Hostname != "kiln-test" || got.Dir != "/workspace" || got.PIDs != 1 || !slices.Equal(got.Env, s.Env) {
		t.Errorf("host name %q, directory %q, %d processes, environment %q", got.Hostname, got.Dir, got.PIDs, got.Env)
	}
	for _, m := range []string{"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/workspace"} {
		if !slices.Contains(got.Mounts, m) {
			t.Errorf("nothing is mounted at %s", m)
		}
	}
	checkTries(t, got.Tries)
	checkUntouched(t, s)
}

func checkTries(t *testing.T, tries map[string]string) {
	t.Helper()
	refused := map[string]string{
		"mount": "operation not permitted", "write /sys": "read-only file system",
		"write /proc/sys": "read-only file system", "open disk": "operation not permitted",
	}
	for what, err := range tries {
		if want := refused[what]; !strings.Contains(err, want) || (want == "") != (err == "") {
			t.Errorf("%s: got %q, want %q", what, err, want)
		}
	}
}

// checkUntouched fails if the image lost or won a file, or if a directory or a
// mount is left.
func checkUntouched(t *testing.T, s Spec) {
	t.Helper()
	var files []string
	err := filepath.WalkDir(s.Root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, s.Root))
		}
		return err
	})
	if err != nil || !slices.Equal(files, []string{"/kaniko/executor"}) {
		t.Errorf("the image holds %q, %v", files, err)
	}
	if left, err := os.ReadDir(s.Scratch); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), s.Scratch) {
		t.Errorf("a mount is left, %v:\n%s", err, mounts)
	}
	for _, written := range []string{"/written", "/node", "/disk"} {
		if _, err := os.Lstat(written); err == nil {
			t.Errorf("the container wrote %s on the host", written)
		}
	}
}

// TestStatus proves that the exit status is the command's own and that a
// command that cannot be started is an error.
func TestStatus(t *testing.T) {
	s := image(t)
	s.Args = []string{"/kaniko/executor", "exit", "42"}
	if status, err := Run(t.Context(), s); status != 42 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
	s.Args = []string{"/nowhere"}
	if status, err := Run(t.Context(), s); err == nil {
		t.Errorf("a missing program ended with %d", status)
	}
	checkUntouched(t, s)
}

// TestCancel proves that a cancelled container ends, with its children.
func TestCancel(t *testing.T) {
	s := image(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	s.Args = []string{"/kaniko/executor", "sleep"}
	s.Stdout = writerFunc(func(p []byte) (int, error) {
		cancel(why)
		return len(p), nil
	})
	start := time.Now()
	if _, err := Run(ctx, s); !errors.Is(err, why) || time.Since(start) > grace {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	checkUntouched(t, s)
	programs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		if line, err := os.ReadFile(p); err == nil && strings.Contains(string(line), "sleep-quietly") {
			t.Errorf("%s still runs", p)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
