package golden

import (
	"os"
	"path/filepath"
	"testing"
)

// told counts what a test was told.
type told struct {
	testing.TB
	errors int
}

func (*told) Helper()                     {}
func (o *told) Errorf(string, ...any)     { o.errors++ }
func (o *told) Fatalf(f string, a ...any) { o.TB.Errorf(f, a...) }

// TestEqual proves that a difference is told, and that only -update writes.
func TestEqual(t *testing.T) {
	t.Chdir(t.TempDir())
	before := *update
	t.Cleanup(func() { *update = before })
	for i, c := range []struct {
		update bool
		got    string
		errors int
	}{{true, "one\n", 0}, {false, "one\n", 0}, {false, "two\n", 1}, {true, "two\n", 0}, {false, "two\n", 0}} {
		*update = c.update
		o := &told{TB: t}
		if Equal(o, "dir/file", c.got); o.errors != c.errors {
			t.Errorf("%d: %d errors, want %d", i, o.errors, c.errors)
		}
		if c.errors == 0 {
			if raw, err := os.ReadFile(filepath.Join("testdata", "dir", "file")); err != nil || string(raw) != c.got {
				t.Errorf("%d: the file is %q, %v", i, raw, err)
			}
		}
	}
}
