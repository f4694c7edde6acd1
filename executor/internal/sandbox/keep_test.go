package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Where a RUN has no pid namespace, what it leaves ends with it all the same, and
// nothing else does: neither another RUN at the same time nor a program that the
// executor itself runs.
func TestWithoutPidNamespace(t *testing.T) {
	root, upper := machine(t)
	run := func(script string) error {
		p := Process{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/"}
		return Namespace{}.RunIn(t.Context(), root, nil, p)
	}
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Wait() }()
	defer func() { _ = other.Process.Kill() }()
	var group sync.WaitGroup
	group.Go(func() {
		if err := run(`sleep 1; (sleep 0.3; echo x > /daemon) & wait`); err != nil {
			t.Errorf("a RUN beside another: %v", err)
		}
	})
	time.Sleep(200 * time.Millisecond)
	for range 3 {
		if err := run(`setsid sh -c 'sleep 1; echo late > /late' >/dev/null 2>&1 & (sleep 1; echo late > /late) & sleep 0.1`); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
	if stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(other.Process.Pid), "stat")); err != nil || strings.Contains(string(stat), ") Z ") {
		t.Errorf("a program of the executor was killed: %v", err)
	}
	time.Sleep(1200 * time.Millisecond)
	if _, err := os.Stat(filepath.Join(upper, "late")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process outlived its RUN: %v", err)
	}
	if _, err := os.Stat(filepath.Join(upper, "daemon")); err != nil {
		t.Error(err)
	}
	var exit *ExitError
	if err := run("exit 42"); !errors.As(err, &exit) || exit.Code != 42 {
		t.Errorf("error = %v", err)
	}
	if err := run("kill -SEGV $$"); !errors.As(err, &exit) || exit.Code != 139 || exit.Signal != "SIGSEGV" {
		t.Errorf("error = %v", err)
	}
}

// A RUN that is given up ends, with what it started.
func TestCancelWithoutPidNamespace(t *testing.T) {
	root, upper := machine(t)
	cause := errors.New("deadline of the build")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, cause)
	defer cancel()
	err := Namespace{}.RunIn(ctx, root, nil, Process{
		Args: []string{"sh", "-c", "trap '' TERM; setsid sh -c 'sleep 1; echo > /late' & sleep 60"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/"})
	if !errors.Is(err, cause) {
		t.Errorf("error = %v", err)
	}
	time.Sleep(1200 * time.Millisecond)
	if _, err := os.Stat(filepath.Join(upper, "late")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process outlived its RUN: %v", err)
	}
}
