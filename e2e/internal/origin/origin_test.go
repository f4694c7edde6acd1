package origin

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/need"
)

func start(t *testing.T) *Server {
	t.Helper()
	s, err := Start(t.Context(), need.Command(t, "git"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestFiles proves what is answered about files.
func TestFiles(t *testing.T) {
	s := start(t)
	s.File("/f", []byte("text"))
	s.Header("/f", "Etag", `"1"`)
	s.File("/gone", nil)
	s.Header("/gone", "Status", "410")
	s.File("/closed", []byte("inner"))
	s.Header("/closed", "Want-Authorization", "Bearer t")
	s.Redirect("/there", "/f")
	for _, c := range []struct {
		path, header, value string
		status              int
		body                string
	}{
		{"/f", "", "", 200, "text"},
		{"/f", "If-None-Match", `"1"`, 304, ""},
		{"/there", "", "", 200, "text"},
		{"/gone", "", "", 410, ""},
		{"/closed", "", "", 401, "who are you?\n"},
		{"/closed", "Authorization", "Bearer t", 200, "inner"},
		{"/none", "", "", 404, "404 page not found\n"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Host+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			req.Header.Set(c.header, c.value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || string(body) != c.body {
			t.Errorf("%s %s: %d %q, %v; want %d %q", c.path, c.value, resp.StatusCode, body, err, c.status, c.body)
		}
	}
}

// TestRepository proves that git can clone what was committed, and that the ids
// depend on the content only.
func TestRepository(t *testing.T) {
	var ids []string
	for range 2 {
		s := start(t)
		tree := t.TempDir()
		for _, text := range []string{"1\n", "2\n"} {
			if err := os.WriteFile(filepath.Join(tree, "a"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			id, err := s.Commit(t.Context(), "repo", "main", tree)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		if err := s.Tag(t.Context(), "repo", "main", "v1", true); err != nil {
			t.Fatal(err)
		}
		clone := filepath.Join(t.TempDir(), "clone")
		cmd := exec.CommandContext(t.Context(), s.git, "clone", "--quiet", "--branch=v1", "http://"+s.Host+"/repo.git", clone)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if text, err := os.ReadFile(filepath.Join(clone, "a")); err != nil || string(text) != "2\n" {
			t.Errorf("cloned %q, %v", text, err)
		}
	}
	if got := strings.Join(ids[:2], " "); ids[0] == ids[1] || got != strings.Join(ids[2:], " ") {
		t.Errorf("ids %q", ids)
	}
}
