package layer

import (
	"bytes"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

func indexed(t testing.TB, l v1.Layer) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := WriteIndex(t.Context(), l, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func newTree(t testing.TB) (*rootfs.Tree, *rootfs.Spool) {
	t.Helper()
	spool, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = spool.Close() })
	return rootfs.NewTree(spool.Keep, time.Now), spool
}

// counting is a layer that knows how often it was read.
type counting struct {
	v1.Layer
	reads int
}

func (c *counting) Compressed() (io.ReadCloser, error) {
	c.reads++
	return c.Layer.Compressed()
}

// What files hold is read from the layer when it is asked for, once a file; those
// by which users are looked up are in the index.
func TestIndexedFilesAreReadOnDemand(t *testing.T) {
	raw := archive(t, entry{name: "etc/passwd", body: "root:x:0:0::/:\n"}, entry{name: "a", body: "one"}, entry{name: "empty"}, entry{name: "b", body: "two"})
	l := &counting{Layer: static.NewLayer(raw, types.OCIUncompressedLayer)}
	index := indexed(t, l)
	tree, spool := newTree(t)
	l.reads = 0
	if err := ApplyIndex(t.Context(), tree, bytes.NewReader(index), l, spool, ApplyOptions{First: true}); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string { return contentOfFile(t, tree, name) }
	if got := read("etc/passwd") + read("empty"); got != "root:x:0:0::/:\n" || l.reads != 0 {
		t.Errorf("read %q, and the layer %d times", got, l.reads)
	}
	if got := read("b") + read("b"); got != "twotwo" || l.reads != 1 {
		t.Errorf("read %q, and the layer %d times", got, l.reads)
	}
	if p, ok := tree.Print("a"); !ok || p != [2]uint64(snapshot.PrintString("one")) {
		t.Errorf("print of a: %v %t", p, ok)
	}
}

// An index that is cut off is an error wherever that is.
func TestTruncatedIndex(t *testing.T) {
	raw := archive(t, entry{name: "d/", kind: '5'}, entry{name: "d/a", body: "one"}, entry{name: "s", kind: '2', link: "d"})
	l := static.NewLayer(raw, types.OCIUncompressedLayer)
	zr, err := zstd.NewReader(bytes.NewReader(indexed(t, l)))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	for n := range plain {
		tree, spool := newTree(t)
		if err := ApplyIndex(t.Context(), tree, squeeze(t, plain[:n]), l, spool, ApplyOptions{}); err == nil {
			t.Errorf("%d of %d bytes are taken for an index", n, len(plain))
		}
	}
}

func squeeze(t testing.TB, b []byte) io.Reader {
	t.Helper()
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(zw.EncodeAll(b, nil))
}

// No bytes make the reader panic, or hold more than they say.
func FuzzApplyIndex(f *testing.F) {
	f.Add([]byte(indexMagic + "\x00"))
	f.Add([]byte(indexMagic + "\x02\x00\x02a\xc8\x06\x00\x00\x00\x00\x02\x00\x00\x00"))
	f.Add([]byte(indexMagic + "\x0a\x00\x02a" + strings.Repeat("\x02", 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, spool := newTree(t)
		_ = ApplyIndex(t.Context(), tree, squeeze(t, b), static.NewLayer(nil, types.OCIUncompressedLayer), spool, ApplyOptions{})
	})
}

// The index that is written beside a layer is that of the layer when it is read.
func TestIndexOfBlob(t *testing.T) {
	m := rootfs.NewMem()
	for _, e := range []rootfs.Entry{
		{Name: "etc", Mode: fs.ModeDir | 0o755, ModTime: time.Unix(5, 7)},
		{Name: "etc/passwd", Mode: 0o644},
		{Name: "etc/group", Mode: 0o644},
		{Name: "big", Mode: 0o755 | fs.ModeSetuid, UID: 7, GID: 1 << 31, ModTime: time.Unix(1e9, 5), Xattrs: map[string]string{"user.a": "b", "user.b": ""}},
		{Name: "hard", Mode: 0o644, Hard: true, Link: "big"},
		{Name: "sym", Mode: fs.ModeSymlink | 0o777, Link: "/a/../b"},
		{Name: "fifo", Mode: fs.ModeNamedPipe | 0o600},
		{Name: "null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
	} {
		body := ""
		if e.Name == "big" || e.Name == "etc/passwd" {
			body = strings.Repeat("content", 1000)
		}
		if err := m.Put(e, strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := NewBlob(t.TempDir(), Compression{})
	if err != nil {
		t.Fatal(err)
	}
	var changes []snapshot.Change
	for _, n := range []string{"big", "etc/group", "etc/passwd", "fifo", "hard", "null", "sym"} {
		changes = append(changes, snapshot.Change{Name: n})
	}
	changes = append(changes, snapshot.Change{Name: "etc/x", Deleted: true})
	if err := b.Fill(t.Context(), m, changes, WriteOptions{Clamp: time.Unix(9e8, 0)}); err != nil {
		t.Fatal(err)
	}
	rc, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	got, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	want := indexed(t, b)
	if !bytes.Equal(got, want) {
		t.Errorf("the index beside the layer has %d bytes, that of the layer %d", len(got), len(want))
	}
	var beside bytes.Buffer
	skip := func(name string) bool { return name == "big" || name == "etc" }
	if err := Extract(t.Context(), rootfs.NewMem(), b, ApplyOptions{Skip: skip, Index: &beside}, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(beside.Bytes(), want) {
		t.Errorf("the index beside an extraction has %d bytes, that of the layer %d", beside.Len(), len(want))
	}
}
