package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/quick"

	"github.com/moby/patternmatcher"
)

func mustIgnore(t testing.TB, text string) *Ignore {
	t.Helper()
	i, err := ParseIgnore(".dockerignore", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// The rules of the Dockerfile reference's section on .dockerignore files.
func TestIgnore(t *testing.T) {
	for _, c := range []struct{ patterns, excluded, kept string }{
		{"", "", "a a/b"},
		{"# a\n\n  \n", "", "a #"},
		{"\uFEFFa\r\nb\r\n", "a b a/x", "c"},
		{"*/temp*", "s/temp s/temporary.txt", "temp s/t/temp"},
		{"*/*/temp*", "s/t/temp", "s/temp"},
		{"temp?", "tempa tempb/x", "temp tempab"},
		{"/a/b", "a/b a/b/c", "b a/bc"},
		{"**/*.go", "a.go x/y/b.go", "a.c"},
		{"*.md\n!README.md", "a.md b.md/x", "README.md"},
		{"*.md\n!README*.md\nREADME-secret.md", "README-secret.md", "README.md README-x.md"},
		{"*\n!src/**", "a a/b srcs", "src/a src/b/c"},
		{"*\n!src/keep", "src/a", "src/keep src/keep/b"},
		{"dir\n!dir/a/b", "dir/a dir/a/c", "dir/a/b dir/a/b/c"},
		{".dockerignore\nDockerfile", "Dockerfile .dockerignore", "x/Dockerfile"},
		{"[a-c]x", "ax cx/y", "dx"},
	} {
		i := mustIgnore(t, c.patterns)
		for _, name := range strings.Fields(c.excluded) {
			if !i.Excluded(name) {
				t.Errorf("%q keeps %s", c.patterns, name)
			}
		}
		for _, name := range strings.Fields(c.kept) {
			if i.Excluded(name) {
				t.Errorf("%q excludes %s", c.patterns, name)
			}
		}
		if i.Excluded(".") {
			t.Errorf("%q excludes the root", c.patterns)
		}
	}
	if (*Ignore)(nil).Excluded("a") || (*Ignore)(nil).MayHold("a") {
		t.Error("no ignore file excludes something")
	}
}

// A bad pattern is found when the file is read and its line is named.
func TestIgnoreErrors(t *testing.T) {
	for _, bad := range []string{"a\n!\n", "a\n[\n", "a\n[z-a]\n", "a\n" + strings.Repeat("x", 70000)} {
		_, err := ParseIgnore("x.dockerignore", []byte(bad))
		if e, ok := errors.AsType[*Error](err); !ok || e.Pos.String() != "x.dockerignore:2" {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

// The directory is looked into only where a "!" pattern may include something.
func TestMayHold(t *testing.T) {
	i := mustIgnore(t, "*\n!src/a*/keep\n!top\n")
	for dir, want := range map[string]bool{
		"src": true, "src/abc": true, "src/b": false, "src/abc/keep": false, "top": false, "top/x": false, "node_modules": false,
	} {
		if got := i.MayHold(dir); got != want {
			t.Errorf("%s: %v", dir, got)
		}
	}
	if !mustIgnore(t, "*\n!**/x").MayHold("any/dir") {
		t.Error("** does not reach everywhere")
	}
	if mustIgnore(t, "*").MayHold("a") {
		t.Error("nothing is included again, yet directories are looked into")
	}
}

// Asking in any order gives what BuildKit's matcher gives when it walks from the
// root down to the name.
func TestIgnoreOrder(t *testing.T) {
	patterns := []string{"a", "!a/b", "a/b/c*", "**/z", "!**/keep", "b/*/c"}
	i := mustIgnore(t, strings.Join(patterns, "\n"))
	parts := []string{"a", "b", "c", "cc", "z", "keep"}
	err := quick.Check(func(picks []uint8) bool {
		name := "."
		for _, p := range picks[:min(len(picks), 5)] {
			name = path.Join(name, parts[int(p)%len(parts)])
		}
		if name == "." {
			return true
		}
		m, err := patternmatcher.New(patterns)
		if err != nil {
			return false
		}
		var info patternmatcher.MatchInfo
		want := false
		for n, c := range name + "/" {
			if c == '/' {
				if want, info, err = m.MatchesUsingParentResults(name[:n], info); err != nil {
					return false
				}
			}
		}
		return i.Excluded(name) == want
	}, &quick.Config{MaxCount: 5000})
	if err != nil {
		t.Error(err)
	}
}

// Several goroutines may ask at once.
func TestIgnoreConcurrent(t *testing.T) {
	i := mustIgnore(t, "*\n!keep/**\nkeep/not\n")
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range 500 {
				if !i.Excluded(fmt.Sprintf("d%d/x%d", g, n)) || i.Excluded(fmt.Sprintf("keep/%d/%d", g, n)) || !i.Excluded("keep/not/x") {
					t.Error("wrong answer")
				}
			}
		})
	}
	wg.Wait()
}

func TestIgnoreNames(t *testing.T) {
	if got := IgnoreNames("sub/Dockerfile.web"); got[0] != "sub/Dockerfile.web.dockerignore" || got[1] != ".dockerignore" {
		t.Errorf("got %q", got)
	}
}

func FuzzIgnore(f *testing.F) {
	f.Add([]byte("*\n!a/b\n**/c?[x-z]\n"), "a/b/c")
	f.Add([]byte("\\a\n[^b]\n# c\n"), "b")
	f.Fuzz(func(t *testing.T, content []byte, name string) {
		i, err := ParseIgnore(".dockerignore", content)
		if err != nil {
			return
		}
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		if name == "" {
			return
		}
		first := i.Excluded(name)
		i.Excluded("x/y/z")
		if i.Excluded(name) != first {
			t.Fatalf("two answers for %q", name)
		}
		i.MayHold(name)
	})
}

func BenchmarkIgnoreWalk(b *testing.B) {
	var patterns strings.Builder
	for n := range 50 {
		fmt.Fprintf(&patterns, "**/dir%d/*.tmp\n", n)
	}
	i := mustIgnore(b, patterns.String())
	names := make([]string, 1000)
	for n := range names {
		names[n] = fmt.Sprintf("a/b/c/d/e/f/g/h/file%d", n)
	}
	for b.Loop() {
		for _, n := range names {
			i.Excluded(n)
		}
	}
}
