package layer

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// Every name of a file is learned, not only the one that its content is under:
// a snapshot that knows no print of a name takes it for changed as soon as
// another name of the file goes.
func TestEveryNameOfAFileIsLearned(t *testing.T) {
	src := rootfs.NewMem()
	for _, e := range []rootfs.Entry{{Name: "a", Mode: 0o644}, {Name: "b", Hard: true, Link: "a"}, {Name: "c", Hard: true, Link: "a"}} {
		if err := src.Put(e, strings.NewReader("content")); err != nil {
			t.Fatal(err)
		}
	}
	want := snapshot.PrintString("content")
	check := func(what string, learned map[string]snapshot.Print) {
		t.Helper()
		for _, n := range []string{"a", "b", "c"} {
			if learned[n] != want {
				t.Errorf("%s: learned %v of %s, want %v", what, learned[n], n, want)
			}
		}
	}
	var tar bytes.Buffer
	learned := map[string]snapshot.Print{}
	learn := func(n string, p snapshot.Print, _ map[string]string) { learned[n] = p }
	if err := Write(t.Context(), &tar, src, all(t, src), WriteOptions{Learn: learn}); err != nil {
		t.Fatal(err)
	}
	check("write", learned)
	clear(learned)
	if err := Apply(t.Context(), rootfs.NewMem(), &tar, ApplyOptions{Learn: learn}); err != nil {
		t.Fatal(err)
	}
	check("apply", learned)
}
