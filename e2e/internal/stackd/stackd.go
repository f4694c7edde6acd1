// Package stackd runs the one-machine stack as a process, for tests: kiln up, with
// a registry of base images behind it.
package stackd

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/need"
)

// Patience is how long anything may take on a busy machine.
const Patience = 2 * time.Minute

// Options of a stack. Kiln and Executor are required.
type Options struct {
	Kiln, Executor string   // programs
	Data           string   // directory; a new one if empty
	Flags          []string // of kiln up, after those that every stack has
}

// Stack is a running stack.
type Stack struct {
	URL, S3 string // of its doors
	Data    string

	opt   Options
	bases string
	// The addresses are the stack's from its first start to its last.
	listen, listenS3 string
	cmd              *exec.Cmd
	done             chan error
	out              *bytes.Buffer
}

// Start starts a stack with a registry of base images behind it. Both end with
// the test.
func Start(t *testing.T, opt Options) *Stack {
	t.Helper()
	s := &Stack{Data: opt.Data, opt: opt, bases: Bases(t)}
	if s.Data == "" {
		s.Data = t.TempDir()
	}
	s.Run(t)
	t.Cleanup(func() {
		s.Stop(t, syscall.SIGTERM)
		if t.Failed() {
			t.Logf("the stack said:\n%s", s.out)
		}
	})
	return s
}

// Bases starts a registry that has Debian, for builds and what they push, and returns its
// host. It ends with the test.
func Bases(t *testing.T) string {
	t.Helper()
	need.Root(t)
	need.Command(t, "mmdebstrap")
	registry, err := registryd.Start(t.Context(), need.Command(t, "docker-registry"), t.TempDir(), nil)
	check(t, err)
	t.Cleanup(func() { check(t, registry.Stop()) })
	dir, err := cache.Default()
	check(t, err)
	debian, err := baseimage.Debian(t.Context(), dir, os.Stderr)
	check(t, err)
	_, err = baseimage.Push(t.Context(), debian, registry.Host+"/library/debian:bookworm-slim")
	check(t, err)
	return registry.Host
}

// Run starts the process on the data directory, where it was if it was stopped, and
// waits until it answers.
func (s *Stack) Run(t *testing.T) {
	t.Helper()
	if s.listen == "" {
		s.listen, s.listenS3 = port.Free(t), port.Free(t)
	}
	s.cmd = exec.Command(s.opt.Kiln, append([]string{"up", "--data", s.Data, "--listen", s.listen, "--listen-s3", s.listenS3,
		"--executor", s.opt.Executor, "--base-mirror", s.bases, "--executor-arg=--insecure-registry=" + s.bases}, s.opt.Flags...)...)
	s.cmd.Env = Environ()
	s.out = &bytes.Buffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, s.cmd.Start())
	s.done = make(chan error, 1)
	go func(c *exec.Cmd, done chan error) { done <- c.Wait() }(s.cmd, s.done)
	Until(t, "the stack answers", func() bool {
		select {
		case err := <-s.done:
			s.done <- err
			t.Fatalf("the stack ended: %v\n%s", err, s.out)
		default:
		}
		var a struct{ HTTP, S3 string }
		raw, err := os.ReadFile(filepath.Join(s.Data, "address.json"))
		if err != nil || json.Unmarshal(raw, &a) != nil {
			return false
		}
		s.URL, s.S3 = a.HTTP, a.S3
		resp, err := http.Get(s.URL + "/healthz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// Stop sends a signal and waits for the end. A stack that has ended stays so.
func (s *Stack) Stop(t *testing.T, sig syscall.Signal) {
	t.Helper()
	_ = s.cmd.Process.Signal(sig)
	var err error
	select {
	case err = <-s.done:
	case <-time.After(Patience):
		_ = s.cmd.Process.Kill()
		err = <-s.done
		t.Errorf("the stack did not end on %v\n%s", sig, s.out)
	}
	s.done <- err
	_ = os.Remove(filepath.Join(s.Data, "address.json"))
}

// Environ is the environment of a stack and of those who use it: no token, data
// directory or socket of whoever runs the test.
func Environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "KILN_") && !strings.HasPrefix(kv, "XDG_RUNTIME_DIR=") {
			env = append(env, kv)
		}
	}
	return env
}

// Until waits until something is so, and ends the test if it is not with patience.
func Until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
