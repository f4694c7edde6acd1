package scenario

import (
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/events"
)

// TestOneMachine runs every scenario with the dispatcher and executors as
// processes of this machine. That they are the same on a cluster is
// e2e/cluster.TestCluster.
func TestOneMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	need.Root(t)
	need.Command(t, "mmdebstrap")
	registry, err := registryd.Start(t.Context(), need.Command(t, "docker-registry"), t.TempDir(), nil)
	check(t, err)
	t.Cleanup(func() { check(t, registry.Stop()) })
	kept, err := cache.Default()
	check(t, err)
	debian, err := baseimage.Debian(t.Context(), kept, os.Stderr)
	check(t, err)
	base := registry.Host + "/library/debian:bookworm-slim"
	_, err = baseimage.Push(t.Context(), debian, base)
	check(t, err)

	var mu sync.Mutex
	var finished []event.Event
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		e, err := events.DecodeHTTP(r.Header, body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if e.Type() == events.TypeBuildFinished {
			finished = append(finished, e)
		}
	}))
	t.Cleanup(sink.Close)
	root := t.TempDir()
	repositories := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(run(t, root, "git", "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "PATH=" + os.Getenv("PATH")},
	})
	t.Cleanup(repositories.Close)

	All(t, World{
		URL: startDispatcher(t, registry.Host, sink.URL), Root: root, Limit: 2 * time.Minute,
		Repository: func(name string) string { return repositories.URL + "/" + name },
		Image:      func(repository string) string { return registry.Host + "/built/" + repository },
		Finished: func() []event.Event {
			mu.Lock()
			defer mu.Unlock()
			return append([]event.Event{}, finished...)
		},
	}, base)
}

// startDispatcher starts a dispatcher that runs executors as its children, and
// returns its URL.
func startDispatcher(t *testing.T, registry, sink string) string {
	t.Helper()
	dir := t.TempDir()
	for program, pkg := range map[string]string{"dispatcher": "../../functions/dispatcher", "executor": "../../executor"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(dir, program), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		_, err := process.Run(t.Context(), cmd, nil)
		check(t, err)
	}
	triggers := filepath.Join(dir, "kiln.yaml")
	check(t, os.WriteFile(triggers, []byte(`name: push
on: {git: {repo: "**"}}
push: {image: "`+registry+`/built/{{ .Repo.Name | slug }}", tags: ["{{ .Ref.Slug }}"]}
run: {timeout: 2m}
`), 0o600))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := l.Addr().String()
	check(t, l.Close())
	cmd := exec.Command(filepath.Join(dir, "dispatcher"), "--listen", address, "--data", filepath.Join(dir, "data"),
		"--triggers", triggers, "--executor", filepath.Join(dir, "executor"), "--sink", sink, "--insecure-registry", registry, "--sweep", "5s")
	cmd.Env = append(os.Environ(), "GIT_PULL_METHOD=http")
	s, err := process.Start("dispatcher", cmd, false, nil, nil)
	check(t, err)
	t.Cleanup(func() { check(t, s.Stop()) })
	url := "http://" + address
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(url + "/healthz")
		if err == nil {
			check(t, resp.Body.Close())
			return url
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Names of repositories are what is left of those of scenarios.
func TestLetters(t *testing.T) {
	if got := strings.Map(letters, "a hundred, 100"); got != "ahundred" {
		t.Errorf("got %q", got)
	}
}
