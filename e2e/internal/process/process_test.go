package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/need"
)

// TestRun proves what comes back of a command that ends well and of one that
// does not.
func TestRun(t *testing.T) {
	ctx := t.Context()
	out, err := Run(ctx, exec.CommandContext(ctx, "sh", "-c", "echo out; echo err >&2"), nil)
	if err != nil || string(out) != "out\n" {
		t.Errorf("got %q, %v", out, err)
	}
	_, err = Run(ctx, exec.CommandContext(ctx, "sh", "-c", "echo one >&2; printf two >&2; exit 3"), nil)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.HasSuffix(err.Error(), "one\ntwo\n") {
		t.Errorf("got %v", err)
	}
}

// TestRunCancelled proves that cancellation kills the children of a command
// too and that the error says why.
func TestRunCancelled(t *testing.T) {
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	start := time.Now()
	_, err := Run(ctx, exec.CommandContext(ctx, "sh", "-c", "sleep 60 & wait"), nil)
	if !errors.Is(err, why) || time.Since(start) > grace {
		t.Errorf("after %v got %v", time.Since(start), err)
	}
}

// TestServer proves that output is watched, that Stop may be called twice and
// that an early end is told with the last words.
func TestServer(t *testing.T) {
	lines := make(chan string, 10)
	s, err := Start("server", exec.Command("sh", "-c", "echo ready; exec sleep 60"), false, nil,
		func(line string) { lines <- line })
	if err != nil {
		t.Fatal(err)
	}
	if got := <-lines; got != "ready" {
		t.Errorf("printed %q", got)
	}
	if err := errors.Join(s.Stop(), s.Stop()); err != nil {
		t.Error(err)
	}
	s, err = Start("server", exec.Command("sh", "-c", "echo last words; exit 1"), false, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	deadline := time.Now().Add(grace)
	for s.Last() == "" && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if err := s.Failure(); !strings.Contains(err.Error(), "last words") {
		t.Errorf("failure %v", err)
	}
	if _, err := Start("nothing", exec.Command("/nowhere"), false, nil, nil); err == nil {
		t.Error("a missing program started")
	}
}

// TestPrivateMounts proves that what a server mounts is not seen outside.
func TestPrivateMounts(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	mounted := make(chan string, 1)
	script := fmt.Sprintf("mount -t tmpfs none %s && touch %s/inside && echo mounted; exec sleep 60", dir, dir)
	s, err := Start("mounter", exec.Command("sh", "-c", script), true, nil, func(line string) { mounted <- line })
	if err != nil {
		t.Fatal(err)
	}
	if got := <-mounted; got != "mounted" {
		t.Fatalf("printed %q", got)
	}
	if _, err := os.Stat(dir + "/inside"); err == nil {
		t.Error("the mount is visible outside")
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(s.cmd.Process.Pid, 0); err == nil {
		t.Error("the server still runs")
	}
}
