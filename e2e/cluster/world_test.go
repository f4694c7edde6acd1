package main_test

import (
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/events"
)

// pass copies between a connection and a new one.
func pass(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(out, in) // either side may hang up
		_ = out.(*net.TCPConn).CloseWrite()
		close(done)
	}()
	_, _ = io.Copy(in, out)
	_ = in.(*net.TCPConn).CloseWrite()
	<-done
}

// withToken passes requests on with the token that lets them in: the gateway
// that sends them knows none.
func withToken(to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, to, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		req.Header.Set("Content-Type", r.Header.Get("Content-Type"))
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // the sender does not read it
	})
}

// sink is a subscriber outside of the cluster.
type sink struct {
	url  string
	deaf atomic.Bool // it refuses everything
	mu   sync.Mutex
	got  []event.Event
}

func newSink(t *testing.T, ip string) *sink {
	s := &sink{}
	s.url = listen(t, ip, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.deaf.Load() {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			var e event.Event
			if e, err = events.DecodeHTTP(r.Header, body); err == nil {
				s.mu.Lock()
				s.got = append(s.got, e)
				s.mu.Unlock()
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	return s
}

// finished waits for the terminal event of a build of an image.
func (s *sink) finished(t *testing.T, image string, limit time.Duration) (event.Event, events.Finished) {
	t.Helper()
	var found event.Event
	var data events.Finished
	eventually(t, limit, "build.finished of "+image, func() bool {
		for _, e := range s.all(events.TypeBuildFinished) {
			var d events.Finished
			if err := e.DataAs(&d); err == nil && d.Image.Repository == image {
				found, data = e, d
				return true
			}
		}
		return false
	})
	return found, data
}

// all returns the events of a type.
func (s *sink) all(typ string) []event.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []event.Event
	for _, e := range s.got {
		if e.Type() == typ {
			out = append(out, e)
		}
	}
	return out
}

// gitServer serves repositories over HTTP, as pods and the host see them.
type gitServer struct {
	url, root, dispatcher string
}

func newGitServer(t *testing.T, ip, dispatcher string) *gitServer {
	t.Helper()
	backend := filepath.Join(strings.TrimSpace(run(t, "git", "--exec-path")), "git-http-backend")
	g := &gitServer{root: t.TempDir(), dispatcher: dispatcher}
	g.url = listen(t, ip, &cgi.Handler{
		Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + g.root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=test", "PATH=" + os.Getenv("PATH")},
	})
	return g
}

// hook tells the dispatcher of a push.
const hook = `#!/bin/sh
exec curl -sS --fail --max-time 20 -H 'Authorization: Bearer TOKEN' -H 'Content-Type: text/plain' -H 'HEADER: REPOSITORY' --data-binary @- DISPATCHER/hooks/git
`

// push makes a repository of a directory and pushes it to the branch main.
func (g *gitServer) push(t *testing.T, name, dir, header string) {
	t.Helper()
	need.Command(t, "curl")
	bare := filepath.Join(g.root, name+".git")
	run(t, "git", "init", "-q", "--bare", bare)
	text := strings.NewReplacer("TOKEN", token, "HEADER", header, "REPOSITORY", g.url+"/"+name+".git", "DISPATCHER", g.dispatcher).Replace(hook)
	check(t, os.WriteFile(filepath.Join(bare, "hooks", "post-receive"), []byte(text), 0o755))
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "-A"}, {"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "one"},
		{"push", "-q", g.url + "/" + name + ".git", "main"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// keep makes a repository of a directory, with nobody told of it, and returns its
// commit.
func (g *gitServer) keep(t *testing.T, name, dir string) string {
	t.Helper()
	bare := filepath.Join(g.root, name+".git")
	run(t, "git", "init", "-q", "--bare", bare)
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "-A"}, {"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "one"}, {"push", "-q", bare, "main"},
	} {
		run(t, "git", append([]string{"-C", dir}, args...)...)
	}
	return strings.TrimSpace(run(t, "git", "-C", dir, "rev-parse", "HEAD"))
}
