package compat

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"crypto/tls"

	"github.com/kilnhook/kiln/e2e/need"
)

// repository is a Git repository that git's own server serves, over HTTP. Its
// branch main has the file f with "main", dev with "dev", the tag v1 with "one",
// refs/pull/7/head with "seven". A submodule is in module.
type repository struct {
	t       *testing.T
	dir     string
	handler http.Handler
	host    string // plain HTTP

	mu    sync.Mutex
	seen  []string          // users that asked
	large map[string]string // what is in Git LFS, by its id
	user  string            // whom it lets in, with password; "": everybody
}

func newRepository(t *testing.T) *repository {
	t.Helper()
	need.Command(t, "git")
	exe, err := exec.Command("git", "--exec-path").Output()
	check(t, err)
	r := &repository{t: t, dir: t.TempDir()}
	r.handler = r.guard(&cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(exe)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + r.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"},
	})
	server := httptest.NewServer(r.handler)
	t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	r.fill()
	return r
}

// fill makes the repositories sub.git and app.git.
func (r *repository) fill() {
	r.git("", "init", "-q", "-b", "main", "--bare", "sub.git")
	r.git("", "init", "-q", "-b", "main", "--bare", "app.git")
	r.git("", "clone", "-q", "sub.git", "sub")
	r.write("sub/sub", "submodule\n")
	r.git("sub", "add", ".")
	r.git("sub", "commit", "-q", "-m", "sub")
	r.git("sub", "push", "-q", "origin", "HEAD:main")
	r.git("", "clone", "-q", "app.git", "app")
	r.write("app/Dockerfile", "FROM scratch\nCOPY . /\n")
	r.write("app/dir/Dockerfile", "FROM scratch\nCOPY inner /\n")
	r.write("app/dir/inner", "inner\n")
	r.commit("one")
	r.git("app", "tag", "v1")
	r.commit("seven")
	r.git("app", "push", "-q", "origin", "HEAD:refs/pull/7/head", "HEAD:refs/merge-requests/7/head")
	r.commit("dev")
	r.git("app", "push", "-q", "origin", "HEAD:dev", "v1")
	r.git("app", "submodule", "--quiet", "add", "../sub.git", "module")
	r.commit("main")
	r.git("app", "push", "-q", "origin", "HEAD:main")
}

func (r *repository) write(name, content string) {
	path := filepath.Join(r.dir, name)
	check(r.t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(r.t, os.WriteFile(path, []byte(content), 0o644))
}

func (r *repository) commit(content string) {
	r.write("app/f", content+"\n")
	r.git("app", "add", ".")
	r.git("app", "commit", "-q", "-m", content)
}

func (r *repository) git(dir string, args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", args...)
	cmd.Dir = filepath.Join(r.dir, dir)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=protocol.file.allow", "GIT_CONFIG_VALUE_0=always")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// guard lets in r.user, who has the password as the password, or uses it as a
// token: the name, without a password.
func (r *repository) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name, pass, _ := req.BasicAuth()
		r.mu.Lock()
		r.seen = append(r.seen, name)
		wanted := r.user
		r.mu.Unlock()
		if wanted != "" && (name != wanted || pass != password) && (name != password || pass != "") {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if !r.serveLarge(w, req) {
			next.ServeHTTP(w, req)
		}
	})
}

// keepLarge puts a file into Git LFS.
func (r *repository) keepLarge(oid, content string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.large = map[string]string{oid: content}
}

// serveLarge answers for Git LFS, if there is anything in it.
func (r *repository) serveLarge(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for oid, content := range r.large {
		switch req.URL.Path {
		case "/app.git/info/lfs/objects/batch":
			w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
			fmt.Fprintf(w, `{"objects":[{"oid":%q,"size":%d,"actions":{"download":{"href":"http://%s/large/%s"}}}]}`, oid, len(content), req.Host, oid)
			return true
		case "/large/" + oid:
			_, _ = io.WriteString(w, content)
			return true
		}
	}
	return false
}

// only lets nobody in but a user.
func (r *repository) only(user string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.user = user
}

// url is the repository as a context, with what stands after its name.
func (r *repository) url(after string) string { return "git://" + r.host + "/app.git" + after }

// tls serves the repository over TLS too, with a certificate of an authority,
// and returns its URL as a context.
func (r *repository) tls(ca *authority) string {
	server := httptest.NewUnstartedServer(r.handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that do not trust it
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(r.t, soon(), "127.0.0.1").tls}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	r.t.Cleanup(server.Close)
	return "git://" + strings.TrimPrefix(server.URL, "https://") + "/app.git"
}

// gitBuild builds the repository and returns the image.
func (k *kit) gitBuild(r *repository, after string, flags ...string) built {
	k.t.Helper()
	return k.remote(r.url(after), flags...)
}

// remote builds a context that is not ctx and returns the image.
func (k *kit) remote(context string, flags ...string) built {
	k.t.Helper()
	k.exec(append([]string{"--context=" + context, "--destination=" + k.repo, "--insecure", "--isolation=overlay", "--log-format=text"}, flags...)...).ok()
	return k.at(k.repo)
}
