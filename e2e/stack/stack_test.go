// Package stack tests the one-machine stack through its public doors: the
// binaries as binaries, real git, a real S3 client, real builds on Debian.
package stack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/stackd"
	"github.com/kilnhook/kiln/e2e/internal/tools"
)

const patience = stackd.Patience

// programs are compiled once.
var programs struct{ kiln, executor string } // made by TestMain

func TestMain(m *testing.M) {
	tools.Main(m, map[string]*string{"infra/kiln": &programs.kiln, "executor": &programs.executor})
}

// server is a running stack.
type server struct{ *stackd.Stack }

// start starts a stack that ends with the test.
func start(t *testing.T, flags ...string) *server { return startOn(t, "", flags...) }

// startOn is start with a data directory.
func startOn(t *testing.T, data string, flags ...string) *server {
	t.Helper()
	return &server{stackd.Start(t, stackd.Options{Kiln: programs.kiln, Executor: programs.executor, Data: data, Flags: flags})}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command runs the kiln command against the stack.
func (s *server) command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), programs.kiln, append(args, "--server", s.URL)...)
	cmd.Env = append(os.Environ(), "KILN_DATA="+s.Data)
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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/events?lastEventId=0", nil)
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
	stackd.Until(t, fmt.Sprintf("build.finished number %d", n), func() bool { return len(s.finished()) >= n })
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
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+"/contexts/"+key, bytes.NewReader(content))
	check(t, err)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	return resp.StatusCode, string(body)
}
