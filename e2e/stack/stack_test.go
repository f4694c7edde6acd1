// Package stack tests the one-machine stack through its public doors: the
// binaries as binaries, real git, a real S3 client, real builds on Debian.
package stack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/need"
)

// patience is how long a build may take on a busy machine.
const patience = 2 * time.Minute

// programs are compiled once.
var programs struct { // made by TestMain
	kiln, executor string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kiln-stack-*")
	if err == nil {
		programs.kiln, programs.executor = filepath.Join(dir, "kiln"), filepath.Join(dir, "executor")
		err = errors.Join(compile(programs.kiln, "../../infra/kiln"), compile(programs.executor, "../../executor"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

func compile(out, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// server is a running stack.
type server struct {
	data string
	flag []string
	url  string
	s3   string
	cmd  *exec.Cmd
	done chan error
	out  *bytes.Buffer
	base string // registry with Debian
}

// start starts a stack with a registry of base images behind it. Both end with
// the test.
func start(t *testing.T, flags ...string) *server {
	t.Helper()
	return startOn(t, t.TempDir(), flags...)
}

// startOn is start with a data directory.
func startOn(t *testing.T, data string, flags ...string) *server {
	t.Helper()
	need.Root(t)
	registry, err := registryd.Start(t.Context(), need.Command(t, "docker-registry"), t.TempDir(), nil)
	check(t, err)
	t.Cleanup(func() { check(t, registry.Stop()) })
	dir, err := cache.Default()
	check(t, err)
	need.Command(t, "mmdebstrap")
	debian, err := baseimage.Debian(t.Context(), dir, os.Stderr)
	check(t, err)
	_, err = baseimage.Push(t.Context(), debian, registry.Host+"/library/debian:bookworm-slim")
	check(t, err)
	s := &server{data: data, flag: flags, base: registry.Host}
	s.run(t)
	t.Cleanup(func() { s.stop(t, syscall.SIGTERM) })
	return s
}

// run starts the process on the data directory and waits until it answers.
func (s *server) run(t *testing.T) {
	t.Helper()
	listen, listenS3 := "127.0.0.1:0", "127.0.0.1:0"
	if s.url != "" { // again: where it was
		listen, listenS3 = strings.TrimPrefix(s.url, "http://"), strings.TrimPrefix(s.s3, "http://")
	}
	args := append([]string{"up", "--data", s.data, "--listen", listen, "--listen-s3", listenS3,
		"--executor", programs.executor, "--base-mirror", s.base, "--executor-arg=--insecure-registry=" + s.base}, s.flag...)
	s.cmd = exec.Command(programs.kiln, args...)
	s.cmd.Env = append(os.Environ(), "KILN_DATA="+s.data)
	s.out = &bytes.Buffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, s.cmd.Start())
	s.done = make(chan error, 1)
	go func(c *exec.Cmd, done chan error) { done <- c.Wait() }(s.cmd, s.done)
	s.url = ""
	until(t, "the stack answers", func() bool {
		select {
		case err := <-s.done:
			s.done <- err
			t.Fatalf("the stack ended: %v\n%s", err, s.out)
		default:
		}
		var a struct{ HTTP, S3 string }
		raw, err := os.ReadFile(filepath.Join(s.data, "address.json"))
		if err != nil || json.Unmarshal(raw, &a) != nil {
			return false
		}
		s.url, s.s3 = a.HTTP, a.S3
		resp, err := http.Get(s.url + "/healthz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// stop sends a signal and waits for the end.
func (s *server) stop(t *testing.T, sig syscall.Signal) {
	t.Helper()
	_ = s.cmd.Process.Signal(sig)
	select {
	case err := <-s.done:
		s.done <- err
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		t.Errorf("the stack did not end on %v\n%s", sig, s.out)
	}
	_ = os.Remove(filepath.Join(s.data, "address.json"))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

// command runs the kiln command against the stack.
func (s *server) command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), programs.kiln, append(args, "--server", s.url)...)
	cmd.Env = append(os.Environ(), "KILN_DATA="+s.data)
	out, err := process.Run(t.Context(), cmd, nil)
	return string(out), err
}

// event is what a subscriber sees of build.finished.
type event struct {
	ID, Type, Subject, Outcome, ImageDigest string
	Data                                    struct {
		Build   struct{ ID, Trigger string }
		Class   string
		Message string
		Source  struct{ Object, Ref, Commit string }
		Image   struct {
			Repository string
			Digest     string
			TagsMoved  []string
			Platforms  []struct{ OS, Arch, Digest string }
		}
	}
}

// subscriber reads GET /events from the beginning.
type subscriber struct {
	mu     sync.Mutex
	events []event
	raw    []string
}

func (s *server) subscribe(t *testing.T) *subscriber {
	t.Helper()
	sub := &subscriber{}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/events?lastEventId=0", nil)
	check(t, err)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		sc := bufio.NewScanner(resp.Body)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			data, ok := strings.CutPrefix(sc.Text(), "data:")
			if !ok {
				continue
			}
			var e event
			if json.Unmarshal([]byte(strings.TrimSpace(data)), &e) == nil {
				sub.mu.Lock()
				sub.events = append(sub.events, e)
				sub.raw = append(sub.raw, data)
				sub.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { cancel(); _ = resp.Body.Close(); <-done })
	return sub
}

// finished returns the build.finished events so far.
func (s *subscriber) finished() []event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []event
	for _, e := range s.events {
		if e.Type == "dev.kilnhook.build.finished.v1" {
			out = append(out, e)
		}
	}
	return out
}

// wait waits for the n-th build.finished event.
func (s *subscriber) wait(t *testing.T, n int) event {
	t.Helper()
	until(t, fmt.Sprintf("build.finished number %d", n), func() bool { return len(s.finished()) >= n })
	return s.finished()[n-1]
}

// success asserts that an event names an image that is there, whole.
func (s *server) success(t *testing.T, e event) {
	t.Helper()
	if e.Outcome != "success" || e.ImageDigest == "" || e.Subject != e.Data.Image.Repository+"@"+e.ImageDigest {
		t.Fatalf("the event says %+v", e)
	}
	img := pull(t, e.Subject)
	check(t, validate.Image(img))
	for _, tag := range e.Data.Image.TagsMoved {
		d, err := pull(t, e.Data.Image.Repository+":"+tag).Digest()
		check(t, err)
		if d.String() != e.ImageDigest {
			t.Errorf("tag %s is %s, the event says %s", tag, d, e.ImageDigest)
		}
	}
}

func pull(t *testing.T, ref string) v1.Image {
	t.Helper()
	r, err := name.ParseReference(ref, name.Insecure)
	check(t, err)
	img, err := remote.Image(r)
	check(t, err)
	return img
}

// app writes a small app and returns its directory.
func app(t *testing.T, dockerfile string) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "hello"), []byte("hello\n"), 0o644))
	return dir
}

const working = "FROM debian:bookworm-slim\nCOPY hello /hello\nRUN cat /hello > /copied\n"

func archive(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "context.tar.gz")
	_, err := process.Run(t.Context(), exec.CommandContext(t.Context(), "tar", "-czf", file, "-C", dir, "."), nil)
	check(t, err)
	return file
}

// upload puts a file into the bucket by plain HTTP and returns status and body.
func (s *server) upload(t *testing.T, key string, content []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.url+"/contexts/"+key, bytes.NewReader(content))
	check(t, err)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	return resp.StatusCode, string(body)
}
