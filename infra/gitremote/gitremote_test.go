package gitremote_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/infra/gitremote"
)

// repo is a repository with a history, and a client that reaches it.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) (*repo, *gitremote.Client) {
	t.Helper()
	r := &repo{t, filepath.Join(t.TempDir(), "h", "r.git")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("init", "-q", "-b", "main")
	c := gitremote.New(gitremote.Config{
		Dir: t.TempDir(), Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()},
		URL: func(location string) (string, error) {
			if location != "h/r" {
				return "", errors.New("no such host")
			}
			return "file://" + r.dir, nil
		},
	})
	return r, c
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@t"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files, removes those whose content is "-", and commits.
func (r *repo) commit(files map[string]string) string {
	r.t.Helper()
	for name, content := range files {
		path := filepath.Join(r.dir, name)
		if content == "-" {
			if err := os.Remove(path); err != nil {
				r.t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "m")
	return r.git("rev-parse", "HEAD")
}

func TestChanged(t *testing.T) {
	r, c := newRepo(t)
	a := r.commit(map[string]string{"app/main.go": "1", "libs/x.go": "1", "README.md": "1"})
	b := r.commit(map[string]string{"app/main.go": "2"})
	d := r.commit(map[string]string{"libs/x.go": "-", "libs/y.go": "1", "naïve file.txt": "x"})
	for _, tc := range []struct {
		from, to string
		want     []string
	}{
		{a, b, []string{"app/main.go"}},
		{b, d, []string{"libs/x.go", "libs/y.go", "naïve file.txt"}},
		{a, d, []string{"app/main.go", "libs/x.go", "libs/y.go", "naïve file.txt"}},
		{d, a, []string{"app/main.go", "libs/x.go", "libs/y.go", "naïve file.txt"}}, // history taken back
		{d, d, nil},
	} {
		got, err := c.Changed(t.Context(), "h/r", tc.from, tc.to)
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s..%s: %q, %v", tc.from[:7], tc.to[:7], got, err)
		}
	}
	// A history that was rewritten: what was pushed before is on no branch.
	r.git("checkout", "-q", "-B", "main", a)
	e := r.commit(map[string]string{"README.md": "2"})
	got, err := c.Changed(t.Context(), "h/r", d, e)
	if err != nil || !slices.Contains(got, "libs/y.go") || !slices.Contains(got, "README.md") {
		t.Errorf("after a forced push: %q, %v", got, err)
	}
	if _, err := c.Changed(t.Context(), "h/r", strings.Repeat("1", 40), e); err == nil {
		t.Error("a commit that is not there can be compared")
	}
	if _, err := c.Changed(t.Context(), "h/r", "--output=/tmp/x", e); err == nil {
		t.Error("an option is taken for a commit")
	}
	if _, err := c.Changed(t.Context(), "h/other", a, b); err == nil {
		t.Error("a host that is not allowed was asked")
	}
}

func TestRefs(t *testing.T) {
	r, c := newRepo(t)
	a := r.commit(map[string]string{"f": "1"})
	r.git("tag", "-a", "-m", "v1", "v1")
	r.git("branch", "feature/x")
	refs, err := c.Refs(t.Context(), "h/r")
	if err != nil {
		t.Fatal(err)
	}
	tag := r.git("rev-parse", "v1")
	want := map[string]gitremote.Ref{"refs/heads/main": {Head: a}, "refs/heads/feature/x": {Head: a}, "refs/tags/v1": {Head: tag, Commit: a}}
	if len(refs) != len(want) {
		t.Errorf("refs %v", refs)
	}
	for name, ref := range want {
		if refs[name] != ref {
			t.Errorf("%s: %+v, want %+v", name, refs[name], ref)
		}
	}
	if head, err := c.Head(t.Context(), "h/r", "refs/heads/main"); err != nil || head != a {
		t.Errorf("head %s, %v", head, err)
	}
	if head, err := c.Head(t.Context(), "h/r", "refs/heads/gone"); err != nil || head != "" {
		t.Errorf("head %s, %v", head, err)
	}
}

func TestReadFile(t *testing.T) {
	r, c := newRepo(t)
	if err := os.Symlink("/etc/passwd", filepath.Join(r.dir, "link")); err != nil {
		t.Fatal(err)
	}
	a := r.commit(map[string]string{".kiln.yaml": "skip: true\n", "dir/f": "x"})
	if data, err := c.ReadFile(t.Context(), "h/r", a, ".kiln.yaml", 100); err != nil || string(data) != "skip: true\n" {
		t.Errorf("%q, %v", data, err)
	}
	for _, path := range []string{"gone.yaml", "dir", "link"} {
		if _, err := c.ReadFile(t.Context(), "h/r", a, path, 100); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := c.ReadFile(t.Context(), "h/r", a, ".kiln.yaml", 3); err == nil {
		t.Error("a file over the limit was read")
	}
}
