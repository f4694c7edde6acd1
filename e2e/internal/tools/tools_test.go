package tools

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/internal/cache"
)

// TestCompile proves that a program is compiled once for a state of its module,
// and again when that changes.
func TestCompile(t *testing.T) {
	module, kept := t.TempDir(), cache.Dir(t.TempDir())
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(module, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.org/hello\n\ngo 1.26\n")
	write("go.sum", "")
	write("main.go", "package main\n\nfunc main() { println(\"one\") }\n")
	run := func() string {
		t.Helper()
		dir, err := Compile(t.Context(), kept, "hello", module, nil, "example.org/hello")
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "hello")).CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	if got := run(); got != "one" {
		t.Fatalf("the program says %q", got)
	}
	write("main.go", "package main\n\nfunc main() { println(\"two\") }\n")
	if got := run(); got != "one" {
		t.Errorf("the program was compiled again though its module is the same: %q", got)
	}
	write("go.mod", "module example.org/hello\n\ngo 1.26.1\n")
	if got := run(); got != "two" {
		t.Errorf("the program was not compiled again for another module: %q", got)
	}
	write("main.go", "package main\n\nfunc main() { broken }\n")
	write("go.mod", "module example.org/hello\n\ngo 1.26.2\n")
	if _, err := Compile(t.Context(), kept, "hello", module, nil, "example.org/hello"); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a program that does not compile: %v", err)
	}
}

func TestRoot(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "ARCHITECTURE.md")); err != nil {
		t.Error(err)
	}
	t.Chdir(t.TempDir())
	if root, err := Root(); err == nil {
		t.Errorf("outside a clone the root is %s", root)
	}
}
