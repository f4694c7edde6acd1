package source

import (
	"context"
	"errors"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/need"
)

// gitServer serves repositories over smart HTTP, with Git's own back end.
type gitServer struct {
	t    *testing.T
	root string
	url  string // git://127.0.0.1:port
	user string // asked for if not empty; the password is "pw"
	seen []string
	lfs  http.Handler // for large files; nil: there are none
}

func newGitServer(t *testing.T) *gitServer {
	t.Helper()
	git := need.Command(t, "git")
	out, err := exec.CommandContext(t.Context(), git, "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	g := &gitServer{t: t, root: t.TempDir()}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + g.root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		g.seen = append(g.seen, user)
		if g.user != "" && (user != g.user || pass != "pw" && pass != "") {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.Contains(r.URL.Path, "/lfs/") {
			if g.lfs == nil {
				http.NotFound(w, r)
				return
			}
			g.lfs.ServeHTTP(w, r)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	g.url = strings.Replace(srv.URL, "http", "git", 1)
	return g
}

// git runs git in the work tree of a repository and returns what it prints.
func (g *gitServer) git(repo string, args ...string) string {
	g.t.Helper()
	cmd := exec.CommandContext(g.t.Context(), "git", args...)
	cmd.Dir = filepath.Join(g.root, repo)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_COMMITTER_DATE=2020-02-03T04:05:06Z", "GIT_AUTHOR_DATE=2020-02-03T04:05:06Z", "GIT_ALLOW_PROTOCOL=file")
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// repo makes a repository. With commits it has the branch main, and its HEAD
// commit is returned.
func (g *gitServer) repo(name string, files map[string]string) string {
	g.t.Helper()
	if err := os.MkdirAll(filepath.Join(g.root, name), 0o755); err != nil {
		g.t.Fatal(err)
	}
	g.git(name, "init", "-q", "-b", "main")
	if files == nil {
		return ""
	}
	return g.commit(name, files)
}

func (g *gitServer) commit(repo string, files map[string]string) string {
	g.t.Helper()
	for name, content := range files {
		write(g.t, filepath.Join(g.root, repo, name), content)
	}
	g.git(repo, "add", "-A")
	g.git(repo, "commit", "-q", "--allow-empty", "-m", "c")
	return g.git(repo, "rev-parse", "HEAD")
}

func (g *gitServer) options() Options {
	return Options{TempDir: g.t.TempDir(), GitPullMethod: "http"}
}

// content fetches a context and returns the content of its file "f".
func (g *gitServer) content(rest string, opt Options) (string, string, error) {
	g.t.Helper()
	c, err := Fetch(g.t.Context(), g.url+rest, opt)
	if err != nil {
		if left, _ := os.ReadDir(opt.TempDir); len(left) != 0 {
			g.t.Errorf("a failed fetch left %v", left)
		}
		return "", "", err
	}
	defer func() {
		if err := c.Close(); err != nil {
			g.t.Error(err)
		}
	}()
	if _, err := os.Lstat(filepath.Join(c.Dir, ".git")); err == nil {
		g.t.Error(".git is part of the context")
	}
	b, err := os.ReadFile(filepath.Join(c.Dir, "f"))
	return string(b), c.Revision.Commit, err
}

// Whatever a URL may name, the right commit is fetched and recorded: also one
// that no ref points to any more, which the server does not give out directly.
func TestFetchGit(t *testing.T) {
	g := newGitServer(t)
	first := g.repo("r.git", map[string]string{"f": "first", "sub/f": "first sub"})
	g.git("r.git", "tag", "light")
	g.git("r.git", "tag", "-a", "-m", "t", "v1.0")
	g.git("r.git", "tag", "-a", "-m", "tag of a tag", "v1.1", "v1.0")
	middle := g.commit("r.git", map[string]string{"f": "middle"})
	hidden := g.commit("r.git", map[string]string{"f": "hidden"})
	last := g.commit("r.git", map[string]string{"f": "last"})
	g.git("r.git", "branch", "feature/x", middle)
	g.git("r.git", "branch", "light", last) // a branch wins over a tag
	g.git("r.git", "update-ref", "refs/pull/7/head", first)
	g.git("r.git", "checkout", "-q", "--orphan", "lone")
	lone := g.commit("r.git", map[string]string{"f": "lone"})
	g.git("r.git", "checkout", "-q", "main")
	for _, tc := range []struct{ url, branch, want, commit string }{
		{"/r.git", "", "last", last},
		{"/r.git", "feature/x", "middle", middle},
		{"/r.git", "v1.0", "first", first},
		{"/r.git#main", "ignored", "last", last},
		{"/r.git#HEAD", "", "last", last},
		{"/r.git#refs/heads/feature/x", "", "middle", middle},
		{"/r.git#feature/x", "", "middle", middle},
		{"/r.git#v1.0", "", "first", first},
		{"/r.git#v1.1", "", "first", first},
		{"/r.git#light", "", "last", last},
		{"/r.git#refs/tags/light", "", "first", first},
		{"/r.git#refs/pull/7/head", "", "first", first},
		{"/r.git#" + first, "", "first", first},
		{"/r.git#main#" + first, "", "first", first},
		{"/r.git#main#" + last, "", "last", last},
		{"/r.git#gone#" + middle, "", "middle", middle},
		{"/r.git#" + hidden, "", "hidden", hidden},
		{"/r.git#main#" + hidden, "", "hidden", hidden},
		{"/r.git#gone#" + hidden, "", "hidden", hidden},
		{"/r.git##" + lone, "", "lone", lone},
		{"/r.git#v1.0:sub", "", "first sub", first},
		{"/r.git#:sub", "", "first sub", last},
		{"/r.git#main#" + first + ":sub", "", "first sub", first},
	} {
		opt := g.options()
		opt.GitBranch = tc.branch
		got, commit, err := g.content(tc.url, opt)
		if err != nil || got != tc.want || commit != tc.commit {
			t.Errorf("%s (branch %q): %q at %s, %v; want %q at %s", tc.url, tc.branch, got, commit, err, tc.want, tc.commit)
		}
	}
}

// Files have their modes and the time of the commit; nothing else of the
// repository is there.
func TestGitFiles(t *testing.T) {
	g := newGitServer(t)
	g.repo("r.git", map[string]string{"f": "x", "d/e/g": strings.Repeat("big", 1<<20)})
	if err := os.Symlink("../../../etc/passwd", filepath.Join(g.root, "r.git", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(g.root, "r.git", "f"), 0o700); err != nil {
		t.Fatal(err)
	}
	g.commit("r.git", nil)
	g.git("r.git", "gc", "-q")
	opt := g.options()
	var received int64
	opt.Progress = func(n, _ int64) { received = n }
	c, err := Fetch(t.Context(), g.url+"/r.git", opt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := list(t, c.Dir)
	for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
		if !strings.HasSuffix(line, " at 2020-02-03 04:05:06 +0000 UTC") {
			t.Errorf("%.60q has not the time of the commit", line)
		}
	}
	for _, want := range []string{"drwxr-xr-x d at", "drwxr-xr-x d/e at", "-rw-r--r-- d/e/g \"bigbig", "-rwxr-xr-x f \"x\" at", "Lrwxrwxrwx link -> ../../../etc/passwd at"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%.300s", want, got)
		}
	}
	if received == 0 {
		t.Error("no progress")
	}
	parent := filepath.Dir(c.Dir)
	if entries, _ := os.ReadDir(parent); len(entries) != 1 {
		t.Errorf("beside the context: %v", entries)
	}
}

// What cannot be fetched says why.
func TestGitErrors(t *testing.T) {
	g := newGitServer(t)
	g.repo("r.git", map[string]string{"f": "x", "out/f": "y"})
	g.repo("empty.git", nil)
	none := strings.Repeat("0a", 20)
	for _, tc := range []struct {
		url  string
		is   error
		want string
	}{
		{"/r.git#nope", ErrNotFound, `ref "nope" is neither a branch nor a tag`},
		{"/r.git#refs/heads/nope", ErrNotFound, `ref "refs/heads/nope"`},
		{"/r.git#abcdef1", ErrNotFound, "a commit needs all its 40 hex digits"},
		{"/r.git#" + none, ErrNotFound, "commit " + none + ": not found in the repository"},
		{"/r.git#main#abc", nil, `commit "abc" must be a full id of 40 hex digits`},
		{"/r.git#main:../x", nil, "references parent directory"},
		{"/r.git#main:none", ErrNotFound, `sub path "none"`},
		{"/r.git#a b", nil, "is not the name of a branch or a tag"},
		{"/r.git#a..b", nil, "is not the name of a branch or a tag"},
		{"/none.git", ErrNotFound, "repository not found"},
		{"/empty.git", nil, "the repository is empty"},
		{"", nil, "no path follows the host"},
	} {
		_, _, err := g.content(tc.url, g.options())
		if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%s: %v, want %q", tc.url, err, tc.want)
		}
	}
	for name, change := range map[string]func(*Options){
		`git pull method "ssh" is unknown`: func(o *Options) { o.GitPullMethod = "ssh" },
		"is not the name of a branch":      func(o *Options) { o.GitBranch = "-x" },
		"too large: more than 20 bytes":    func(o *Options) { o.Limits.Bytes = 20 },
		"too large: more than 1 entries":   func(o *Options) { o.Limits.Entries = 1 },
	} {
		opt := g.options()
		change(&opt)
		if _, _, err := g.content("/r.git", opt); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error = %v, want %q", err, name)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("superseded"))
	if _, err := Fetch(ctx, g.url+"/r.git", g.options()); err == nil || !strings.Contains(err.Error(), "superseded") {
		t.Errorf("cancelled: %v", err)
	}
}

// Credentials come from the URL, the token or user and password, in this
// order; without or with wrong ones the error says what to do and no secret.
func TestGitCredentials(t *testing.T) {
	g := newGitServer(t)
	g.repo("r.git", map[string]string{"f": "x"})
	g.user = "me"
	inURL := "git://me:pw@" + strings.TrimPrefix(g.url, "git://") + "/r.git"
	tokenInURL := "git://me@" + strings.TrimPrefix(g.url, "git://") + "/r.git"
	for name, tc := range map[string]struct {
		url  string
		opt  func(*Options)
		want string
	}{
		"in URL":         {inURL, func(o *Options) { o.GitToken = "wrong" }, ""},
		"token in URL":   {tokenInURL, nil, ""},
		"token":          {g.url + "/r.git", func(o *Options) { o.GitToken, o.GitUsername = "me", "wrong" }, ""},
		"user":           {g.url + "/r.git", func(o *Options) { o.GitUsername, o.GitPassword = "me", "pw" }, ""},
		"none":           {g.url + "/r.git", nil, "set GIT_TOKEN, or GIT_USERNAME and GIT_PASSWORD"},
		"wrong password": {g.url + "/r.git", func(o *Options) { o.GitUsername, o.GitPassword = "me", "hunter2" }, "refused the credentials"},
		"wrong token":    {"git://hunter2@" + strings.TrimPrefix(g.url, "git://") + "/r.git", nil, "refused the credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			opt := g.options()
			if tc.opt != nil {
				tc.opt(&opt)
			}
			c, err := Fetch(t.Context(), tc.url, opt)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error = %v, want %q", err, tc.want)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "pw@")) {
				t.Errorf("error tells a secret: %v", err)
			}
			_ = c.Close()
		})
	}
}

// Submodules are fetched when asked for, each at its commit, also nested and
// by relative URLs; credentials never go to another host.
func TestGitSubmodules(t *testing.T) {
	g, other := newGitServer(t), newGitServer(t)
	other.repo("o.git", map[string]string{"f": "other"})
	g.repo("leaf.git", map[string]string{"f": "leaf old"})
	g.repo("mid.git", map[string]string{"f": "mid"})
	add := func(repo, at, url, local string) {
		g.git(repo, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", local, at)
		g.git(repo, "config", "-f", ".gitmodules", "submodule."+at+".url", url)
		g.commit(repo, nil)
	}
	add("mid.git", "leaf", "../leaf.git", filepath.Join(g.root, "leaf.git"))
	g.commit("leaf.git", map[string]string{"f": "leaf new"})
	g.repo("top.git", map[string]string{"f": "top"})
	add("top.git", "mods/mid", "./../mid.git", filepath.Join(g.root, "mid.git"))
	add("top.git", "mods/other", strings.Replace(other.url, "git://", "http://evil:pw@", 1)+"/o.git", filepath.Join(other.root, "o.git"))
	g.user = "me"

	opt := g.options()
	opt.GitToken = "me"
	c, err := Fetch(t.Context(), g.url+"/top.git", opt)
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, c.Dir+"/mods"); !strings.HasPrefix(got, "drwxr-xr-x mid at 2020") || strings.Contains(got, "/f") {
		t.Errorf("without submodules:\n%s", got)
	}
	_ = c.Close()

	opt.GitSubmodules = true
	if c, err = Fetch(t.Context(), g.url+"/top.git", opt); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, want := range map[string]string{"f": "top", "mods/mid/f": "mid", "mods/mid/leaf/f": "leaf old", "mods/other/f": "other"} {
		if b, err := os.ReadFile(filepath.Join(c.Dir, name)); err != nil || string(b) != want {
			t.Errorf("%s = %q, %v; want %q", name, b, err, want)
		}
	}
	for _, user := range other.seen {
		if user != "" {
			t.Errorf("the other host was given the user %q", user)
		}
	}
}

// A submodule that cannot be fetched is named.
func TestGitSubmoduleErrors(t *testing.T) {
	parent, _ := url.Parse("https://host/group/repo.git")
	for raw, want := range map[string]string{
		"../other.git":             "https://host/group/other.git",
		"../../../../x.git":        "https://host/x.git",
		"./nested.git":             "https://host/group/repo.git/nested.git",
		"https://a:b@else.where/x": "https://else.where/x",
		"git@github.com:a/b":       "ssh://github.com/a/b",
		"git@host:a/b.git":         "https://host/a/b.git",
		"ssh://git@host:22/a/b":    "https://host/a/b",
		"ssh://-oProxy=x/a":        "",
		"http://host/x":            "",
		"file:///etc":              "",
		"/etc":                     "",
	} {
		s, err := submoduleSpec(gitSpec{url: parent}, raw)
		if want == "" && err == nil || want != "" && (err != nil || s.url.String() != want) {
			t.Errorf("%s: %v, %v; want %q", raw, s.url, err, want)
		}
	}
	g := newGitServer(t)
	g.repo("leaf.git", map[string]string{"f": "leaf"})
	g.repo("top.git", map[string]string{"f": "top"})
	g.git("top.git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", filepath.Join(g.root, "leaf.git"), "leaf")
	g.commit("top.git", nil)
	opt := g.options()
	opt.GitSubmodules = true
	if _, _, err := g.content("/top.git", opt); err == nil || !strings.Contains(err.Error(), `submodule "leaf": only https://, ssh and relative URLs`) {
		t.Errorf("error = %v", err)
	}
	g.git("top.git", "rm", "-q", "--cached", ".gitmodules")
	_ = os.Remove(filepath.Join(g.root, "top.git", ".gitmodules"))
	g.git("top.git", "commit", "-q", "-m", "c")
	if _, _, err := g.content("/top.git", opt); err == nil || !strings.Contains(err.Error(), "has submodules but no file .gitmodules") {
		t.Errorf("error = %v", err)
	}
}

// A hostile repository cannot write outside the context nor make a .git.
func TestGitHostileNames(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, ".gitignore": true, "...": true, ".git": false, ".GIT": false, "..": false, ".": false, "": false, "a/b": false, "a\x00": false} {
		if err := checkEntryName(name); (err == nil) != ok {
			t.Errorf("checkEntryName(%q) = %v", name, err)
		}
	}
}

func FuzzParseGit(f *testing.F) {
	for _, s := range []string{"host/r.git", "u:p@host:8/r#main:a/b#0123456789012345678901234567890123456789", "h/r#:..", "h/r##x", "[::1]/a", "%zz"} {
		f.Add(s, "main", "../r.git")
	}
	f.Fuzz(func(t *testing.T, s, branch, module string) {
		_ = Redact("git://" + s)
		_, _ = parseModules([]byte(module))
		spec, err := parseGit(s, "")
		if err != nil {
			return
		}
		if spec.url.User != nil || spec.url.Host == "" || spec.url.Scheme != "https" {
			t.Errorf("url = %v", spec.url)
		}
		if spec.commit != "" && !isCommit(spec.commit) {
			t.Errorf("commit = %q", spec.commit)
		}
		for part := range strings.SplitSeq(spec.subdir, "/") {
			if part == ".." {
				t.Errorf("subdir = %q", spec.subdir)
			}
		}
		if filepath.IsAbs(spec.subdir) {
			t.Errorf("subdir = %q", spec.subdir)
		}
		if s, err := submoduleSpec(spec, module); err == nil && (s.url.User != nil || s.url.Scheme != "https" && s.url.Scheme != "ssh") {
			t.Errorf("submodule url = %v", s.url)
		}
		_, _ = parseSSHGit(s)
		_, _ = parsePointer([]byte(module))
	})
}
