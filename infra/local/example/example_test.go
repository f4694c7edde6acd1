package example

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The app is written as it is in the tree, dot-files included, with its
// scripts executable.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"Dockerfile": 0o644, ".dockerignore": 0o644, "bin/press": 0o755, "bin/site": 0o755, "pages/clay.txt": 0o644, "drafts/kintsugi.txt": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode || info.Size() == 0 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
}

// The scripts do their work in any POSIX shell.
func TestScripts(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "site")
	cmd := exec.CommandContext(t.Context(), "sh", "bin/press", "T & T", "theme", "pages", out)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, text)
	}
	for name, want := range map[string]string{"index.html": "<h1>T &amp; T</h1>", "clay.html": "It shrinks &lt;twice&gt;"} {
		data, err := os.ReadFile(filepath.Join(out, name))
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s: %v %s", name, err, data)
		}
	}
}
