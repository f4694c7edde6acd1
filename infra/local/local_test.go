package local_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/local"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/gitd"
	"github.com/kilnhook/kiln/infra/local/localtest"
	"github.com/kilnhook/kiln/infra/local/registry"
	"github.com/kilnhook/kiln/infra/local/serving"
)

// TestMain lets the test binary be the executor and the git hook's program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "executor":
			os.Exit(localtest.Executor(context.Background(), localtest.Process{Args: os.Args[2:], Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now}))
		case "git-hook":
			if err := gitd.RunHook(context.Background(), os.Args[2:], os.Stderr); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

type stack struct {
	*local.Stack
	t    *testing.T
	stop func()
}

func config(t *testing.T, dir string) local.Config {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return local.Config{
		Dir: dir, Listen: "127.0.0.1:0", Executor: []string{exe, "executor"}, HookArgs: []string{exe, "git-hook"},
		Env: []string{"PATH=" + os.Getenv("PATH")}, BaseMirrors: []string{"127.0.0.1:1"}, Version: "test", Now: time.Now,
		Secrets: serving.Secrets{GitHub: [][]byte{[]byte("0123456789abcdef")}},
	}
}

func start(t *testing.T, cfg local.Config) *stack {
	t.Helper()
	s, err := local.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	st := &stack{Stack: s, t: t}
	st.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(st.stop)
	return st
}

// tarGz is a context with one Dockerfile.
func tarGz(t *testing.T, dockerfile string) []byte {
	t.Helper()
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	w := tar.NewWriter(zip)
	err := w.WriteHeader(&tar.Header{Name: "./Dockerfile", Mode: 0o644, Size: int64(len(dockerfile))})
	if err == nil {
		_, err = io.WriteString(w, dockerfile)
	}
	if err := errors.Join(err, w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func (s *stack) do(method, path string, body []byte, header ...string) (int, string) {
	s.t.Helper()
	url := path
	if !strings.HasPrefix(path, "http") {
		url = s.URL() + path
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// put uploads a context and returns the id of its build.
func (s *stack) put(name, dockerfile string) string {
	s.t.Helper()
	status, body := s.do("PUT", "/contexts/"+name, tarGz(s.t, dockerfile))
	if status != 201 {
		s.t.Fatalf("upload: %d %s", status, body)
	}
	var o struct{ Generation string }
	if err := json.Unmarshal([]byte(body), &o); err != nil {
		s.t.Fatal(err)
	}
	return s.buildOf("name=" + name + "&revision=" + o.Generation)
}

func (s *stack) buildOf(query string) string {
	s.t.Helper()
	var l api.List
	_, body := s.do("GET", "/api/builds?"+query, nil)
	if err := json.Unmarshal([]byte(body), &l); err != nil || len(l.Builds) != 1 {
		s.t.Fatalf("builds of %s: %v %s", query, err, body)
	}
	return l.Builds[0].ID
}

func (s *stack) build(id string) (b api.Build) {
	s.t.Helper()
	_, body := s.do("GET", "/api/builds/"+id, nil)
	if err := json.Unmarshal([]byte(body), &b); err != nil {
		s.t.Fatalf("%v: %s", err, body)
	}
	return b
}

// finish waits until a build has its outcome.
func (s *stack) finish(id string) api.Build {
	s.t.Helper()
	return s.await(id, func(b api.Build) bool { return b.Finished() && b.Event != nil })
}

func (s *stack) await(id string, ok func(api.Build) bool) api.Build {
	s.t.Helper()
	for range 2000 {
		if b := s.build(id); ok(b) {
			return b
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("build %s does not come to its end: %+v", id, s.build(id))
	return api.Build{}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_TERMINAL_PROMPT=0"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Each door starts a build; the stream of events, the list of events and a
// webhook each have its digest; the image is there under its tags.
func TestDoors(t *testing.T) {
	var posted collector
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		posted.add(r.Header.Get("ce-type") + " " + r.Header.Get("ce-buildid") + " " + r.Header.Get("ce-imagedigest") + "\n")
	}))
	defer hook.Close()
	cfg := config(t, t.TempDir())
	cfg.Webhooks = []bus.Subscriber{{Name: "test", URL: hook.URL}}
	s := start(t, cfg)
	stream, err := http.Get(s.URL() + "/events?type=" + events.TypeBuildFinished)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	var streamed collector
	go func() {
		in := bufio.NewScanner(stream.Body)
		for in.Scan() {
			streamed.add(in.Text() + "\n")
		}
	}()

	repo := t.TempDir()
	git(t, repo, "init", "-q", "-b", "größe")
	if err := os.WriteFile(filepath.Join(repo, "Dockerfile"), []byte("FROM x"), 0o600); err != nil {
		t.Fatal(err)
	}
	git(t, repo, "add", "-A")
	git(t, repo, "commit", "-q", "-m", "one")
	said := git(t, repo, "push", s.URL()+"/git/team/app.git", "größe")
	head := git(t, repo, "rev-parse", "HEAD")

	put := s.put("shop/ctx.tar.gz", "FROM x")
	if status, body := s.do("PUT", s.S3URL()+"/contexts/s3/ctx.tar.gz", tarGz(t, "FROM x")); status != 200 {
		t.Fatalf("s3: %d %s", status, body)
	}
	for _, tc := range []struct{ id, image, tags string }{
		{put, "shop", "latest"},
		{s.buildOf("name=s3/ctx.tar.gz"), "s3", "latest"},
		{s.buildOf("name=refs/heads/gr%C3%B6%C3%9Fe&revision=" + head), "team-app", head[:12]},
	} {
		b := s.finish(tc.id)
		if b.Result.Outcome != events.OutcomeSuccess || b.Request.Image != s.Registry()+"/"+tc.image {
			t.Fatalf("%+v %s", b.Result, b.Request.Image)
		}
		got, err := registry.Client{}.Resolve(t.Context(), b.Request.Image+":"+tc.tags)
		if err != nil || got != b.Result.Digest {
			t.Errorf("tag %s is %s, %v; want %s", tc.tags, got, err, b.Result.Digest)
		}
		posted.await(t, events.TypeBuildFinished+" "+tc.id+" "+b.Result.Digest)
		streamed.await(t, b.Result.Digest)
		if _, list := s.do("GET", "/api/events?type="+events.TypeBuildFinished, nil); !strings.Contains(list, tc.id) || !strings.Contains(list, b.Result.Digest) {
			t.Errorf("list of events: %s", list)
		}
	}
	if !strings.Contains(said, "started, follow with: kiln logs -f ") {
		t.Errorf("pusher sees %s", said)
	}
	git(t, repo, "push", s.URL()+"/git/team/app.git", ":größe")
	if _, body := s.do("GET", "/api/builds", nil); strings.Count(body, `"buildId"`) != 3 {
		t.Errorf("a deleted branch was built: %s", body)
	}
}

// collector collects text from elsewhere.
type collector struct {
	mu   sync.Mutex
	text string
}

func (c *collector) add(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text += text
}

// await waits until the text is among what was collected.
func (c *collector) await(t *testing.T, text string) {
	t.Helper()
	for range 1000 {
		c.mu.Lock()
		have := c.text
		c.mu.Unlock()
		if strings.Contains(have, text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("no %q in %s", text, c.text)
}

// A restart loses no build, event, tag or log, keeps the address, and gives
// what ran another attempt and what waited its turn.
func TestRestart(t *testing.T) {
	dir, gate := t.TempDir(), filepath.Join(t.TempDir(), "go")
	cfg := config(t, dir)
	cfg.Parallel = 1
	s := start(t, cfg)
	url := s.URL()
	done := s.finish(s.put("done/ctx", "FROM done"))
	log := func() string { _, body := s.do("GET", "/v1/builds/"+done.ID+"/log", nil); return body }
	logBefore := log()
	running := s.put("running/ctx", "# wait "+gate)
	s.await(running, func(b api.Build) bool { return b.State == api.StateRunning })
	waiting := s.put("waiting/ctx", "FROM waiting")
	if b := s.build(waiting); b.State != api.StateQueued || b.Position != 1 {
		t.Errorf("%+v", b)
	}
	_, eventsBefore := s.do("GET", "/api/events", nil)
	s.stop()

	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg)
	if s.URL() != url {
		t.Errorf("at %s, was at %s", s.URL(), url)
	}
	for id, attempt := range map[string]int{running: 2, waiting: 1} {
		b := s.finish(id)
		var e struct {
			Data struct{ Build struct{ Attempt int } }
		}
		if err := json.Unmarshal(*b.Event, &e); err != nil || b.Result.Outcome != events.OutcomeSuccess || e.Data.Build.Attempt != attempt {
			t.Errorf("attempt %d, want %d: %+v %v", e.Data.Build.Attempt, attempt, b.Result, err)
		}
	}
	again := s.build(done.ID)
	if again.Result.Digest != done.Result.Digest || string(*again.Event) != string(*done.Event) || log() != logBefore || logBefore == "" {
		t.Errorf("the finished build changed: %+v", again)
	}
	if got, err := (registry.Client{}).Resolve(t.Context(), done.Request.Image+":latest"); err != nil || got != done.Result.Digest {
		t.Errorf("tag: %s %v", got, err)
	}
	if _, now := s.do("GET", "/api/events", nil); !strings.HasPrefix(now, eventsBefore) {
		t.Errorf("events were %s, are %s", eventsBefore, now)
	}
	finished := 0
	_, all := s.do("GET", "/api/events?type="+events.TypeBuildFinished, nil)
	for line := range strings.Lines(all) {
		finished += strings.Count(line, running+".finished")
	}
	if finished != 1 {
		t.Errorf("the interrupted build finished %d times", finished)
	}
}

// What goes wrong ends in one event whose message says what, and the next
// build works.
func TestBadInput(t *testing.T) {
	s := start(t, config(t, t.TempDir()))
	for _, tc := range []struct {
		name, dockerfile string
		raw              []byte
		outcome          events.Outcome
		class            events.Class
		message          string
	}{
		{"fails", "# fail", nil, "failed", "build", "Dockerfile:2: RUN work: status 3"},
		{"killed", "# kill", nil, "error", "infra", "killed by signal 9"},
		{"not gzip", "", []byte("plain"), "failed", "source", "not a gzip"},
		{"truncated", "", tarGz(t, strings.Repeat("FROM x\n", 10))[:40], "failed", "source", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := "bad/" + strings.ReplaceAll(tc.name, " ", "-")
			var id string
			if tc.raw == nil {
				id = s.put(name, tc.dockerfile)
			} else {
				if status, body := s.do("PUT", "/contexts/"+name, tc.raw); status != 201 {
					t.Fatalf("%d %s", status, body)
				}
				id = s.buildOf("name=" + name)
			}
			b := s.finish(id)
			if b.Result.Outcome != tc.outcome || b.Result.Class != tc.class || !strings.Contains(b.Result.Message, tc.message) {
				t.Errorf("%+v", b.Result)
			}
			if _, all := s.do("GET", "/api/events?type="+events.TypeBuildFinished, nil); strings.Count(all, id+".finished") != 1 {
				t.Errorf("events: %s", all)
			}
			if b := s.finish(s.put("good/ctx", "FROM x")); b.Result.Outcome != events.OutcomeSuccess {
				t.Errorf("the next build: %+v", b.Result)
			}
		})
	}
	if status, body := s.do("PUT", "/contexts/bad/empty", nil); status != 400 || !strings.Contains(body, "empty") {
		t.Errorf("empty: %d %s", status, body)
	}
	if status, _ := s.do("POST", "/hooks/github", []byte(`{}`), "X-GitHub-Event", "push", "Content-Type", "application/json"); status != 401 && status != 403 {
		t.Errorf("unsigned webhook: %d", status)
	}
}

// The same event a hundred times at once is one build.
func TestHundredAtOnce(t *testing.T) {
	s := start(t, config(t, t.TempDir()))
	id := s.put("app/ctx", "FROM x")
	s.finish(id)
	c := s.build(id).Request.Change
	e, err := events.SourceChangedEvent("x", "y", c)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			resp, err := http.Post(s.URL()+"/events/in", "application/cloudevents+json", bytes.NewReader(data))
			if err != nil || resp.StatusCode >= 300 {
				t.Errorf("%v %v", resp, err)
				return
			}
			resp.Body.Close()
		})
	}
	wg.Wait()
	if _, body := s.do("GET", "/api/builds", nil); strings.Count(body, `"buildId"`) != 1 {
		t.Errorf("%s", body)
	}
}

// A running build can be cancelled, is so once, and its log ends.
func TestCancel(t *testing.T) {
	s := start(t, config(t, t.TempDir()))
	id := s.put("app/ctx", "# wait /nonexistent")
	s.await(id, func(b api.Build) bool { return b.State == api.StateRunning })
	if status, body := s.do("POST", "/api/builds/"+id[:8]+"/cancel", nil); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if b := s.finish(id); b.Result.Outcome != events.OutcomeCancelled {
		t.Errorf("%+v", b.Result)
	}
	if status, log := s.do("GET", "/v1/builds/"+id+"/log?follow=1", nil); status != 200 || !strings.Contains(log, "the build was cancelled") {
		t.Errorf("%d %s", status, log)
	}
	if status, body := s.do("POST", "/api/builds/"+id+"/cancel", nil); status != 200 {
		t.Errorf("cancelled twice: %d %s", status, body)
	}
	done := s.put("app/ctx", "FROM x")
	s.finish(done)
	if status, body := s.do("POST", "/api/builds/"+done+"/cancel", nil); status != 409 || !strings.Contains(body, "finished already") {
		t.Errorf("cancel what is finished: %d %s", status, body)
	}
}

// The API refuses what makes no sense, and pages show what was asked for with
// everything in it as text.
func TestAPIAndPages(t *testing.T) {
	s := start(t, config(t, t.TempDir()))
	id := s.put("app/ctx", "# evil")
	s.finish(id)
	second := s.put("app/ctx2", "FROM x")
	s.finish(second)
	for _, tc := range []struct {
		path   string
		status int
		want   string
	}{
		{"/api/builds/zzzz", 400, "not a build id"},
		{"/api/builds/" + strings.Repeat("0", 26), 404, "no build"},
		{"/api/builds/0123456", 404, "no build begins with"},
		{"/api/builds?limit=x", 400, "limit"},
		{"/api/builds?limit=1", 200, `"next":"`},
		{"/api/builds/" + id[:12], 200, id},
		{"/v1/builds/" + id + "/log?offset=x", 400, "offset"},
		{"/v1/builds/" + id + "/log?format=text&follow=1", 200, "#1 done 7ms\n"},
		{"/api/events?after=x", 400, "after"},
		{"/healthz", 200, `"status":"ok"`},
		{"/builds/" + id[:12], 200, "&lt;script&gt;alert(1)&lt;/script&gt; gone"},
		{"/", 200, "/builds/" + id},
		{"/trends", 200, "upload"},
		{"/static/../local.go", 404, ""},
		{"/schemas/build.finished.v1.json", 200, "$schema"},
		{"/nothing", 404, ""},
	} {
		status, body := s.do("GET", tc.path, nil)
		if status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d %.300s, want %d %q", tc.path, status, body, tc.status, tc.want)
		}
		if strings.Contains(body, "<script>alert") && !strings.HasPrefix(tc.path, "/api/") && !strings.HasPrefix(tc.path, "/v1/") {
			t.Errorf("%s: markup got through", tc.path)
		}
	}
	var first, next api.List
	_, body := s.do("GET", "/api/builds?limit=1", nil)
	if err := json.Unmarshal([]byte(body), &first); err != nil || first.Builds[0].ID != second {
		t.Fatalf("%v %s", err, body)
	}
	_, body = s.do("GET", "/api/builds?limit=1&after="+first.Next, nil)
	if err := json.Unmarshal([]byte(body), &next); err != nil || len(next.Builds) != 1 || next.Builds[0].ID != id || next.Next != "" {
		t.Errorf("%v %s", err, body)
	}
}

// Pages of other sites can neither read through a host name of theirs nor
// write.
func TestGuard(t *testing.T) {
	cfg := config(t, t.TempDir())
	cfg.Hosts = []string{"kiln.example"}
	s := start(t, cfg)
	for _, tc := range []struct {
		name, method, path string
		header             []string
		status             int
	}{
		{"rebound name", "GET", "/api/builds", []string{"Host", "evil.example"}, 421},
		{"rebound name at s3", "GET", s.S3URL() + "/", []string{"Host", "evil.example"}, 421},
		{"allowed name", "GET", "/api/builds", []string{"Host", "kiln.example:8765"}, 200},
		{"localhost", "GET", "/api/builds", []string{"Host", "localhost:8765"}, 200},
		{"other site writes", "POST", "/api/builds/" + strings.Repeat("0", 26) + "/cancel", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"other origin uploads", "PUT", "/contexts/a", []string{"Origin", "http://evil.example"}, 403},
		{"other site reads", "GET", "/git/new.git/info/refs?service=git-receive-pack", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{"other site makes events", "POST", "/hooks/git", []string{"Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"}, 403},
		{"hook without token", "POST", "/internal/git-hook", nil, 403},
	} {
		if status, body := s.do(tc.method, tc.path, nil, tc.header...); status != tc.status {
			t.Errorf("%s: %d %s", tc.name, status, body)
		}
	}
}

// Two stacks cannot share a directory; the error says who has it.
func TestOneStackPerDirectory(t *testing.T) {
	cfg := config(t, t.TempDir())
	s := start(t, cfg)
	for range 200 {
		if _, err := os.Stat(filepath.Join(cfg.Dir, "address.json")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_, err := local.Open(t.Context(), cfg)
	if !errors.Is(err, local.ErrInUse) || !strings.Contains(err.Error(), s.URL()) || !strings.Contains(err.Error(), "--data") {
		t.Errorf("%v", err)
	}
	other := config(t, t.TempDir())
	other.Listen = s.Registry()
	if _, err := local.Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("%v", err)
	}
	other.Listen, other.Triggers, other.TriggersFile = "127.0.0.1:0", []byte("nonsense: 1"), "kiln.yaml"
	if _, err := local.Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), "kiln.yaml:1") {
		t.Errorf("%v", err)
	}
}
