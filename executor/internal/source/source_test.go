package source

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A directory is used in place, whether named bare or with a scheme, its sub
// path too, and it is still there after Close.
func TestFetchDir(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sub/deep/file"), "x")
	if err := os.Symlink("sub/deep", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, tc := range []struct{ url, sub, want string }{
		{dir, "", dir},
		{"dir://" + dir, "", dir},
		{".", "", dir},
		{"dir://sub", "", dir + "/sub"},
		{dir, "sub/deep", dir + "/sub/deep"},
		{dir, "/sub/deep/", dir + "/sub/deep"},
		{"dir://" + dir, "./sub/", dir + "/sub"},
		{dir, "link", dir + "/sub/deep"},
		{dir, ".", dir},
	} {
		c, err := Fetch(t.Context(), tc.url, Options{SubPath: tc.sub})
		if err != nil {
			t.Error(err)
			continue
		}
		if c.Dir != tc.want || c.Revision.String() != "" {
			t.Errorf("Fetch(%q, %q) = %+v, want %s", tc.url, tc.sub, c, tc.want)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "sub/deep/file")); err != nil {
		t.Error("Close removed the user's files")
	}
}

// What cannot be fetched says why, and nothing is fetched before it is known
// that the sub path is allowed.
func TestFetchErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file.tar"), "x")
	if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		url, sub string
		is       error
		want     string
	}{
		{"ftp://x", "", nil, "context ftp://x: unknown build context prefix provided, please use one of the following: dir://, git://, gs://, http://, https://, s3://, ssh://, tar://"},
		{"", "", nil, "no directory is named"},
		{dir + "/none", "", ErrNotFound, "not found"},
		{dir + "/file.tar", "", nil, "use tar://"},
		{"tar://" + dir, "", nil, "use dir://"},
		{"tar://" + dir + "/none", "", ErrNotFound, "none: not found"},
		{"tar://stdin", "", nil, "there is no standard input"},
		{dir, "../x", nil, `sub path "../x" is not allowed: references parent directory`},
		{"https://127.0.0.1:1/x", "a/../../b", nil, `sub path "a/../../b" is not allowed`},
		{dir, "none", ErrNotFound, `sub path "none": not found in the context`},
		{dir, "file.tar", nil, `sub path "file.tar" is not a directory`},
		{dir, "out", nil, `sub path "out": `},
		{dir, "a\x00b", nil, "holds a NUL byte"},
		{"http://example.com/x", "", nil, "http:// is for this machine (localhost) only"},
		{"https://", "", nil, "no host is named"},
		{"https://user:secret@host:bad/x", "", nil, "not a valid URL"},
	} {
		_, err := Fetch(t.Context(), tc.url, Options{SubPath: tc.sub})
		if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("Fetch(%q, %q): %v, want %q", tc.url, tc.sub, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("error tells a secret: %v", err)
		}
	}
}

// Standard input that is a terminal is kaniko's error.
func TestStdinIsTerminal(t *testing.T) {
	null, err := os.Open("/dev/null") // a character device as well
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	_, err = Fetch(t.Context(), "tar://stdin", Options{Stdin: null})
	if err == nil || !strings.Contains(err.Error(), "no data found.. don't forget to add the '--interactive, -i' flag") {
		t.Errorf("error = %v", err)
	}
}

// A local archive is unpacked, its sub path is the context, and its size is
// known from the start.
func TestFetchTarFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctx.tgz")
	b := gzipped(t, tarOf(t, tar.Header{Name: "app/Dockerfile"}, tar.Header{Name: "other"}, tar.Header{Name: "evil", Typeflag: tar.TypeSymlink, Linkname: "/"}))
	write(t, path, string(b))
	temp := t.TempDir()
	c, err := Fetch(t.Context(), "tar://"+path, Options{TempDir: temp, SubPath: "app"})
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, c.Dir); got != "-rw-r--r-- Dockerfile \"content of app/Dockerfile\"\n" {
		t.Errorf("got %s", got)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Fetch(t.Context(), "tar://"+path, Options{TempDir: temp, SubPath: "evil/etc"}); err == nil {
		t.Error("the sub path left the context")
	}
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	var none *Context
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}

// Secrets in URLs are not shown.
func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"/a/b#c?d":                        "/a/b#c?d",
		"tar:///a@b":                      "tar:///a@b",
		"git://TOKEN@host/p.git#main":     "git://xxxxx@host/p.git#main",
		"https://u:p@host/x?sig=abc#frag": "https://xxxxx@host/x?xxxxx",
		"https://u:p@q@host":              "https://xxxxx@host",
		"https://host/a@b":                "https://host/a@b",
		"s3://bucket/key?versionId=1":     "s3://bucket/key?versionId=1",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}
