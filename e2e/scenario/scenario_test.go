package scenario

import (
	"bytes"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/e2e/servers"
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

	sink := newSubscriber(t)
	root := t.TempDir()
	repositories := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(runGit(t, root, "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "PATH=" + os.Getenv("PATH")},
	})
	t.Cleanup(repositories.Close)

	m := newMachine(t, registry.Host, sink.server.URL)
	All(t, World{
		URL: m.url, Root: root, Limit: 2 * time.Minute, Upload: m.upload, Restart: m.restart, Deaf: sink.deaf.Store, Finished: sink.finished,
		Repository: func(name string) string { return repositories.URL + "/" + name },
		Image:      func(name string) string { return registry.Host + "/built/" + name },
	}, base)
}

// subscriber is told what becomes of builds.
type subscriber struct {
	server *httptest.Server
	deaf   atomic.Bool
	mu     sync.Mutex
	got    []event.Event
}

func newSubscriber(t *testing.T) *subscriber {
	t.Helper()
	s := &subscriber{}
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.deaf.Load() {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the sender is gone
		}
		e, err := events.DecodeHTTP(r.Header, body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got = append(s.got, e)
	}))
	t.Cleanup(s.server.Close)
	return s
}

// finished are the events of builds that ended.
func (s *subscriber) finished() []event.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []event.Event
	for _, e := range s.got {
		if e.Type() == events.TypeBuildFinished {
			all = append(all, e)
		}
	}
	return all
}

// machine is a dispatcher that runs executors as its children, and a bucket.
type machine struct {
	url        string
	program    string
	args, env  []string
	cmd        *exec.Cmd
	dispatcher *process.Server
	s3         servers.S3
}

func newMachine(t *testing.T, registry, sink string) *machine {
	t.Helper()
	dir := t.TempDir()
	for program, pkg := range map[string]string{"dispatcher": "../../functions/dispatcher", "executor": "../../executor"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(dir, program), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		_, err := process.Run(t.Context(), cmd, nil)
		check(t, err)
	}
	triggers := filepath.Join(dir, "kiln.yaml")
	check(t, os.WriteFile(triggers, []byte("triggers:"+Triggers(registry)), 0o600))
	address := port.Free(t)
	m := &machine{url: "http://" + address, program: filepath.Join(dir, "dispatcher")}
	m.s3 = servers.Versity(t, servers.VersityOptions{Webhook: relay(t, m.url) + "/hooks/s3"})
	m.args = []string{"--listen", address, "--data", filepath.Join(dir, "data"),
		"--triggers", triggers, "--executor", filepath.Join(dir, "executor"), "--sink", sink, "--insecure-registry", registry, "--sweep", "5s"}
	m.env = append(os.Environ(), "GIT_PULL_METHOD=http", "S3_ENDPOINT="+m.s3.URL, "S3_FORCE_PATH_STYLE=true", "AWS_REGION="+m.s3.Region,
		"AWS_ACCESS_KEY_ID="+m.s3.AccessKey, "AWS_SECRET_ACCESS_KEY="+m.s3.SecretKey)
	for name, value := range Secrets() {
		m.env = append(m.env, name+"="+value)
	}
	m.start(t)
	t.Cleanup(func() { check(t, m.dispatcher.Stop()) })
	for _, bucket := range Buckets() {
		m.aws(t, nil, "s3", "mb", "s3://"+bucket)
	}
	return m
}

// relay passes requests on to a server that need not be there yet: the gateway tries
// when it starts whether its notifications arrive.
func relay(t *testing.T, to string) string {
	t.Helper()
	target, err := url.Parse(to)
	check(t, err)
	server := httptest.NewServer(httputil.NewSingleHostReverseProxy(target))
	t.Cleanup(server.Close)
	return server.URL
}

// start starts the dispatcher and waits until it serves.
func (m *machine) start(t *testing.T) {
	t.Helper()
	m.cmd = exec.Command(m.program, m.args...)
	m.cmd.Env = m.env
	var err error
	m.dispatcher, err = process.Start("dispatcher", m.cmd, false, nil, nil)
	check(t, err)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(m.url + "/healthz")
		if err == nil {
			check(t, resp.Body.Close())
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// restart kills the dispatcher and starts it again.
func (m *machine) restart(t *testing.T) {
	t.Helper()
	check(t, m.cmd.Process.Kill())
	<-m.dispatcher.Done()
	m.start(t)
}

// upload stores an object.
func (m *machine) upload(t *testing.T, bucket, object string, body []byte) {
	t.Helper()
	m.aws(t, body, "s3", "cp", "-", "s3://"+bucket+"/"+object)
}

// aws runs the AWS command line.
func (m *machine) aws(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), need.Command(t, "aws"), append([]string{"--endpoint-url", m.s3.URL}, args...)...)
	cmd.Env, cmd.Stdin = append(m.env, "AWS_EC2_METADATA_DISABLED=true"), bytes.NewReader(stdin)
	_, err := process.Run(t.Context(), cmd, nil)
	check(t, err)
}

// Names of repositories are what is left of those of scenarios.
func TestLetters(t *testing.T) {
	if got := strings.Map(letters, "a hundred, 100"); got != "ahundred" {
		t.Errorf("got %q", got)
	}
}
