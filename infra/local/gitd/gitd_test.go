package gitd

import (
	"context"
	"errors"
	"fmt"
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
)

// TestMain lets the test binary be the hook's program, as kiln is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "git-hook" {
		if err := RunHook(context.Background(), os.Args[2:], os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "hook:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// listener records changes and refuses them while err is set.
type listener struct {
	mu   sync.Mutex
	err  error
	seen []events.Change
}

func (l *listener) on(_ context.Context, c events.Change) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	l.seen = append(l.seen, c)
	return []string{"kiln: build abc started, follow with kiln logs -f abc"}, nil
}

func (l *listener) set(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// take returns what was seen since the last take, as "ref before after", ids
// cut to 4 digits.
func (l *listener) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for _, c := range l.seen {
		if err := c.Validate(); err != nil {
			lines = append(lines, err.Error())
		}
		lines = append(lines, fmt.Sprintf("%s %s %.4s %.4s", c.Location, c.Name, c.Before, c.After))
	}
	l.seen = nil
	return strings.Join(lines, "\n")
}

// start serves the repositories in dir.
func start(t *testing.T, dir string, l *listener) (s *Server, url string, stop func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s, err = Open(t.Context(), Config{
		Dir: filepath.Join(dir, "git"), Hooks: filepath.Join(dir, "git-hooks"), HookArgs: []string{exe, "git-hook"},
		OnChange: l.on, Now: time.Now, CloneURL: func(repo string) string { return "http://x/git/" + repo + ".git" },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/git/", s.Handler())
	mux.Handle("/hook", s.ReportHandler())
	srv := httptest.NewServer(mux)
	if err := s.SetURL(srv.URL + "/hook"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return s, srv.URL, srv.Close
}

// git runs git in dir as a user would.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := tryGit(t, dir, args...)
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

func tryGit(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_TERMINAL_PROMPT=0"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func clone(t *testing.T, format string) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "main", "--object-format="+format)
	return dir
}

func commit(t *testing.T, dir, text string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "-m", "change")
	return git(t, dir, "rev-parse", "HEAD")
}

// The first push makes the repository; every push tells of its refs before
// git push returns and prints what became of them; what was pushed can be
// cloned.
func TestPush(t *testing.T) {
	for _, tc := range []struct{ format, repo string }{{"sha1", "team/app"}, {"sha256", "sha256/app"}} {
		t.Run(tc.format, func(t *testing.T) {
			l := &listener{}
			_, url, _ := start(t, t.TempDir(), l)
			url += "/git/" + tc.repo + ".git"
			work := clone(t, tc.format)
			one := commit(t, work, "one")
			if out := git(t, work, "push", url, "main", "main:refs/heads/größe/β"); !strings.Contains(out, "remote: kiln: build abc started, follow with kiln logs -f abc") {
				t.Errorf("pusher sees %s", out)
			}
			want := fmt.Sprintf("localhost/%[1]s refs/heads/größe/β 0000 %.4[2]s\nlocalhost/%[1]s refs/heads/main 0000 %.4[2]s", tc.repo, one)
			if got := l.take(); got != want && got != swapLines(want) {
				t.Errorf("told of\n%s\nwant\n%s", got, want)
			}
			two := commit(t, work, strings.Repeat("large, so that git sends it in chunks ", 100_000)+random(t, 3<<20))
			git(t, work, "push", url, "main")
			if got, want := l.take(), fmt.Sprintf("localhost/%s refs/heads/main %.4s %.4s", tc.repo, one, two); got != want {
				t.Errorf("told of %s, want %s", got, want)
			}
			git(t, work, "push", url, ":refs/heads/größe/β")
			if got, want := l.take(), fmt.Sprintf("localhost/%s refs/heads/größe/β %.4s 0000", tc.repo, one); got != want {
				t.Errorf("told of %s, want %s", got, want)
			}
			back := t.TempDir()
			git(t, back, "clone", "-q", "--depth=1", url, "c")
			if got := git(t, filepath.Join(back, "c"), "rev-parse", "HEAD"); got != two {
				t.Errorf("cloned %s, want %s", got, two)
			}
		})
	}
}

func swapLines(s string) string {
	a, b, _ := strings.Cut(s, "\n")
	return b + "\n" + a
}

func random(t *testing.T, n int) string {
	t.Helper()
	data := make([]byte, n)
	f, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(data); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// An annotated tag tells of the tag object and of the commit it leads to, and
// push options arrive.
func TestTagAndOptions(t *testing.T) {
	l := &listener{}
	s, url, _ := start(t, t.TempDir(), l)
	url += "/git/app.git"
	work := clone(t, "sha1")
	one := commit(t, work, "one")
	git(t, work, "tag", "-a", "v1", "-m", "first")
	git(t, work, "push", "-o", "kiln.skip", "-o", `quote'"; $(x)`, url, "v1")
	l.mu.Lock()
	c := l.seen[0]
	l.mu.Unlock()
	if c.Commit != one || c.After == one || c.Revision() != one || c.Name != "refs/tags/v1" || c.CloneURL != "http://x/git/app.git" {
		t.Errorf("%+v", c)
	}
	if strings.Join(c.PushOptions, "|") != `kiln.skip|quote'"; $(x)` {
		t.Errorf("options %q", c.PushOptions)
	}
	id, to, err := s.Resolve(t.Context(), "app", "refs/tags/v1")
	if err != nil || id != c.After || to != one {
		t.Errorf("resolve: %s %s %v", id, to, err)
	}
	if id, _, err := s.Resolve(t.Context(), "app", "refs/tags/v2"); err != nil || id != "" {
		t.Errorf("resolve nothing: %s %v", id, err)
	}
}

// A push whose report fails succeeds and says so; the report is delivered by a
// sweep, once, also after a restart.
func TestReportFails(t *testing.T) {
	dir, l := t.TempDir(), &listener{err: errors.New("ledger is down")}
	_, url, stop := start(t, dir, l)
	work := clone(t, "sha1")
	one := commit(t, work, "one")
	out := git(t, work, "push", url+"/git/app.git", "main")
	if !strings.Contains(out, "ledger is down") || !strings.Contains(out, "the build starts when it is up again") {
		t.Errorf("pusher sees %s", out)
	}
	stop()
	// A push that does not come through the stack at all.
	two := commit(t, work, "two")
	git(t, work, "push", filepath.Join(dir, "git", "app.git"), "main")

	l.set(nil)
	s, _, _ := start(t, dir, l)
	for range 2 {
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf("localhost/app refs/heads/main 0000 %.4s\nlocalhost/app refs/heads/main %.4s %.4s", one, one, two)
	if got := l.take(); got != want {
		t.Errorf("told of\n%s\nwant\n%s", got, want)
	}
}

// A ref that moved while neither hook nor spool noticed, as after a power cut,
// is found by a sweep.
func TestSweepCompares(t *testing.T) {
	dir, l := t.TempDir(), &listener{}
	s, url, _ := start(t, dir, l)
	work := clone(t, "sha1")
	one := commit(t, work, "one")
	git(t, work, "push", url+"/git/app.git", "main", "main:gone")
	l.take()
	two := commit(t, work, "two")
	bare := filepath.Join(dir, "git", "app.git")
	git(t, bare, "fetch", "-q", work, "+main:main", "+main:refs/heads/new")
	git(t, bare, "update-ref", "-d", "refs/heads/gone")
	for range 2 {
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.compared = time.Time{}
		s.mu.Unlock()
	}
	want := fmt.Sprintf("localhost/app refs/heads/gone %.4[1]s 0000\nlocalhost/app refs/heads/main %.4[1]s %.4[2]s\nlocalhost/app refs/heads/new 0000 %.4[2]s", one, two)
	if got := l.take(); got != want {
		t.Errorf("told of\n%s\nwant\n%s", got, want)
	}
}

// The data directory may be moved: the hook is found where it is now.
func TestMovedDirectory(t *testing.T) {
	root, l := t.TempDir(), &listener{}
	_, url, stop := start(t, filepath.Join(root, "a"), l)
	work := clone(t, "sha1")
	commit(t, work, "one")
	git(t, work, "push", url+"/git/team/app.git", "main")
	stop()
	l.take()
	if err := os.Rename(filepath.Join(root, "a"), filepath.Join(root, "b c'd")); err != nil {
		t.Fatal(err)
	}
	_, url, _ = start(t, filepath.Join(root, "b c'd"), l)
	commit(t, work, "two")
	if out := git(t, work, "push", url+"/git/team/app.git", "main"); !strings.Contains(out, "build abc started") {
		t.Errorf("pusher sees %s", out)
	}
	if got := l.take(); strings.Count(got, "\n") != 0 || got == "" {
		t.Errorf("told of %s", got)
	}
}

// Nobody without this start's token may report.
func TestReportNeedsToken(t *testing.T) {
	l := &listener{}
	_, url, _ := start(t, t.TempDir(), l)
	for _, auth := range []string{"", "Bearer ", "Bearer x"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/hook", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", auth)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%q: %d", auth, resp.StatusCode)
		}
	}
}

// Only names that are one make a repository; nothing outside the directory is
// reached.
func TestRepoNames(t *testing.T) {
	for path, want := range map[string]string{
		"/git/app.git":                              "app",
		"/git/app.git/info/refs":                    "app",
		"/git/a/b/c.git/git-receive-pack":           "a/b/c",
		"/git/sha256/x.y_z-1.git/HEAD":              "sha256/x.y_z-1",
		"/git/../x.git/info/refs":                   "",
		"/git/a/../x.git":                           "",
		"/git/.hidden.git":                          "",
		"/git/a..b.git":                             "",
		"/git/-rf.git":                              "",
		"/git/a b.git":                              "",
		"/git/a.git/../../x.git":                    "a", // git's own backend refuses the rest
		"/git/.git":                                 "",
		"/git/app":                                  "",
		"/git/a/b/c/d/e/f.git":                      "",
		"/git/" + strings.Repeat("n", 201) + ".git": "",
		"/other/app.git":                            "",
	} {
		if got, ok := RepoOf(path); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q %v", path, got, ok)
		}
	}
	l := &listener{}
	_, url, _ := start(t, t.TempDir(), l)
	if out, err := tryGit(t, t.TempDir(), "clone", "-q", url+"/git/nothing.git"); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("clone of nothing: %v %s", err, out)
	}
}

// No spool file makes its reader panic, and what it accepts has sane refs.
func FuzzParseSpool(f *testing.F) {
	f.Add("/data/git/app.git\noptions 1\nkiln.skip\n" + strings.Repeat("0", 40) + " " + strings.Repeat("a", 40) + " refs/heads/main\n")
	f.Add("x\noptions 99999999999999999999\n")
	f.Add("x\noptions -1\n")
	f.Fuzz(func(t *testing.T, text string) {
		rep, err := parseSpool(text)
		for _, m := range rep.Refs {
			if err == nil && !strings.HasPrefix(m.Ref, "refs/") {
				t.Errorf("ref %q", m.Ref)
			}
		}
	})
}
