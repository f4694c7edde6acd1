// Package golden compares what a test made with a file of its testdata, which the
// flag -update of the test writes.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

// update is of every test that imports this package.
var update = flag.Bool("update", false, "rewrite the golden files") //nolint:gochecknoglobals // flags are the process's

// Equal fails the test if got is not what the file testdata/name holds.
func Equal(t testing.TB, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (-update writes it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update writes it); got:\n%s", path, got)
	}
}
