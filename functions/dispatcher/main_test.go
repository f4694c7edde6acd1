package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/bus"
)

const (
	before = "a10867b14bb761a232cd80139fbd4c0d33264240"
	after  = "199eddf46df50de8d02e99bf1c5fdb4101338224"
)

// fakeExecutor writes a program that stands for the executor: it keeps its
// arguments and reports a digest as its result.
func fakeExecutor(t *testing.T, digest string) (program, argsFile string) {
	t.Helper()
	dir := t.TempDir()
	program, argsFile = filepath.Join(dir, "executor"), filepath.Join(dir, "args")
	script := fmt.Sprintf(`#!/bin/sh
printf '%%s\n' "$@" > %q
env > %q
echo 'what the executor says' >&2
while [ $# -gt 0 ]; do [ "$1" = --result-file ] && result=$2; shift; done
printf '{"outcome":"success","digest":"%s"}' > "$result.new" && mv "$result.new" "$result"
`, argsFile, argsFile+".env", digest)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return program, argsFile
}

// sink receives what the dispatcher posts.
type sink struct {
	*httptest.Server
	got chan event.Event
}

func newSink(t *testing.T, secret []byte) *sink {
	s := &sink{got: make(chan event.Event, 100)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		e, err := events.DecodeHTTP(r.Header, body)
		if err != nil {
			t.Error(err)
		}
		if want := bus.Sign(secret, e.ID(), time.Unix(1795400000, 0), body); r.Header.Get("Webhook-Signature") != want {
			t.Errorf("signature %s, want %s", r.Header.Get("Webhook-Signature"), want)
		}
		s.got <- e
	}))
	t.Cleanup(s.Close)
	return s
}

// await returns the first event of a type.
func (s *sink) await(t *testing.T, typ string) event.Event {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case e := <-s.got:
			if e.Type() == typ {
				return e
			}
		case <-deadline:
			t.Fatalf("no %s came", typ)
		}
	}
}

// image puts an image into a registry and returns the registry's host and the
// digest, which no tag names.
func image(t *testing.T) (host, digest string) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(host + "/app@" + hash.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return host, hash.String()
}

// start runs the program until stop is called.
func start(t *testing.T, env []string, args ...string) (url string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	p := process{
		args: append([]string{"--listen", "127.0.0.1:0"}, args...), env: env, stderr: t.Output(),
		now: func() time.Time { return time.Unix(1795400000, 0) }, ready: func(a string) { ready <- a },
	}
	go func() { done <- run(ctx, p) }()
	select {
	case address := <-ready:
		stop = sync.OnceFunc(func() {
			cancel(errors.New("the test is over"))
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		})
		t.Cleanup(stop)
		return "http://" + address, stop
	case err := <-done:
		cancel(nil)
		t.Fatal(err)
		return "", nil
	}
}

func write(t *testing.T, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// post sends a webhook as GitHub does.
func post(t *testing.T, url, secret string) (int, string) {
	t.Helper()
	body := fmt.Sprintf(`{"ref":"refs/heads/main","before":%q,"after":%q,"repository":{"clone_url":"https://github.com/acme/shop.git"}}`, before, after)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/hooks/github", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// A push becomes a build by a child process, the digest is verified in the
// registry, the tag is moved there, and the sink is told, signed. After a
// restart the same push is the same build.
func TestPushToEvent(t *testing.T) {
	host, digest := image(t)
	executor, argsFile := fakeExecutor(t, digest)
	secret := []byte("0123456789abcdef0123456789abcdef")
	to := newSink(t, secret)
	triggers := write(t, "name: app\non: {git: {repo: github.com/acme/shop}}\npush: {image: "+host+"/app, tags: ['{{ .Ref.Slug }}']}\n")
	env := append(os.Environ(), "KILN_GITHUB_SECRET=s3cr3t", "KILN_SINK_SECRET="+string(secret), "K_SINK="+to.URL)
	args := []string{"--data", t.TempDir(), "--triggers", triggers, "--executor", executor, "--executor-flag=--cache", "--install", "test"}

	url, stop := start(t, env, args...)
	if status, text := post(t, url, "wrong"); status != http.StatusUnauthorized {
		t.Errorf("wrong secret: %d %s", status, text)
	}
	status, first := post(t, url, "s3cr3t")
	if status != http.StatusAccepted {
		t.Fatalf("%d %s", status, first)
	}
	to.await(t, events.TypeBuildStarted)
	e := to.await(t, events.TypeBuildFinished)
	if e.Extensions()["outcome"] != "success" || e.Subject() != host+"/app@"+digest || e.Source() != "/kiln/test/default" {
		t.Errorf("event %s", e)
	}
	ref, err := name.NewTag(host + "/app:main")
	if err != nil {
		t.Fatal(err)
	}
	if head, err := remote.Head(ref); err != nil || head.Digest.String() != digest {
		t.Errorf("tag main: %v, %v", head, err)
	}
	checkExecutor(t, argsFile, host)
	if log := get(t, url+"/v1/builds/"+buildID(t, first)+"/log?follow=1"); !strings.Contains(log, `"kind":"note","text":"what the executor says"}`) {
		t.Errorf("the log of the build: %q", log)
	}
	for path, want := range map[string]string{"/?outcome=success": "github.com/acme/shop", "/builds/" + buildID(t, first): "docker pull " + host + "/app@" + digest} {
		body := get(t, url+path)
		for end := time.Now().Add(10 * time.Second); !strings.Contains(body, want) && time.Now().Before(end); body = get(t, url+path) {
			time.Sleep(20 * time.Millisecond) // the list follows events, and may not have come to the last
		}
		if !strings.Contains(body, want) {
			t.Errorf("the page %s has no %q:\n%s", path, want, body)
		}
	}
	stop()

	url, _ = start(t, env, args...)
	status, again := post(t, url, "s3cr3t")
	if status != http.StatusAccepted || !strings.Contains(again, `"duplicate"`) || !strings.Contains(first, buildID(t, again)) {
		t.Errorf("after a restart: %d %s, at first %s", status, again, first)
	}
}

// get gets a page.
func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v", url, resp.Status, err)
	}
	return string(body)
}

// buildID is the id in an answer.
func buildID(t *testing.T, answer string) string {
	t.Helper()
	_, rest, ok := strings.Cut(answer, `"buildId":"`)
	if !ok || len(rest) < 26 {
		t.Fatalf("no build id in %s", answer)
	}
	return rest[:26]
}

// checkExecutor checks what the executor was given.
func checkExecutor(t *testing.T, argsFile, host string) {
	t.Helper()
	args, err := os.ReadFile(argsFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"--context\ngit://github.com/acme/shop.git#refs/heads/main#" + after + "\n", "--destination\n" + host + "/app\n", "--push-by-digest\n", "--cache\n",
	} {
		if !bytes.Contains(args, []byte(want)) {
			t.Errorf("arguments of the executor lack %q:\n%s", want, args)
		}
	}
	env, err := os.ReadFile(argsFile + ".env")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(env, []byte("KILN_")) || bytes.Contains(env, []byte("s3cr3t")) {
		t.Error("the executor sees our secrets")
	}
}

// The streams and doors other than GitHub's need a token where there is one.
func TestTokens(t *testing.T) {
	executor, _ := fakeExecutor(t, "")
	triggers := write(t, "name: app\non: {git: {repo: h/r}}\n")
	url, _ := start(t, []string{"PATH=" + os.Getenv("PATH"), "KILN_TOKEN=t0ken"}, "--data", t.TempDir(), "--triggers", triggers, "--executor", executor)
	for _, tc := range []struct {
		method, path, token string
		status              int
	}{
		{"GET", "/healthz", "", 200}, {"GET", "/events", "", 401}, {"HEAD", "/events", "t0ken", 200},
		{"POST", "/events/in", "", 401}, {"POST", "/events/in", "t0ken", 400}, {"POST", "/hooks/git", "", 401}, {"POST", "/hooks/github", "t0ken", 401},
		{"POST", "/hooks/gitlab", "t0ken", 401}, {"POST", "/hooks/bitbucket", "t0ken", 401},
		{"POST", "/hooks/gitea", "t0ken", 401},
		{"GET", "/", "", 401}, {"GET", "/", "t0ken", 200}, {"GET", "/trends", "", 401}, {"GET", "/login", "", 200}, {"GET", "/upload", "t0ken", 404},
		{"POST", "/builds/" + strings.Repeat("0", 26) + "/cancel", "", 401}, {"POST", "/builds/" + strings.Repeat("0", 26) + "/cancel", "t0ken", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, url+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tc.token != "" {
			req.Header.Set("Authorization", "Bearer "+tc.token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.status {
			t.Errorf("%s %s with token %q: %d, want %d", tc.method, tc.path, tc.token, resp.StatusCode, tc.status)
		}
	}
}

// Every forge's door opens with the secret it was given, from a file or from
// the environment, and with no other.
func TestForgeSecrets(t *testing.T) {
	executor, _ := fakeExecutor(t, "")
	triggers := write(t, "name: app\non: {git: {repo: h/r}}\n")
	env := []string{"PATH=" + os.Getenv("PATH"), "KILN_GITLAB_SECRET=gitlab-token", "KILN_BITBUCKET_SECRET=bitbucket-secret"}
	url, _ := start(t, env, "--data", t.TempDir(), "--triggers", triggers, "--executor", executor,
		"--gitea-secret-file", write(t, "old-secret\ngitea-secret\n"), "--bitbucket-url", "https://bb.example.com")
	const body = `{"object_kind":"issue"}`
	sign := func(secret string) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(body))
		return hex.EncodeToString(mac.Sum(nil))
	}
	for _, tc := range []struct {
		path, header, value string
		status              int
	}{
		{"/hooks/gitlab", "X-Gitlab-Token", "gitlab-token", 200}, {"/hooks/gitlab", "X-Gitlab-Token", "gitea-secret", 401},
		{"/hooks/gitea", "X-Gitea-Signature", sign("gitea-secret"), 200}, {"/hooks/gitea", "X-Gitea-Signature", sign("old-secret"), 200},
		{"/hooks/gitea", "X-Gitea-Signature", sign("bitbucket-secret"), 401},
		{"/hooks/bitbucket", "X-Hub-Signature", "sha256=" + sign("bitbucket-secret"), 200},
		{"/hooks/bitbucket", "X-Hub-Signature", "sha256=" + sign("gitea-secret"), 401},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+tc.path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(tc.header, tc.value)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.status {
			t.Errorf("%s with %s: %d, want %d", tc.path, tc.value, resp.StatusCode, tc.status)
		}
	}
}

// Whatever is wrong with the configuration is said at the start, with what to
// do about it.
func TestConfigErrors(t *testing.T) {
	executor, _ := fakeExecutor(t, "")
	good := write(t, "name: app\non: {git: {repo: h/r}}\n")
	for name, tc := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"open to the network": {nil, []string{"--listen", "0.0.0.0:0"}, "give --token-file"},
		"any address":         {nil, []string{"--listen", ":0"}, "give --token-file"},
		"bad address":         {nil, []string{"--listen", "here"}, "--listen here"},
		"no triggers":         {nil, []string{"--triggers", "/nonexistent"}, "name the file with --triggers"},
		"bad triggers":        {nil, []string{"--triggers", write(t, "nam: x")}, `unknown field "nam"`},
		"no executor":         {nil, []string{"--executor", "/nonexistent"}, "name it with --executor"},
		"argument":            {nil, []string{"extra"}, `unexpected argument "extra"`},
		"flag":                {nil, []string{"--colour"}, "colour"},
		"log format":          {nil, []string{"--log-format", "xml"}, "xml"},
		"parallel":            {nil, []string{"--max-parallel", "0"}, "must be positive"},
		"secret file":         {nil, []string{"--github-secret-file", "/nonexistent"}, "read secret"},
		"empty secret file":   {nil, []string{"--github-secret-file", write(t, "\n")}, "is empty"},
		"gitlab secret":       {[]string{"KILN_GITLAB_SECRET=whsec_x"}, nil, "copy the whole signing token"},
		"sink":                {[]string{"K_SINK=ftp://x"}, nil, "http"},
		"bus":                 {nil, []string{"--bus", "kafka"}, "none of spool, sink and pubsub://PROJECT/TOPIC"},
		"bus without topic":   {nil, []string{"--bus", "pubsub://p"}, "pubsub://PROJECT/TOPIC"},
		"bus without sink":    {[]string{"KILN_BUS=sink"}, nil, "name it with --sink or K_SINK"},
		"sink and topic":      {[]string{"K_SINK=http://h/"}, []string{"--bus", "pubsub://p/t"}, "subscribe it to the topic"},
		"overrides":           {[]string{"K_SINK=http://h/", "K_CE_OVERRIDES={"}, nil, "K_CE_OVERRIDES"},
		"pull":                {nil, []string{"--pull", "pubsub://p"}, "--pull pubsub://p is neither"},
		"pull from nothing":   {[]string{"KILN_PULL=https://h"}, nil, "URL of a queue of SQS"},
		"audience alone":      {nil, []string{"--oidc-audience", "a"}, "go together"},
		"account alone":       {[]string{"KILN_OIDC_EMAIL=a@b"}, nil, "go together"},
		"cluster audience":    {[]string{"KILN_CLUSTER_AUDIENCE=a"}, nil, "go together"},
		"cluster subject":     {nil, []string{"--cluster-audience", "a", "--cluster-subject", "system:serviceaccount:ns"}, "NAMESPACE:NAME"},
		"jobsink's URL":       {[]string{"KILN_RESULT_KEY=0123456789abcdef"}, []string{"--launcher=jobsink", "--namespace=b", "--jobsink=http://sink/b", "--result-url=http://d"}, "/NAMESPACE/NAME"},
		"jobsink's namespace": {[]string{"KILN_RESULT_KEY=0123456789abcdef"}, []string{"--launcher=jobsink", "--namespace=b", "--jobsink=http://sink/a/kiln", "--result-url=http://d"}, "of the namespace a"},
		"jobsink's logs":      {[]string{"KILN_RESULT_KEY=0123456789abcdef"}, []string{"--launcher=jobsink", "--namespace=b", "--jobsink=http://sink/b/kiln", "--result-url=http://d", "--max-log=17"}, "--max-log"},
		"keep":                {nil, []string{"--keep=a month"}, "--keep is"},
		"keep for seconds":    {[]string{"KILN_KEEP=30s"}, nil, "an hour or more"},
		"keep less":           {nil, []string{"--keep-builds=-1"}, "--keep-builds is"},
		"keep logs longer":    {nil, []string{"--keep=800h", "--keep-logs=900h"}, "goes with its build"},
		"no cluster":          {nil, []string{"--cluster-audience", "a", "--cluster-subject", "system:serviceaccount:n:s"}, "find the cluster"},
		"token for no sink":   {[]string{"KILN_SINK_TOKEN_FILE=/oidc/token"}, nil, "name it with --sink"},
		"ledger":              {nil, []string{"--ledger", "http://h/x"}, "gs://BUCKET/PREFIX"},
		"ledger's prefix":     {[]string{"STORAGE_EMULATOR_HOST=127.0.0.1:1"}, []string{"--ledger", "gs://b/a b"}, "prefix of the ledger"},
		"ledger's query":      {nil, []string{"--ledger", "s3://b?x=y"}, "gs://BUCKET/PREFIX"},
		"in flight":           {nil, []string{"--max-in-flight", "-1"}, "--max-in-flight must be positive"},
		"follow logs":         {nil, []string{"--launcher", "kubernetes", "--jobs", write(t, "image: x\n"), "--namespace", "n", "--follow-logs", "0"}, "--follow-logs must be positive"},
		"max log":             {nil, []string{"--launcher", "kubernetes", "--jobs", write(t, "image: x\n"), "--namespace", "n", "--max-log", "17"}, "--max-log is 17, and may be 1 to 16"},
		"sink secret":         {[]string{"K_SINK=http://127.0.0.1:1/", "KILN_SINK_SECRET=short"}, nil, "use 16 or more"},
	} {
		args := append([]string{"--listen", "127.0.0.1:0", "--data", t.TempDir(), "--triggers", good, "--executor", executor}, tc.args...)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := run(ctx, process{args: args, env: tc.env, stderr: io.Discard, now: time.Now})
		cancel()
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
}

// TestInFlight proves that a dispatcher takes as many changes as fit into the memory
// that it is given, where the command line does not say.
func TestInFlight(t *testing.T) {
	for memory, want := range map[int64]int{math.MaxInt64: 1000, 440 << 20: 1000, 220 << 20: 396, 100 << 20: 50, 0: 50} {
		if got := inFlightFor(memory); got != want {
			t.Errorf("%d MiB: %d, want %d", memory>>20, got, want)
		}
	}
	for args, want := range map[string]int{"": 396, "--max-in-flight=7": 7} {
		p := process{args: strings.Fields(args + " --executor=" + os.Args[0] + " --triggers=" + write(t, "triggers: []\n")), memory: 220 << 20, stderr: io.Discard, now: time.Now}
		if cfg, err := configure(p); cfg.inFlight != want || err != nil {
			t.Errorf("%s: %d, %v", args, cfg.inFlight, err)
		}
	}
}
