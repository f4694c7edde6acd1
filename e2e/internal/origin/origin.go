// Package origin is what builds fetch from: a server on loopback with files,
// whose headers can be chosen, redirects and git repositories.
package origin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Server serves until it is closed. Its methods may be called concurrently.
type Server struct {
	Host string // "127.0.0.1:PORT"

	dir    string // repositories
	git    string // path of the program
	server http.Server

	mu        sync.Mutex
	files     map[string][]byte
	headers   map[string]http.Header
	redirects map[string]string
}

// Start starts a server that keeps repositories in an empty directory. git is
// the path of the program, which has http-backend.
func Start(ctx context.Context, git, dir string) (*Server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve what builds fetch: %w", err)
	}
	s := &Server{
		Host: l.Addr().String(), dir: dir, git: git,
		files: map[string][]byte{}, headers: map[string]http.Header{}, redirects: map[string]string{},
	}
	s.server = http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.server.Serve(l) }() // it returns once the server is closed
	return s, nil
}

// Close ends the server.
func (s *Server) Close() error { return s.server.Close() }

// File serves content at path, which begins with a slash.
func (s *Server) File(path string, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = content
}

// Header adds a header to the answers about path. Of the name "Status" it is
// the code that is answered, and of the name "Want-Authorization" the header
// without which there is none.
func (s *Server) Header(path, name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.headers[path] == nil {
		s.headers[path] = http.Header{}
	}
	s.headers[path].Add(name, value)
}

// Redirect answers from with the location to.
func (s *Server) Redirect(from, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.redirects[from] = to
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, _, isGit := strings.Cut(r.URL.Path, ".git/")
	if isGit {
		name += ".git"
	}
	s.mu.Lock()
	content, ok := s.files[name]
	header, to := s.headers[name].Clone(), s.redirects[name]
	s.mu.Unlock()
	if want := header.Get("Want-Authorization"); want != "" && !strings.EqualFold(r.Header.Get("Authorization"), want) {
		w.Header().Set("WWW-Authenticate", "Basic realm=origin")
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	header.Del("Want-Authorization")
	if isGit {
		s.backend().ServeHTTP(w, r)
		return
	}
	if to != "" {
		http.Redirect(w, r, to, http.StatusFound)
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	status := http.StatusOK
	for name, values := range header {
		if name == "Status" {
			if _, err := fmt.Sscan(values[0], &status); err != nil {
				status = http.StatusInternalServerError
			}
			continue
		}
		w.Header()[name] = values
	}
	if tag := header.Get("Etag"); tag != "" && r.Header.Get("If-None-Match") == tag {
		status, content = http.StatusNotModified, nil
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(content) // whoever asked may have gone
	}
}

func (s *Server) backend() http.Handler {
	return &cgi.Handler{
		Path: s.git, Args: []string{"http-backend"}, Dir: s.dir,
		Env:        []string{"GIT_PROJECT_ROOT=" + s.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null"},
		InheritEnv: []string{"PATH"}, Stderr: io.Discard,
	}
}

// Commit makes the content of a directory the next commit of a repository's
// branch and returns its id, which depends on the content and the commits before
// only. It is served at "/NAME.git".
func (s *Server) Commit(ctx context.Context, name, branch, tree string) (string, error) {
	repo := filepath.Join(s.dir, name+".git")
	g := git{program: s.git, repo: repo, tree: tree}
	if _, err := os.Stat(repo); errors.Is(err, os.ErrNotExist) {
		// "allow*" lets clients ask for commits by their id, as forges do.
		if _, err := g.run(ctx, "init", "--quiet", "--bare", "--initial-branch="+branch, repo); err != nil {
			return "", err
		}
		for _, option := range []string{"uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"} {
			if _, err := g.run(ctx, "config", option, "true"); err != nil {
				return "", err
			}
		}
	}
	if _, err := g.run(ctx, "add", "--all", "--force", "."); err != nil {
		return "", err
	}
	id, err := g.run(ctx, "write-tree")
	if err != nil {
		return "", err
	}
	args := []string{"commit-tree", "-m", "commit", id}
	if parent, err := g.run(ctx, "rev-parse", "--verify", "--quiet", "refs/heads/"+branch); err == nil {
		args = append(args, "-p", parent)
	} else if parent, err := g.run(ctx, "rev-parse", "--verify", "--quiet", "HEAD"); err == nil {
		args = append(args, "-p", parent)
	}
	commit, err := g.run(ctx, args...)
	if err != nil {
		return "", err
	}
	_, err = g.run(ctx, "update-ref", "refs/heads/"+branch, commit)
	return commit, err
}

// Tag names the last commit of a branch, with an object of its own if annotated.
func (s *Server) Tag(ctx context.Context, name, branch, tag string, annotated bool) error {
	g := git{program: s.git, repo: filepath.Join(s.dir, name+".git"), tree: s.dir}
	args := []string{"tag", tag, "refs/heads/" + branch}
	if annotated {
		args = []string{"tag", "-a", "-m", "tag", tag, "refs/heads/" + branch}
	}
	_, err := g.run(ctx, args...)
	return err
}

// git runs the program on one repository and a tree of files.
type git struct{ program, repo, tree string }

func (g git) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, g.program, args...)
	cmd.Dir = g.tree
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE=1700000000 +0000",
		"GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=1700000000 +0000",
	}
	if args[0] != "init" {
		cmd.Env = append(cmd.Env, "GIT_DIR="+g.repo, "GIT_WORK_TREE="+g.tree)
	}
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return string(bytes.TrimSpace(out)), nil
}
