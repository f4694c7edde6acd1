// Package gitd serves git repositories over smart HTTP and tells of every ref
// that a push moves.
//
// A repository is made by the first push to it. Git's own http-backend does
// the protocol. Each repository shares one post-receive hook, which reports to
// the server over loopback HTTP before git push returns, and prints to the
// pusher what became of it. The hook first writes what it has to report to a
// spool, and takes it out when the report was accepted: a report that fails,
// or a server that is not there, loses nothing. Sweep delivers the spool, and
// compares every repository's refs with those last reported, so that not even
// a power cut between git and the hook loses a push.
package gitd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/durable"
)

// Config says how to serve.
type Config struct {
	Dir      string                                                 // directory of the repositories
	Hooks    string                                                 // directory of the hook, its address file and its spool; only the owner may read it
	HookArgs []string                                               // command that runs [RunHook]: an absolute path and arguments
	OnChange func(context.Context, events.Change) ([]string, error) // tells of one moved ref; the lines go to the pusher
	CloneURL func(repo string) string                               // where a repository can be cloned from; nil leaves it out
	Env      []string                                               // environment of git, such as PATH; what git needs beside
	Now      func() time.Time                                       // required: the clock
	Log      *slog.Logger                                           // nil discards
}

// Server serves repositories. Its methods may be called concurrently.
type Server struct {
	cfg     Config
	backend string // path of git-http-backend
	git     string // path of git
	token   string // of this start: who may report

	mu       sync.Mutex // held while a repository is made, and while reports are noted
	compared time.Time  // when Sweep last asked every repository
}

// Open prepares the directories and finds git. The error says what to install
// if git or its http-backend is missing.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil || cfg.OnChange == nil || len(cfg.HookArgs) == 0 {
		return nil, errors.New("open git server: clock, OnChange and HookArgs are required")
	}
	var err error
	s := &Server{cfg: cfg}
	if s.git, err = exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("open git server: git is needed (apt-get install git): %w", err)
	}
	out, err := exec.CommandContext(ctx, s.git, "--exec-path").Output()
	if err != nil {
		return nil, fmt.Errorf("ask git for its programs: %w", err)
	}
	s.backend = filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(s.backend); err != nil {
		return nil, fmt.Errorf("open git server: git-http-backend is needed (apt-get install git): %w", err)
	}
	if s.cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open git server: %w", err)
	}
	if s.cfg.Hooks, err = filepath.Abs(cfg.Hooks); err != nil {
		return nil, fmt.Errorf("open git server: %w", err)
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("open git server: %w", err)
	}
	s.token = hex.EncodeToString(raw)
	for _, dir := range []string{s.cfg.Dir, filepath.Join(s.cfg.Hooks, spoolName)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open git server: %w", err)
		}
	}
	return s, s.installHook()
}

// Handler serves repositories at /git/<name>.git, where a name has up to five
// components of letters, digits, dot, hyphen and underscore. Anybody who
// reaches it may read and push. /git/sha256/<name>.git makes a repository with
// SHA-256 object ids.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		repo, ok := RepoOf(r.URL.Path)
		if !ok {
			http.Error(w, "not a repository: push to /git/<name>.git", http.StatusNotFound)
			return
		}
		dir := s.repoDir(repo)
		if wantsPush(r) {
			if err := s.create(r.Context(), repo); err != nil {
				s.cfg.Log.Error("create repository", "repo", repo, "err", err)
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		} else if _, err := os.Stat(dir); err != nil {
			http.Error(w, "no such repository yet: the first push makes it", http.StatusNotFound)
			return
		}
		// Git sends large packs in chunks, which CGI has no way to announce;
		// http-backend reads to the end where no length is given.
		r.TransferEncoding = nil
		h := cgi.Handler{
			Path: s.backend, Root: "/git", Dir: s.cfg.Dir,
			Env: append(s.gitEnv(), "GIT_PROJECT_ROOT="+s.cfg.Dir, "GIT_HTTP_EXPORT_ALL=1",
				"REMOTE_USER=anonymous", "GIT_PROTOCOL="+r.Header.Get("Git-Protocol")),
			Stderr: stderrLog{s.cfg.Log, repo},
		}
		h.ServeHTTP(w, r)
	})
}

// gitEnv is the environment of every git that the server runs: nobody's
// personal configuration, no prompts.
func (s *Server) gitEnv() []string {
	return append([]string{
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_TERMINAL_PROMPT=0", "LC_ALL=C.UTF-8",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	}, s.cfg.Env...)
}

// wantsPush reports whether r is part of a push.
func wantsPush(r *http.Request) bool {
	return r.URL.Query().Get("service") == "git-receive-pack" || strings.HasSuffix(r.URL.Path, "/git-receive-pack")
}

// RepoOf returns the repository's name in a path such as
// /git/team/app.git/info/refs.
func RepoOf(path string) (repo string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/git/")
	if !ok {
		return "", false
	}
	repo, _, ok = strings.Cut(rest, ".git/")
	if !ok {
		repo, ok = strings.CutSuffix(rest, ".git")
	}
	return repo, ok && validRepo(repo)
}

func validRepo(repo string) bool {
	parts := strings.Split(repo, "/")
	if len(parts) > 5 || len(repo) > 200 {
		return false
	}
	name := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
	for _, p := range parts {
		if !name.MatchString(p) || strings.Contains(p, "..") || strings.HasSuffix(p, ".git") || strings.HasSuffix(p, ".lock") {
			return false
		}
	}
	return true
}

// Path is the directory of a repository on this machine.
func (s *Server) Path(repo string) string { return s.repoDir(repo) }

func (s *Server) repoDir(repo string) string {
	return filepath.Join(s.cfg.Dir, filepath.FromSlash(repo)+".git")
}

// create makes the repository unless it is there. A half-made one is never
// seen: it gets its name last.
func (s *Server) create(ctx context.Context, repo string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.repoDir(repo)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	tmp, err := os.MkdirTemp(s.cfg.Dir, ".new-")
	if err != nil {
		return fmt.Errorf("create repository %s: %w", repo, err)
	}
	defer os.RemoveAll(tmp) // gone after the rename
	// Relative, so that the data directory may be moved.
	hooks, err := filepath.Rel(dir, s.cfg.Hooks)
	if err != nil {
		return fmt.Errorf("create repository %s: %w", repo, err)
	}
	format := "sha1"
	if strings.HasPrefix(repo, "sha256/") {
		format = "sha256"
	}
	steps := [][]string{
		{"init", "--quiet", "--bare", "--template=", "--initial-branch=main", "--object-format=" + format, tmp},
		{"-C", tmp, "config", "http.receivepack", "true"},
		{"-C", tmp, "config", "core.hooksPath", hooks},
		{"-C", tmp, "config", "receive.advertisePushOptions", "true"},
		{"-C", tmp, "config", "receive.fsckObjects", "true"},
		{"-C", tmp, "config", "uploadpack.allowFilter", "true"},
		{"-C", tmp, "config", "uploadpack.allowAnySHA1InWant", "true"}, // a build asks for its commit
		{"-C", tmp, "config", "receive.autogc", "false"},
	}
	for _, args := range steps {
		if _, err := s.run(ctx, args...); err != nil {
			return fmt.Errorf("create repository %s: %w", repo, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("create repository %s: %w", repo, err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("create repository %s: %w", repo, err)
	}
	s.cfg.Log.Info("repository made", "repo", repo)
	return durable.SyncDir(filepath.Dir(dir))
}

// run runs git and returns what it printed.
func (s *Server) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.git, args...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, s.gitEnv()...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// Repos lists the names of the repositories in order.
func (s *Server) Repos() ([]string, error) {
	var repos []string
	err := filepath.WalkDir(s.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == s.cfg.Dir {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if rel, ok := strings.CutSuffix(strings.TrimPrefix(path, s.cfg.Dir+"/"), ".git"); ok {
			repos = append(repos, rel)
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	return repos, nil
}

// Resolve returns the object id that a ref of a repository has now, and the
// commit it leads to; both are empty if there is no such ref.
func (s *Server) Resolve(ctx context.Context, repo, ref string) (id, commit string, err error) {
	if !validRepo(repo) {
		return "", "", fmt.Errorf("resolve %q: not a repository's name", repo)
	}
	if _, err := os.Stat(s.repoDir(repo)); err != nil {
		return "", "", fmt.Errorf("resolve %s of %s: %w", ref, repo, err)
	}
	out, err := s.run(ctx, "-C", s.repoDir(repo), "for-each-ref", "--format=%(refname) %(objectname) %(*objectname)", ref)
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == ref {
			return f[1], f[len(f)-1], nil
		}
	}
	return "", "", nil
}

// stderrLog makes log lines of what git prints.
type stderrLog struct {
	log  *slog.Logger
	repo string
}

// Write implements io.Writer; it never fails.
func (l stderrLog) Write(p []byte) (int, error) {
	if text := strings.TrimSpace(string(p)); text != "" {
		l.log.Debug("git", "repo", l.repo, "text", text)
	}
	return len(p), nil
}
