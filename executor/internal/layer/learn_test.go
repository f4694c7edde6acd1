package layer

import (
	"archive/tar"
	"bytes"
	"maps"
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

// A further name has the extended attributes of its file, though archives rarely say so
// again: a snapshot that knows of none would not miss them when they go.
func TestAttributesOfEveryNameAreLearned(t *testing.T) {
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	for _, h := range []*tar.Header{
		{Name: "a", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{xattrPrefix + "user.k": "v"}},
		{Name: "b", Typeflag: tar.TypeLink, Linkname: "a", Mode: 0o644},
	} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	learned := map[string]string{}
	learn := func(n string, _ snapshot.Print, xattrs map[string]string) { learned[n] = xattrs["user.k"] }
	if err := Apply(t.Context(), rootfs.NewMem(), &raw, ApplyOptions{First: true, Learn: learn}); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"a": "v", "b": "v"}; !maps.Equal(learned, want) {
		t.Errorf("learned %v, want %v", learned, want)
	}
}
