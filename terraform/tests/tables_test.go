package terraform_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/terraform/tests/tables"
)

// TestTables proves that the tables in every README.md are those of its module.
func TestTables(t *testing.T) {
	t.Parallel()
	dirs, err := tables.Dirs("..")
	if err != nil || len(dirs) < 16 {
		t.Fatalf("%d directories: %v", len(dirs), err)
	}
	for _, dir := range dirs {
		want, err := tables.Update(dir)
		if err != nil {
			t.Error(err)
			continue
		}
		got, err := os.ReadFile(filepath.Join(dir, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s/README.md is stale; run: go run ./tfdoc", dir)
		}
	}
}

// TestStaleTables proves that a change of a variable makes a table stale, and
// that a variable without a description or a type is refused.
func TestStaleTables(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("README.md", "# m\n\n"+tables.Begin+tables.End+"\nmore\n")
	write("variables.tf", "variable \"a\" {\n  description = \"one | two\"\n  type = object({\n    b = optional(string, \"x\") # why\n    c = number\n  })\n}\n")
	first, err := tables.Update(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := "| `a` | one \\| two | `object({ b = optional(string, \"x\"), c = number })` | must be given |"; !strings.Contains(string(first), want) || !strings.HasSuffix(string(first), tables.End+"\nmore\n") {
		t.Errorf("got:\n%s\nwant:\n%s", first, want)
	}
	write("variables.tf", "variable \"a\" {\n  description = \"three\"\n  type = string\n  default = null\n}\n")
	if second, err := tables.Update(dir); err != nil || bytes.Equal(first, second) {
		t.Errorf("the change is not seen: %v", err)
	}
	for _, bad := range []string{"variable \"a\" {\n  type = string\n}\n", "variable \"a\" {\n  description = \"d\"\n}\n", "output \"o\" {\n  value = 1\n}\n"} {
		write("variables.tf", bad)
		if _, err := tables.Update(dir); err == nil {
			t.Errorf("accepted:\n%s", bad)
		}
	}
}
