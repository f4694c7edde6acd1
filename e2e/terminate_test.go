package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/kilnhook/kiln/e2e/internal/tools"
	"github.com/kilnhook/kiln/e2e/need"
)

// terminations is how often a build is terminated, each time at another moment.
const terminations = 14

// A build that is terminated at any moment ends soon and says so by its status, and
// leaves no process, no mount and no file.
func TestTerminatedAnywhere(t *testing.T) {
	need.Root(t)
	need.Overlays(t, t.TempDir())
	program, err := os.ReadFile(need.Command(t, "busybox"))
	check(t, err)
	executor, ctx := filepath.Join(t.TempDir(), "executor"), t.TempDir()
	check(t, tools.Build(t.Context(), executor, "./executor"))
	check(t, os.WriteFile(filepath.Join(ctx, "busybox"), program, 0o755))
	srv := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	whole := time.Duration(0)
	for i := range terminations + 1 {
		mark := fmt.Sprint(7_000_000 + rand.IntN(1e6)) // seconds that only a RUN of this build sleeps
		check(t, os.WriteFile(filepath.Join(ctx, "Dockerfile"), []byte(terminated(mark)), 0o644))
		work, temp := t.TempDir(), t.TempDir()
		var text bytes.Buffer
		cmd := exec.Command(executor, "--context", ctx, "--isolation=overlay", "--work-dir", work, "--cache", "--destination", host+"/app:"+mark)
		cmd.Env = []string{"TMPDIR=" + temp, "HOME=" + temp, "PATH=" + os.Getenv("PATH")}
		cmd.Stdout, cmd.Stderr = &text, &text
		began := time.Now()
		check(t, cmd.Start())
		after := rand.N(whole + 1)
		if i%2 == 0 { // while it enters its namespace
			after = rand.N(60 * time.Millisecond)
		}
		if i > 0 {
			time.Sleep(after)
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		sent := time.Now()
		err := cmd.Wait()
		status := statusOf(err)
		took := time.Since(sent)
		if i == 0 { // how long it takes
			if whole = time.Since(began); status != 0 {
				t.Fatalf("status %d\n%s", status, &text)
			}
			continue
		}
		stopped := status == 143 || status == 1 && strings.Contains(text.String(), "the build was stopped: terminated signal received")
		done := status == 0 && after > whole/2
		if !stopped && !done {
			t.Errorf("terminated after %v of %v: status %d %v later\n%s", after, whole, status, took, &text)
		}
		if took > 10*time.Second {
			t.Errorf("terminated after %v: it took %v to end", after, took)
		}
		for _, left := range leftBy(t, mark, work, temp) {
			t.Errorf("terminated after %v: left %s\n%s", after, left, &text)
		}
	}
}

// terminated is a Dockerfile with two stages at a time, in which processes are
// busy and others are left behind.
func terminated(mark string) string {
	run := `RUN ["/busybox", "sh", "-c", "/busybox sleep ` + mark + ` & /busybox setsid /busybox sleep ` + mark + ` & for i in 1 2 3 4 5 6 7 8; do /busybox mkdir -p /d/$i; /busybox cp /busybox /d/$i/; done; /busybox sleep 0.1"]` + "\n"
	return "FROM scratch AS base\nCOPY busybox /busybox\nFROM base AS a\n" + run + "FROM base AS b\n" + run + "RUN --mount=type=cache,target=/c" + strings.TrimPrefix(run, "RUN") +
		"FROM base\nCOPY --from=a /d /a\nCOPY --from=b /d /b\n" + run
}

// statusOf is the status as a shell has it.
func statusOf(err error) int {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0
	}
	if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		return 128 + int(st.Signal())
	}
	return exit.ExitCode()
}

// leftBy is what a build left: processes, mounts below directories and what is in these.
// What is killed with its namespace may take a moment.
func leftBy(t *testing.T, mark string, dirs ...string) (left []string) {
	t.Helper()
	for range 100 {
		left = nil
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		check(t, err)
		for _, name := range lines {
			if raw, err := os.ReadFile(name); err == nil && bytes.Contains(raw, []byte(mark)) {
				left = append(left, fmt.Sprintf("process %s: %q", filepath.Base(filepath.Dir(name)), raw))
			}
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		check(t, err)
		for _, dir := range dirs {
			if strings.Contains(string(mounts), dir) {
				left = append(left, "a mount in "+dir)
			}
			found, err := filepath.Glob(filepath.Join(dir, "*"))
			check(t, err)
			left = append(left, found...)
		}
		if len(left) == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return left
}
