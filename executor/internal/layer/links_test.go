package layer

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// devices gives every file the same inode number, on the device that it names.
type devices struct {
	rootfs.FS
	of map[string]uint64
}

func (d devices) Lstat(name string) (rootfs.Entry, error) {
	e, err := d.FS.Lstat(name)
	if dev, ok := d.of[name]; ok && err == nil {
		e.Inode, e.Nlink = rootfs.Inode{Dev: dev, Ino: 7}, 2
	}
	return e, err
}

// Files are one file only if their device is the same too: two file systems below
// one root have the same inode numbers.
func TestInodeNumbersOfTwoDevices(t *testing.T) {
	mem := rootfs.NewMem()
	for _, n := range []string{"a", "b", "c"} {
		if err := mem.Put(rootfs.Entry{Name: n, Mode: 0o644}, strings.NewReader(n)); err != nil {
			t.Fatal(err)
		}
	}
	src := devices{mem, map[string]uint64{"a": 1, "b": 2, "c": 1}}
	var out bytes.Buffer
	if err := Write(t.Context(), &out, src, all(t, src), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		got[h.Name] = string(h.Typeflag) + h.Linkname
	}
	if got["a"] != "0" || got["b"] != "0" || got["c"] != "1a" {
		t.Errorf("the layer has %q, want files a and b, and c as a link to a", got)
	}
}
