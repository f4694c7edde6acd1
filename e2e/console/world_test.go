package console

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
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
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/need"
)

// patience is how long something may take on a busy machine.
const patience = 2 * time.Minute

// programs are compiled once.
var programs struct{ kiln, executor string } // made by TestMain

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kiln-console-*")
	if err == nil {
		programs.kiln, programs.executor = filepath.Join(dir, "kiln"), filepath.Join(dir, "executor")
		err = errors.Join(compile(programs.kiln, "../../infra/kiln"), compile(programs.executor, "../../executor"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func compile(out, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// browser runs scenarios.
type browser struct {
	node, chromium, modules, url string
}

// newBrowser finds Chromium and installs what drives it, once for every version.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	b := &browser{node: need.Command(t, "node"), chromium: need.Command(t, "chromium")}
	npm := need.Command(t, "npm")
	lock, err := os.ReadFile("package-lock.json")
	check(t, err)
	dir, err := cache.Default()
	check(t, err)
	b.modules, err = dir.Get(t.Context(), "playwright", cache.Key(string(lock)), func(ctx context.Context, dir string) error {
		for _, name := range []string{"package.json", "package-lock.json"} {
			data, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
			}
			if err != nil {
				return err
			}
		}
		cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("npm ci: %w\n%s", err, out)
		}
		return nil
	})
	check(t, err)
	return b
}

// run runs a scenario in a browser; what it prints is read into result.
func (b *browser) run(t *testing.T, scenario string, a args, result any) {
	t.Helper()
	// Modules are looked for beside the scripts.
	dir := t.TempDir()
	check(t, os.Symlink(filepath.Join(b.modules, "node_modules"), filepath.Join(dir, "node_modules")))
	for _, name := range []string{"browser.mjs", scenario + ".mjs"} {
		data, err := os.ReadFile(name)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.node, filepath.Join(dir, scenario+".mjs"))
	cmd.Env = append(os.Environ(), "KILN_SCENARIO="+a.with(args{"url": b.url, "chromium": b.chromium}))
	var diag bytes.Buffer
	began := time.Now()
	out, err := process.Run(ctx, cmd, &diag)
	if err != nil {
		t.Fatalf("scenario %s: %v\n%s", scenario, err, &diag)
	}
	t.Logf("%s took %.1f s", scenario, time.Since(began).Seconds())
	if result != nil {
		check(t, json.Unmarshal(out, result))
	}
}

// server is a running stack.
type server struct {
	url string
	cmd *exec.Cmd
}

// start starts a stack with a registry of base images behind it. Both end with the
// test.
func start(t *testing.T, flags ...string) *server {
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
	data := t.TempDir()
	args := append([]string{"up", "--data", data, "--listen", "127.0.0.1:0", "--listen-s3", "127.0.0.1:0",
		"--executor", programs.executor, "--base-mirror", registry.Host, "--executor-arg=--insecure-registry=" + registry.Host}, flags...)
	s := &server{cmd: exec.Command(programs.kiln, args...)}
	var out bytes.Buffer
	s.cmd.Env = environ()
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, s.cmd.Start())
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(patience):
			_ = s.cmd.Process.Kill()
			t.Error("the stack did not end")
		}
		if t.Failed() {
			t.Logf("the stack said:\n%s", &out)
		}
	})
	until(t, "the stack answers", func() bool {
		select {
		case err := <-done:
			t.Fatalf("the stack ended: %v\n%s", err, &out)
		default:
		}
		var a struct{ HTTP string }
		raw, err := os.ReadFile(filepath.Join(data, "address.json"))
		if err != nil || json.Unmarshal(raw, &a) != nil {
			return false
		}
		s.url = a.HTTP
		resp, err := http.Get(s.url + "/healthz")
		return err == nil && resp.Body.Close() == nil
	})
	return s
}

// environ is the environment of a stack: no token of whoever runs the test.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "KILN_") && !strings.HasPrefix(kv, "XDG_RUNTIME_DIR=") {
			env = append(env, kv)
		}
	}
	return env
}

func runKiln(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs.kiln, args...)
	cmd.Env = environ()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *server) get(t *testing.T, path string) string {
	t.Helper()
	resp, err := http.Get(s.url + path)
	check(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s\n%s", path, resp.Status, body)
	}
	return string(body)
}

// newest returns the build of an object or ref that is newest, once there is one
// that is not known yet.
func (s *server) newest(t *testing.T, name string, known ...string) string {
	t.Helper()
	id := ""
	until(t, "a build of "+name, func() bool {
		var l struct {
			Builds []struct {
				ID      string
				Request struct{ Change struct{ Name string } }
			}
		}
		check(t, json.Unmarshal([]byte(s.get(t, "/api/builds")), &l))
		for _, b := range l.Builds {
			if b.Request.Change.Name == name {
				id = b.ID
				return len(known) == 0 || id != known[0]
			}
		}
		return false
	})
	return id
}

// wait waits for the outcome of a build.
func (s *server) wait(t *testing.T, id, outcome string) {
	t.Helper()
	until(t, "the end of build "+id, func() bool {
		var b struct {
			State  string
			Result struct{ Outcome, Message string }
			Event  json.RawMessage
		}
		check(t, json.Unmarshal([]byte(s.get(t, "/api/builds/"+id)), &b))
		if b.State == "finished" && b.Result.Outcome != outcome {
			t.Fatalf("build %s: %s: %s", id, b.Result.Outcome, b.Result.Message)
		}
		return b.State == "finished" && b.Event != nil
	})
}

// put uploads an app by plain HTTP and returns its build.
func (s *server) put(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	f, err := os.Open(archive(t, files))
	check(t, err)
	defer f.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.url+"/contexts/"+name+"/context.tar.gz", f)
	check(t, err)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	check(t, resp.Body.Close())
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("upload %s: %s", name, resp.Status)
	}
	return s.newest(t, name+"/context.tar.gz")
}

// push pushes an app to a ref of a repository and returns its build.
func (s *server) push(t *testing.T, repo, ref string, files map[string]string) string {
	t.Helper()
	known := ""
	if strings.Contains(s.get(t, "/api/builds"), repo) {
		known = s.newest(t, ref)
	}
	dir := t.TempDir()
	for name, content := range files {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	git := func(args ...string) {
		cmd := exec.CommandContext(t.Context(), need.Command(t, "git"), args...)
		cmd.Dir = dir
		cmd.Env = append(environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.org",
			"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.org")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-qm", "app")
	git("push", "--force", s.url+"/git/"+repo+".git", "HEAD:"+ref)
	return s.newest(t, ref, known)
}

// archive packs files and returns the path of the archive.
func archive(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "context.tar.gz")
	f, err := os.Create(path)
	check(t, err)
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	for name, content := range files {
		check(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1_700_000_000, 0)}))
		_, err := io.WriteString(w, content)
		check(t, err)
	}
	check(t, errors.Join(w.Close(), z.Close(), f.Close()))
	return path
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
