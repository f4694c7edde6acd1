package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A repository is fetched by branch, tag, full ref or commit, and only if the
// commit is the one that is expected.
func TestFetchRepository(t *testing.T) {
	g := newGitServer(t)
	one := g.repo("r", map[string]string{"f": "one", "sub/f": "sub"})
	g.git("r", "tag", "-a", "-m", "m", "v1")
	two := g.commit("r", map[string]string{"f": "two"})
	url := strings.Replace(g.url, "git://", "http://u:pw@", 1) + "/r"
	for _, c := range []struct {
		repo      Repository
		want, err string
	}{
		{Repository{}, two, ""},
		{Repository{Ref: "main"}, two, ""},
		{Repository{Ref: "v1"}, one, ""},
		{Repository{Ref: "refs/tags/v1", Commit: one[:7]}, one, ""},
		{Repository{Ref: one}, one, ""},
		{Repository{Ref: "main", Commit: two, Subdir: "sub"}, two, ""},
		{Repository{Commit: one}, "", "its default branch is commit " + two + " and not " + one + ", as the checksum says"},
		{Repository{Ref: "v2"}, "", `ref "v2" is neither a branch nor a tag`},
		{Repository{Ref: "a..b"}, "", `ref "a..b" is not the name of a branch or a tag`},
		{Repository{Subdir: "../x"}, "", "references parent directory"},
		{Repository{Subdir: "nodir"}, "", "nodir"},
	} {
		c.repo.URL = url
		opt := g.options()
		got, err := FetchRepository(t.Context(), c.repo, opt)
		if err != nil {
			if c.err == "" || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "pw") {
				t.Errorf("%+v: %v", c.repo, err)
			}
			if left, _ := os.ReadDir(opt.TempDir); len(left) != 0 {
				t.Errorf("%+v: left %v", c.repo, left)
			}
			continue
		}
		if got.Revision.Commit != c.want || c.err != "" {
			t.Errorf("%+v is commit %s", c.repo, got.Revision.Commit)
		}
		if _, err := os.Stat(filepath.Join(got.Dir, ".git")); err == nil {
			t.Errorf("%+v has a .git", c.repo)
		}
		if err := got.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := FetchRepository(t.Context(), Repository{URL: "git://h/x"}, g.options()); err == nil || !strings.Contains(err.Error(), "use an https:// or an ssh URL") {
		t.Errorf("git: %v", err)
	}
}

// Git itself takes the .git that is left for that of a clone: nothing is
// missing, nothing has changed, and it says where it came from.
func TestKeepGitDir(t *testing.T) {
	g := newGitServer(t)
	g.repo("r", map[string]string{"f": "one", "sub/f": "sub", "big": strings.Repeat("line\n", 5000)})
	commit := g.commit("r", map[string]string{"f": "two", "big": strings.Repeat("line\n", 5000) + "end"})
	g.git("r", "tag", "v1")
	url := strings.Replace(g.url, "git://", "http://u:pw@", 1) + "/r"
	for _, ref := range []string{"", "main", "v1", commit} {
		c, err := FetchRepository(t.Context(), Repository{URL: url, Ref: ref, KeepGitDir: true}, g.options())
		if err != nil {
			t.Fatal(err)
		}
		clone := &gitServer{t: t, root: c.Dir}
		for want, args := range map[string][]string{
			commit:                {"rev-parse", "HEAD"},
			"":                    {"status", "--porcelain"},
			"big\nf\nsub/f":       {"ls-files"},
			"1":                   {"rev-list", "--count", "HEAD"},
			url[:7] + url[12:]:    {"remote", "get-url", "origin"},
			commit[:7] + " c":     {"log", "--abbrev=7", "--format=%h %s"},
			"refs/tags/v1 " + ref: {"for-each-ref", "--format=%(refname) " + ref, "refs/tags"},
		} {
			if strings.HasPrefix(want, "refs/") && ref != "v1" {
				want = ""
			}
			if got := clone.git(".", args...); got != want {
				t.Errorf("ref %q: git %v: %q, want %q", ref, args, got, want)
			}
		}
		clone.git(".", "fsck", "--full", "--strict")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
