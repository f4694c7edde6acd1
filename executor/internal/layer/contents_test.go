package layer

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// A layer knows what it was made of: the bytes of a file with two names count
// once, directories not at all.
func TestContents(t *testing.T) {
	dir, err := rootfs.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	put := func(e rootfs.Entry, body string) {
		if err := dir.Put(e, strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	put(rootfs.Entry{Name: "d", Mode: fs.ModeDir | 0o755}, "")
	put(rootfs.Entry{Name: "d/big", Mode: 0o644, Size: 5000}, strings.Repeat("b", 5000))
	put(rootfs.Entry{Name: "d/same", Mode: 0o644, Link: "d/big", Hard: true}, "")
	put(rootfs.Entry{Name: "empty", Mode: 0o644}, "")
	put(rootfs.Entry{Name: "link", Mode: fs.ModeSymlink | 0o777, Link: "d/big"}, "")
	put(rootfs.Entry{Name: "small", Mode: 0o644, Size: 3}, "abc")
	b, err := NewBlob(t.TempDir(), Compression{})
	if err != nil {
		t.Fatal(err)
	}
	if b.Contents() != nil {
		t.Error("the contents are known before there are any")
	}
	var changes []snapshot.Change
	for _, name := range []string{"d", "d/big", "d/same", "empty", "link", "small"} {
		changes = append(changes, snapshot.Change{Name: name})
	}
	changes = append(changes, snapshot.Change{Name: "went", Deleted: true})
	if err := b.Fill(t.Context(), dir, changes, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	got := b.Contents()
	if got.Files != 5 || got.Removed != 1 || got.Bytes != 5003 || len(got.Largest) != 2 ||
		got.Largest[0] != (progress.File{Path: "d/big", Size: 5000}) || got.Largest[1] != (progress.File{Path: "small", Size: 3}) {
		t.Errorf("%+v", got)
	}
}
