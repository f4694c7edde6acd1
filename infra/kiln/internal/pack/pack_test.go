package pack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree writes files; a name ending in a slash is a directory, text beginning
// with "->" is a link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch target, link := strings.CutPrefix(text, "->"); {
		case strings.HasSuffix(name, "/"):
			err = errors.Join(err, os.MkdirAll(p, 0o755))
		case link:
			err = errors.Join(err, os.Symlink(target, p))
		default:
			err = errors.Join(err, os.WriteFile(p, []byte(text), 0o640))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// list is what a context's tar holds.
func list(t *testing.T, c *Context) (names []string, contents map[string]string) {
	t.Helper()
	var buf bytes.Buffer
	var last int64
	if err := c.Write(t.Context(), &buf, func(n int64) { last = n }); err != nil {
		t.Fatal(err)
	}
	if last != c.Bytes {
		t.Errorf("%d bytes sent, %d announced", last, c.Bytes)
	}
	zip, err := gzip.NewReader(&buf)
	if err != nil {
		t.Fatal(err)
	}
	contents = map[string]string{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Uname != "" {
			t.Errorf("owner of %s", h.Name)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		contents[h.Name] = string(data) + h.Linkname
	}
}

// What .dockerignore names stays, with exceptions; the Dockerfile and
// .dockerignore always go.
func TestIgnore(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"nothing ignored": {map[string]string{"Dockerfile": "FROM x", "a/b": "1", "l": "->a/b", "empty/": ""}, "Dockerfile a/ a/b empty/ l"},
		"directory":       {map[string]string{"Dockerfile": "", ".dockerignore": "drafts\n**/*.bak\n", "drafts/x": "", "keep/x.bak": "", "keep/x": ""}, ".dockerignore Dockerfile keep/ keep/x"},
		"all of it":       {map[string]string{"Dockerfile": "", ".dockerignore": "*\n", "a": "", "b/c": ""}, ".dockerignore Dockerfile"},
		"exception":       {map[string]string{"Dockerfile": "", ".dockerignore": "*\n!b/keep\n", "a": "", "b/c": "", "b/keep": ""}, ".dockerignore Dockerfile b/keep"},
		"names them":      {map[string]string{"Dockerfile": "", ".dockerignore": "Dockerfile\n.dockerignore\n", "a": ""}, ".dockerignore Dockerfile a"},
		"own ignore file": {map[string]string{"Dockerfile": "", "Dockerfile.dockerignore": "a\n", ".dockerignore": "b\n", "a": "", "b": ""}, ".dockerignore Dockerfile Dockerfile.dockerignore b"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Scan(t.Context(), tree(t, tc.files), "")
			if err != nil {
				t.Fatal(err)
			}
			if names, _ := list(t, c); strings.Join(names, " ") != tc.want {
				t.Errorf("%s, want %s", strings.Join(names, " "), tc.want)
			}
		})
	}
}

// Another Dockerfile, in the context or outside it, goes as Dockerfile.
func TestOtherDockerfile(t *testing.T) {
	dir := tree(t, map[string]string{"Dockerfile": "first", "build/Dockerfile.prod": "second", "a": ""})
	outside := filepath.Join(tree(t, map[string]string{"Third": "third"}), "Third")
	for f, want := range map[string]string{"": "first", "build/Dockerfile.prod": "second", outside: "third"} {
		c, err := Scan(t.Context(), dir, f)
		if err != nil {
			t.Fatal(err)
		}
		if names, contents := list(t, c); contents["Dockerfile"] != want || strings.Count(strings.Join(names, " ")+" ", "Dockerfile ") != 1 {
			t.Errorf("%s: %v", f, contents)
		}
	}
}

// Faults are told with what to do; sockets are skipped and said.
func TestFaults(t *testing.T) {
	dir := tree(t, map[string]string{"a": ""})
	for _, tc := range []struct{ dir, file, want string }{
		{dir, "", "name another with -f"},
		{dir, "nope", "neither here nor in"},
		{dir + "/a", "", "not a directory"},
		{dir + "/x", "", "no such file"},
	} {
		if _, err := Scan(t.Context(), tc.dir, tc.file); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %q", err, tc.want)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Scan(t.Context(), dir, ""); err != nil || len(c.Skipped) != 1 || c.Files != 2 {
		t.Errorf("%+v %v", c, err)
	}
}

// A file that becomes shorter under way fails the upload instead of padding it.
func TestShrinkingFile(t *testing.T) {
	dir := tree(t, map[string]string{"Dockerfile": "", "a": strings.Repeat("x", 100)})
	c, err := Scan(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), io.Discard, nil); err == nil || !strings.Contains(err.Error(), "send a:") {
		t.Errorf("%v", err)
	}
}
