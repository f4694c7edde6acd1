package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// tree puts files named by short lines into a Mem and describes one so.
//
//	dir  755 0:0 usr
//	file 4755 0:0 usr/su content
//	link usr/sh -> su
//	hard usr/su2 = usr/su
func tree(t *testing.T, lines ...string) *rootfs.Mem {
	t.Helper()
	m := rootfs.NewMem()
	for _, l := range lines {
		f := strings.Fields(l)
		var e rootfs.Entry
		content := ""
		var mode int64
		switch f[0] {
		case "dir", "file":
			if _, err := fmt.Sscanf(f[1]+" "+f[2], "%o %d:%d", &mode, &e.UID, &e.GID); err != nil {
				t.Fatal(err)
			}
			e.Name, e.Mode = f[3], fileMode(mode)
			if f[0] == "dir" {
				e.Mode |= fs.ModeDir
			} else if len(f) > 4 {
				content = f[4]
			}
		case "link":
			e = rootfs.Entry{Name: f[1], Mode: fs.ModeSymlink | 0o777, Link: f[3]}
		case "hard":
			e = rootfs.Entry{Name: f[1], Hard: true, Link: f[3]}
		default:
			t.Fatalf("line %q", l)
		}
		e.ModTime = time.Unix(1e9, 0)
		if err := m.Put(e, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func describe(t *testing.T, fsys rootfs.FS) []string {
	t.Helper()
	var out []string
	first := map[rootfs.Inode]string{}
	err := rootfs.Walk(fsys, ".", func(e rootfs.Entry) error {
		if e.Name == "." {
			return nil
		}
		switch {
		case e.Mode&fs.ModeSymlink != 0:
			out = append(out, fmt.Sprintf("link %s -> %s", e.Name, e.Link))
		case e.Mode.IsDir():
			out = append(out, fmt.Sprintf("dir %o %d:%d %s", unixMode(e.Mode), e.UID, e.GID, e.Name))
		case first[e.Inode] != "":
			out = append(out, fmt.Sprintf("hard %s = %s", e.Name, first[e.Inode]))
		default:
			first[e.Inode] = e.Name
			f, err := fsys.Open(e.Name)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(f)
			if err != nil {
				return err
			}
			out = append(out, strings.TrimSpace(fmt.Sprintf("file %o %d:%d %s %s", unixMode(e.Mode), e.UID, e.GID, e.Name, b)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func all(t *testing.T, fsys rootfs.FS) []snapshot.Change {
	t.Helper()
	var out []snapshot.Change
	if err := rootfs.Walk(fsys, ".", func(e rootfs.Entry) error {
		if e.Name != "." {
			out = append(out, snapshot.Change{Name: e.Name})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t *testing.T, fsys rootfs.FS, changes []snapshot.Change) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Write(t.Context(), &buf, fsys, changes, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestApplyUndoesWrite(t *testing.T) {
	lines := []string{
		"dir 755 0:0 a", "link a/l -> ../../etc", "file 4755 0:7 a/su content", "hard a/su2 = a/su",
		"dir 1777 3000000:1 tmp", "file 644 0:0 tmp/empty",
	}
	src := tree(t, lines...)
	dst := rootfs.NewMem()
	if err := Apply(t.Context(), dst, bytes.NewReader(write(t, src, all(t, src))), ApplyOptions{First: true}); err != nil {
		t.Fatal(err)
	}
	if got := describe(t, dst); !slices.Equal(got, lines) {
		t.Errorf("after Apply the tree is\n%s", strings.Join(got, "\n"))
	}
}

func TestWriteIsDeterministic(t *testing.T) {
	src := tree(t, "dir 755 0:0 a", "file 644 0:0 a/b x", "file 644 0:0 c y")
	if err := src.Put(rootfs.Entry{Name: "x", Mode: 0o644, Xattrs: map[string]string{"user.b": "2", "user.a": "1", "security.capability": "\x01\x00"}}, nil); err != nil {
		t.Fatal(err)
	}
	first := write(t, src, all(t, src))
	for range 20 {
		if !bytes.Equal(first, write(t, src, all(t, src))) {
			t.Fatal("the same changes made different bytes")
		}
	}
}

// A layer holds the directories above a change, once, before it, and
// whiteouts for what is gone.
func TestWriteParentsAndWhiteouts(t *testing.T) {
	src := tree(t, "dir 711 1:2 a", "dir 755 0:0 a/b", "file 644 0:0 a/b/c x", "file 644 0:0 a/b/d x")
	raw := write(t, src, []snapshot.Change{{Name: "a/b/c"}, {Name: "a/b/d"}, {Name: "a/gone", Deleted: true}, {Name: "top", Deleted: true}})
	var got []string
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %o", h.Name, h.Mode))
	}
	want := []string{"a/ 711", "a/b/ 755", "a/b/c 644", "a/b/d 644", "a/.wh.gone 0", ".wh.top 0"}
	if !slices.Equal(got, want) {
		t.Errorf("the layer holds %q, want %q", got, want)
	}
}

type entry struct {
	name, link string
	kind       byte
	mode       int64
	body       string
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		if err := tw.WriteHeader(&tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// image-spec, layer.md, "Applying Changesets" and "Whiteouts".
func TestApply(t *testing.T) {
	lower := []string{"dir 755 0:0 d", "file 644 0:0 d/a 1", "dir 755 0:0 d/s", "file 644 0:0 d/s/x 1", "file 644 0:0 f 1", "link l -> d"}
	for _, c := range []struct {
		name    string
		entries []entry
		want    []string
	}{
		{"a whiteout hides a file", []entry{{name: "d/.wh.a"}}, []string{"dir 755 0:0 d", "dir 755 0:0 d/s", "file 644 0:0 d/s/x 1", "file 644 0:0 f 1", "link l -> d"}},
		{"a whiteout hides a directory", []entry{{name: ".wh.d"}}, []string{"file 644 0:0 f 1", "link l -> d"}},
		{"a whiteout of nothing is no error", []entry{{name: "no/.wh.thing"}}, lower},
		{"a whiteout does not hide its own layer's file, in either order",
			[]entry{{name: "f", body: "2"}, {name: ".wh.f"}, {name: "d/.wh.a"}, {name: "d/a", body: "2"}},
			[]string{"dir 755 0:0 d", "file 644 0:0 d/a 2", "dir 755 0:0 d/s", "file 644 0:0 d/s/x 1", "file 644 0:0 f 2", "link l -> d"}},
		{"an opaque whiteout hides what is below, and only of lower layers",
			[]entry{{name: "d/", kind: tar.TypeDir, mode: 0o700}, {name: "d/new", body: "2"}, {name: "d/s/y", body: "2"}, {name: "d/.wh..wh..opq"}},
			[]string{"dir 700 0:0 d", "file 644 0:0 d/new 2", "dir 755 0:0 d/s", "file 644 0:0 d/s/y 2", "file 644 0:0 f 1", "link l -> d"}},
		{"an opaque whiteout may come first",
			[]entry{{name: "d/.wh..wh..opq"}, {name: "d/new", body: "2"}},
			[]string{"dir 755 0:0 d", "file 644 0:0 d/new 2", "file 644 0:0 f 1", "link l -> d"}},
		{"a directory replaces a file and a file a directory",
			[]entry{{name: "f", kind: tar.TypeDir, mode: 0o755}, {name: "d", body: "2"}},
			[]string{"file 644 0:0 d 2", "dir 755 0:0 f", "link l -> d"}},
		{"a directory replaces a link", []entry{{name: "l", kind: tar.TypeDir, mode: 0o755}},
			[]string{"dir 755 0:0 d", "file 644 0:0 d/a 1", "dir 755 0:0 d/s", "file 644 0:0 d/s/x 1", "file 644 0:0 f 1", "dir 755 0:0 l"}},
		{"links above an entry are followed inside the root", []entry{{name: "l/b", body: "2"}},
			[]string{"dir 755 0:0 d", "file 644 0:0 d/a 1", "file 644 0:0 d/b 2", "dir 755 0:0 d/s", "file 644 0:0 d/s/x 1", "file 644 0:0 f 1", "link l -> d"}},
		{"missing directories are made", []entry{{name: "./p/q/r", body: "2"}},
			append(slices.Clone(lower), "dir 755 0:0 p", "dir 755 0:0 p/q", "file 644 0:0 p/q/r 2")},
		{"names that lead out stay inside", []entry{{name: "../../up", body: "2"}, {name: "/abs", body: "2"}},
			[]string{"file 644 0:0 abs 2", "dir 755 0:0 d", "file 644 0:0 d/a 1", "dir 755 0:0 d/s", "file 644 0:0 d/s/x 1", "file 644 0:0 f 1", "link l -> d", "file 644 0:0 up 2"}},
		{"a hard link to a lower file", []entry{{name: "h", kind: tar.TypeLink, link: "/f"}},
			[]string{"dir 755 0:0 d", "file 644 0:0 d/a 1", "dir 755 0:0 d/s", "file 644 0:0 d/s/x 1", "file 644 0:0 f 1", "hard h = f", "link l -> d"}},
		{"the later of two entries wins", []entry{{name: "f", body: "2"}, {name: "f", body: "3"}},
			[]string{"dir 755 0:0 d", "file 644 0:0 d/a 1", "dir 755 0:0 d/s", "file 644 0:0 d/s/x 1", "file 644 0:0 f 3", "link l -> d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := tree(t, lower...)
			if err := Apply(t.Context(), m, bytes.NewReader(archive(t, c.entries...)), ApplyOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := describe(t, m); !slices.Equal(got, c.want) {
				t.Errorf("the tree is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"a hard link to nothing", archive(t, entry{name: "h", kind: tar.TypeLink, link: "none"}), "/h"},
		{"an unknown type", archive(t, entry{name: "v", kind: 'V'}), "unknown type"},
		{"what is no archive", []byte(strings.Repeat("x", 2000)), "read layer"},
	} {
		err := Apply(t.Context(), rootfs.NewMem(), bytes.NewReader(c.raw), ApplyOptions{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add(archive(f, entry{name: "a/b", body: "x"}, entry{name: "a/.wh..wh..opq"}, entry{name: "l", kind: tar.TypeSymlink, link: "../.."}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_ = Apply(context.Background(), rootfs.NewMem(), bytes.NewReader(raw), ApplyOptions{})
	})
}

func TestCompressor(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, blockSize - 1, blockSize, blockSize + 1, 9*blockSize + 12345} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(r.IntN(4))
		}
		var one, two bytes.Buffer
		sums := compress(t, &one, data, size)
		if got := compress(t, &two, data, 1000); got != sums || !bytes.Equal(one.Bytes(), two.Bytes()) {
			t.Errorf("%d bytes: the result depends on the size of the writes", size)
		}
		if sums.Digest != sha256.Sum256(one.Bytes()) || sums.DiffID != sha256.Sum256(data) || sums.Size != int64(one.Len()) {
			t.Errorf("%d bytes: wrong sums", size)
		}
		zr, err := gzip.NewReader(&one)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := io.ReadAll(zr); err != nil || !bytes.Equal(back, data) {
			t.Errorf("%d bytes: they do not come back: %v", size, err)
		}
	}
}

func compress(t *testing.T, dst io.Writer, data []byte, step int) Sums {
	t.Helper()
	c, cerr := NewCompressor(dst, Compression{Level: 1})
	if cerr != nil {
		t.Fatal(cerr)
	}
	for len(data) > 0 {
		n := min(step, len(data))
		if _, err := c.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	s, err := c.Close()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestCompressorReportsAFailedWrite(t *testing.T) {
	c, cerr := NewCompressor(&failing{after: 100}, Compression{Level: 1})
	if cerr != nil {
		t.Fatal(cerr)
	}
	data := make([]byte, blockSize)
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		_, err = c.Write(data)
	}
	_, cerr = c.Close()
	if err == nil || cerr == nil || !strings.Contains(cerr.Error(), "disk full") {
		t.Errorf("Write: %v, Close: %v", err, cerr)
	}
}

// An upload reads a layer while it is being written and gets all of it.
func TestBlobIsReadWhileItGrows(t *testing.T) {
	src := rootfs.NewMem()
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(rand.IntN(256))
	}
	if err := src.Put(rootfs.Entry{Name: "big", Mode: 0o644}, bytes.NewReader(big)); err != nil {
		t.Fatal(err)
	}
	b, err := NewBlob(t.TempDir(), Compression{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Digest(); !errors.Is(err, stream.ErrNotComputed) {
		t.Errorf("digest before the content: %v", err)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			rc, err := b.Compressed()
			if err != nil {
				t.Error(err)
				return
			}
			defer rc.Close()
			h := sha256.New()
			if _, err := io.Copy(h, rc); err != nil {
				t.Error(err)
			}
			if d, err := b.Digest(); err != nil || d.Hex != fmt.Sprintf("%x", h.Sum(nil)) {
				t.Errorf("read sha256:%x, digest %v, %v", h.Sum(nil), d, err)
			}
		})
	}
	learned := map[string]snapshot.Print{}
	err = b.Fill(t.Context(), src, all(t, src), WriteOptions{Learn: func(n string, p snapshot.Print, _ map[string]string) { learned[n] = p }})
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if want, _ := snapshot.PrintFile(src, "big"); learned["big"] != want {
		t.Errorf("learned %v, want %v", learned["big"], want)
	}
}

// A layer that cannot be written must not look like one that ended.
func TestBlobPassesOnTheErrorOfItsSource(t *testing.T) {
	b, err := NewBlob(t.TempDir(), Compression{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		rc, err := b.Compressed()
		if err == nil {
			_, err = io.Copy(io.Discard, rc)
		}
		done <- err
	}()
	err = b.Fill(t.Context(), rootfs.NewMem(), []snapshot.Change{{Name: "vanished"}}, WriteOptions{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Fill: %v", err)
	}
	if err := <-done; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the reader got %v", err)
	}
}

// fixed is a layer of given bytes with a diff id of its own choice.
type fixed struct {
	v1.Layer
	diff v1.Hash
}

func (f fixed) DiffID() (v1.Hash, error) { return f.diff, nil }

func TestExtract(t *testing.T) {
	plain := archive(t, entry{name: "a", body: strings.Repeat("x", 1<<20)})
	good := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(plain))}
	var gz, zs bytes.Buffer
	zw := gzip.NewWriter(&gz)
	_, _ = zw.Write(plain)
	_ = zw.Close()
	ze, _ := zstd.NewWriter(&zs)
	_, _ = ze.Write(plain)
	_ = ze.Close()
	for _, c := range []struct {
		name string
		raw  []byte
		diff v1.Hash
		want string
	}{
		{"plain", plain, good, ""},
		{"gzip", gz.Bytes(), good, ""},
		{"zstd", zs.Bytes(), good, ""},
		{"another diff id", gz.Bytes(), v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}, "diff id"},
		{"cut off", gz.Bytes()[:gz.Len()-100], good, "unexpected EOF"},
		{"no archive", []byte("<html>"), good, "read layer"},
	} {
		m := rootfs.NewMem()
		err := Extract(t.Context(), m, fixed{static.NewLayer(c.raw, types.OCILayer), c.diff}, ApplyOptions{First: true}, nil)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want == "":
			if e, err := m.Lstat("a"); err != nil || e.Size != 1<<20 {
				t.Errorf("%s: a is %+v, %v", c.name, e, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func BenchmarkOnePass(b *testing.B) {
	src := rootfs.NewMem()
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = byte(rand.IntN(16))
	}
	if err := src.Put(rootfs.Entry{Name: "big", Mode: 0o644}, bytes.NewReader(data)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		blob, err := NewBlob(b.TempDir(), Compression{})
		if err != nil {
			b.Fatal(err)
		}
		if err := blob.Fill(b.Context(), src, []snapshot.Change{{Name: "big"}}, WriteOptions{}); err != nil {
			b.Fatal(err)
		}
		_ = blob.Remove()
	}
}

// Layers compressed with zstd are of that media type, come back as they were,
// an empty one too, and are the same every time.
func TestZstdBlob(t *testing.T) {
	for name, files := range map[string]map[string]string{"empty": {}, "large": {"a": strings.Repeat("0123456789", 300_000), "b": "x"}} {
		var digests []v1.Hash
		for range 2 {
			root := rootfs.NewMem()
			var changes []snapshot.Change
			for _, n := range slices.Sorted(maps.Keys(files)) {
				if err := root.Put(rootfs.Entry{Name: n, Mode: 0o644, ModTime: time.Unix(1, 0), Size: int64(len(files[n]))}, strings.NewReader(files[n])); err != nil {
					t.Fatal(err)
				}
				changes = append(changes, snapshot.Change{Name: n})
			}
			b, err := NewBlob(t.TempDir(), Compression{Zstd: true, Level: 3})
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Fill(t.Context(), root, changes, WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			if mt, _ := b.MediaType(); mt != types.OCILayerZStd {
				t.Errorf("%s: media type %s", name, mt)
			}
			rc, err := b.Uncompressed()
			if err != nil {
				t.Fatal(err)
			}
			h, _, err := v1.SHA256(rc)
			if diffID, _ := b.DiffID(); err != nil || h != diffID {
				t.Errorf("%s: read %s, %v, want %s", name, h, err, diffID)
			}
			_ = rc.Close()
			digest, err := b.Digest()
			if err != nil {
				t.Fatal(err)
			}
			digests = append(digests, digest)
		}
		if digests[0] != digests[1] {
			t.Errorf("%s: %v", name, digests)
		}
	}
}
