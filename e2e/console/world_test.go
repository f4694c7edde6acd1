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
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/stackd"
	"github.com/kilnhook/kiln/e2e/internal/tools"
	"github.com/kilnhook/kiln/e2e/need"
)

// programs are compiled once.
var programs struct{ kiln, executor string } // made by TestMain

func TestMain(m *testing.M) {
	tools.Main(m, map[string]*string{"infra/kiln": &programs.kiln, "executor": &programs.executor})
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
	ctx, cancel := context.WithTimeout(t.Context(), stackd.Patience)
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
type server struct{ *stackd.Stack }

// start starts a stack that ends with the test.
func start(t *testing.T, flags ...string) *server {
	t.Helper()
	return &server{stackd.Start(t, stackd.Options{Kiln: programs.kiln, Executor: programs.executor, Flags: flags})}
}

func runKiln(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs.kiln, args...)
	cmd.Env = stackd.Environ()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *server) get(t *testing.T, path string) string {
	t.Helper()
	resp, err := http.Get(s.URL + path)
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
	stackd.Until(t, "a build of "+name, func() bool {
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
	stackd.Until(t, "the end of build "+id, func() bool {
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
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+"/contexts/"+name+"/context.tar.gz", f)
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
		cmd.Env = append(stackd.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.org",
			"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.org")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-qm", "app")
	git("push", "--force", s.URL+"/git/"+repo+".git", "HEAD:"+ref)
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
