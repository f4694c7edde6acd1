package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/kilnhook/kiln/executor/internal/decompress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// listed is a layer with a table of contents, in memory.
type listed struct {
	v1.Layer
	blob        []byte
	annotations map[string]string
	diffID      v1.Hash
	read        int64 // bytes of parts
}

func (l *listed) Descriptor() (*v1.Descriptor, error) {
	h, _, err := v1.SHA256(bytes.NewReader(l.blob))
	return &v1.Descriptor{Size: int64(len(l.blob)), Digest: h, Annotations: l.annotations}, err
}

func (l *listed) DiffID() (v1.Hash, error) { return l.diffID, nil }

func (l *listed) Range(_ context.Context, from, to int64) (io.ReadCloser, error) {
	if from < 0 || from > to || to > int64(len(l.blob)) {
		return nil, fmt.Errorf("range %d to %d of %d", from, to, len(l.blob))
	}
	l.read += to - from
	return io.NopCloser(bytes.NewReader(l.blob[from:to])), nil
}

// maker makes a layer with a table of a tar.
type maker struct {
	name string
	make func(raw []byte) (blob []byte, annotations map[string]string, err error)
}

func stargzWriter(set func(*estargz.Writer, []byte) error) func([]byte) ([]byte, map[string]string, error) {
	return func(raw []byte) ([]byte, map[string]string, error) {
		var buf bytes.Buffer
		w := estargz.NewWriterLevel(&buf, gzip.BestSpeed)
		if err := set(w, raw); err != nil {
			return nil, nil, err
		}
		sum, err := w.Close()
		return buf.Bytes(), map[string]string{estargz.TOCJSONDigestAnnotation: sum.String()}, err
	}
}

func makers() []maker {
	return []maker{
		{"appended", stargzWriter(func(w *estargz.Writer, raw []byte) error { return w.AppendTar(bytes.NewReader(raw)) })},
		{"lossless", stargzWriter(func(w *estargz.Writer, raw []byte) error { return w.AppendTarLossLess(bytes.NewReader(raw)) })},
		{"chunks", stargzWriter(func(w *estargz.Writer, raw []byte) error {
			w.ChunkSize = 1000
			return w.AppendTar(bytes.NewReader(raw))
		})},
		{"bundles", stargzWriter(func(w *estargz.Writer, raw []byte) error {
			w.ChunkSize, w.MinChunkSize = 3000, 5000
			return w.AppendTarLossLess(bytes.NewReader(raw))
		})},
		{"built", func(raw []byte) ([]byte, map[string]string, error) {
			b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(raw), 0, int64(len(raw))), estargz.WithCompressionLevel(gzip.BestSpeed))
			if err != nil {
				return nil, nil, err
			}
			defer b.Close()
			blob, err := io.ReadAll(b)
			return blob, map[string]string{estargz.TOCJSONDigestAnnotation: b.TOCDigest().String()}, err
		}},
		{"zstd", func(raw []byte) ([]byte, map[string]string, error) {
			var buf bytes.Buffer
			annotations := map[string]string{}
			w := estargz.NewWriterWithCompressor(&buf, &zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest, Metadata: annotations})
			w.ChunkSize = 4000
			if err := w.AppendTarLossLess(bytes.NewReader(raw)); err != nil {
				return nil, nil, err
			}
			_, err := w.Close()
			return buf.Bytes(), annotations, err
		}},
	}
}

func (m maker) layer(t testing.TB, raw []byte) *listed {
	t.Helper()
	blob, annotations, err := m.make(raw)
	if err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	return listedLayer(t, blob, annotations)
}

func listedLayer(t testing.TB, blob []byte, annotations map[string]string) *listed {
	t.Helper()
	l := &listed{Layer: static.NewLayer(blob, types.OCILayer), blob: blob, annotations: annotations}
	plain, _, err := decompress.New(bytes.NewReader(blob))
	if err == nil {
		l.diffID, _, err = v1.SHA256(plain)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// table is the layer's table, however small the layer.
func (l *listed) table(t testing.TB) *Table {
	t.Helper()
	table := tableOf(l, l, 0)
	if table == nil {
		t.Fatalf("the layer has no table: %v", l.annotations)
	}
	return table
}

func entries(t testing.TB, index []byte) []indexEntry {
	t.Helper()
	zr, err := zstd.NewReader(bytes.NewReader(index))
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	plain, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	r := &indexReader{r: bufio.NewReader(bytes.NewReader(plain))}
	if err := r.magic(); err != nil {
		t.Fatal(err)
	}
	var out []indexEntry
	for {
		e, ok, err := r.entry()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		out = append(out, e)
	}
}

// sameIndexes compares the index of a layer's table with that of its content. It is
// different in what is not in the table only: prints.
func sameIndexes(t *testing.T, what string, l *listed) {
	t.Helper()
	var buf bytes.Buffer
	if err := l.table(t).WriteIndex(t.Context(), &buf); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	got, want := entries(t, buf.Bytes()), entries(t, indexed(t, l))
	if len(got) != len(want) {
		t.Errorf("%s: %d entries, the layer has %d", what, len(got), len(want))
		return
	}
	for i := range want {
		if got[i].print == (snapshot.Print{}) && want[i].Size > 0 && !inlined(want[i].Name) {
			want[i].print = snapshot.Print{}
		}
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("%s: entry %d is\n%+v\nthe layer has\n%+v", what, i, got[i], want[i])
		}
	}
}

// odd is a layer with what layers seldom have.
func odd(t testing.TB) []byte { return oddFiles(t, func(*tar.Header) {}) }

func oddFiles(t testing.TB, change func(*tar.Header)) []byte {
	t.Helper()
	at := time.Unix(1_700_000_000, 0)
	long := strings.Repeat("long/", 60) + "name"
	files := []tarFile{
		{tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at}, ""},
		{tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 3, Gid: 4, Uname: "ann", Gname: "staff"}, ""},
		{tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:0::/:\n" + strings.Repeat("ann:x:1:1::/:\n", 300)},
		{tar.Header{Name: "./etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, "staff:x:50:ann\n"},
		{tar.Header{Name: "sub/etc/passwd", Typeflag: tar.TypeReg}, "not this one"},
		{tar.Header{Name: "/abs/../file", Typeflag: tar.TypeReg, Mode: 0o4755}, "one"},
		{tar.Header{Name: "empty", Typeflag: tar.TypeReg, Mode: 0o600, ModTime: time.Unix(0, 0)}, ""},
		{tar.Header{Name: "before", Typeflag: tar.TypeReg, ModTime: time.Unix(-5, 0)}, "x"},
		{tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "./etc/../before", Mode: 0o644}, ""},
		{tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "../<&>/\"quoted\\\"\n", Mode: 0o777}, ""},
		{tar.Header{Name: "ünï/\t\x01\u2028<name>\\", Typeflag: tar.TypeReg}, "two"},
		{tar.Header{Name: long, Typeflag: tar.TypeReg, Uid: 1 << 30, Gid: 1<<31 + 5, Uname: strings.Repeat("u", 40)}, strings.Repeat("three", 3000)},
		{tar.Header{Name: "c", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""},
		{tar.Header{Name: "b", Typeflag: tar.TypeBlock, Devmajor: 8, Devminor: 300}, ""},
		{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o2600}, ""},
		{tar.Header{Name: "caps", Typeflag: tar.TypeReg, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff\xfe", "SCHILY.xattr.user.empty": " ", "SCHILY.xattr.user.k": "v", "comment": "none",
		}}, "four"},
		{tar.Header{Name: "etc/.wh.old", Typeflag: tar.TypeReg}, ""},
		{tar.Header{Name: "opaque/.wh..wh..opq", Typeflag: tar.TypeReg}, ""},
		{tar.Header{Name: "big", Typeflag: tar.TypeReg}, strings.Repeat("0123456789abcdef", 2000)},
		{tar.Header{Name: "last/", Typeflag: tar.TypeDir, Mode: 0o700}, ""},
		{tar.Header{Name: "last/" + long, Typeflag: tar.TypeSymlink, Linkname: long}, ""},
	}
	for i := range files {
		change(&files[i].h)
	}
	return tarOf(t, files)
}

type tarFile struct {
	h    tar.Header
	body string
}

func tarOf(t testing.TB, files []tarFile) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		f.h.Size = int64(len(f.body))
		if f.h.ModTime.IsZero() {
			f.h.ModTime = time.Unix(1_600_000_000, 0)
		}
		if err := tw.WriteHeader(&f.h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// A table of contents gives the index that the layer itself gives.
func TestTableIsTheLayersIndex(t *testing.T) {
	one := tarFile{tar.Header{Name: "f", Typeflag: tar.TypeReg}, strings.Repeat("\x00", 2048)}
	dir := tarFile{tar.Header{Name: "d/", Typeflag: tar.TypeDir}, ""}
	for what, raw := range map[string][]byte{
		"odd": odd(t), "nothing": tarOf(t, nil), "no files": tarOf(t, []tarFile{dir}),
		"zeros":          tarOf(t, []tarFile{one}),
		"zeros, one dir": tarOf(t, []tarFile{one, dir}),
		"twice":          tarOf(t, []tarFile{one, dir, one}),
	} {
		for _, m := range makers() {
			sameIndexes(t, what+", "+m.name, m.layer(t, raw))
		}
	}
}

// The same for layers of random files, of which names meet.
func TestTablesOfRandomLayers(t *testing.T) {
	for seed := range uint64(16) {
		r := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // to be repeated
		pick := func(of ...string) string { return of[r.IntN(len(of))] }
		name := func() string {
			return pick("", "./", "/") + pick("a", "b", "etc", "é", "a b") + pick("", "/c", "/passwd", "/group", "/.wh.x", "/.wh..wh..opq", "/"+strings.Repeat("n", 200))
		}
		var files []tarFile
		for range r.IntN(30) {
			f := tarFile{h: tar.Header{Name: name(), Mode: int64(r.IntN(0o10000)), Uid: r.IntN(1 << 25), Gid: r.IntN(1 << 25), ModTime: time.Unix(int64(r.IntN(2e9)), 0)}}
			switch r.IntN(8) {
			case 0:
				f.h.Typeflag = tar.TypeDir
			case 1:
				f.h.Typeflag, f.h.Linkname = tar.TypeSymlink, name()
			case 2:
				f.h.Typeflag, f.h.Linkname = tar.TypeLink, name()
			case 3:
				f.h.Typeflag, f.h.Devmajor, f.h.Devminor = tar.TypeChar, int64(r.IntN(300)), int64(r.IntN(300))
			case 4:
				f.h.PAXRecords = map[string]string{xattrPrefix + "user.a": pick("1", "\xff\x00")}
				fallthrough
			default:
				f.h.Typeflag, f.body = tar.TypeReg, strings.Repeat(pick("x", "\x00", "yz"), r.IntN(4000))
			}
			files = append(files, f)
		}
		raw := tarOf(t, files)
		for _, m := range makers() {
			if m.name == "built" {
				continue // it refuses links to what is not there
			}
			sameIndexes(t, fmt.Sprintf("seed %d, %s", seed, m.name), m.layer(t, raw))
		}
	}
}

// Of a large layer little is read.
func TestTableReadsLittle(t *testing.T) {
	var files []tarFile
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // to be repeated
	for i := range 80 {
		body := make([]byte, 40_000)
		for j := range body {
			body[j] = byte(r.Uint32())
		}
		files = append(files, tarFile{tar.Header{Name: fmt.Sprintf("f%d", i), Typeflag: tar.TypeReg}, string(body)})
	}
	files = append(files[:40:40], append([]tarFile{{tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg}, "root:x:0:0::/:\n"}}, files[40:]...)...)
	for _, m := range makers() {
		if m.name == "chunks" || m.name == "bundles" {
			continue // of a hundred thousand parts
		}
		l := m.layer(t, tarOf(t, files))
		sameIndexes(t, m.name, l)
		if l.read > int64(len(l.blob))/20 {
			t.Errorf("%s: %d of %d bytes were read", m.name, l.read, len(l.blob))
		}
	}
}

// Where a table cannot say what the layer says it is an error.
func TestTablesThatDoNotDo(t *testing.T) {
	m := makers()[0]
	utf8 := m.layer(t, tarOf(t, []tarFile{{tar.Header{Name: "\xff", Typeflag: tar.TypeReg}, "x"}}))
	year := m.layer(t, tarOf(t, []tarFile{{tar.Header{Name: "a", Typeflag: tar.TypeReg, ModTime: time.Date(12_000, 1, 1, 0, 0, 0, 0, time.UTC)}, "x"}}))
	other := m.layer(t, odd(t))
	other.annotations = map[string]string{estargz.TOCJSONDigestAnnotation: "sha256:" + strings.Repeat("0", 64)}
	plain := listedLayer(t, gzipped(t, tarOf(t, nil)), utf8.annotations)
	zip := makers()[5].layer(t, odd(t))
	zip.annotations[zstdchunked.ManifestChecksumAnnotation] = "sha256:" + strings.Repeat("0", 64)
	for what, c := range map[string]struct {
		l     *listed
		wrong bool
	}{
		"a name that is not UTF-8": {utf8, false}, "a time that JSON cannot say": {year, false}, "another table": {other, true},
		"no footer": {plain, false}, "another table of zstd": {zip, true},
	} {
		err := c.l.table(t).WriteIndex(t.Context(), io.Discard)
		if err == nil || TableIsWrong(err) != c.wrong {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, err := z.Write(b)
	if err = errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// A layer that is not what its table says is found out when it is read, and prints are
// known of all of its files once one was.
func TestListedFilesAreReadFromTheLayer(t *testing.T) {
	for _, m := range makers() {
		l := m.layer(t, odd(t))
		var index bytes.Buffer
		if err := l.table(t).WriteIndex(t.Context(), &index); err != nil {
			t.Fatal(err)
		}
		source := &counting{Layer: l}
		tree, spool := newTree(t)
		if err := ApplyIndex(t.Context(), tree, bytes.NewReader(index.Bytes()), source, spool, ApplyOptions{First: true}); err != nil {
			t.Fatal(err)
		}
		if got := contentOfFile(t, tree, "etc/group"); got != "staff:x:50:ann\n" || source.reads != 0 {
			t.Errorf("%s: %q, read %d times", m.name, got, source.reads)
		}
		if _, known := tree.Print("file"); known {
			t.Errorf("%s: the print of a file that nobody read", m.name)
		}
		if got := contentOfFile(t, tree, "caps"); got != "four" || source.reads != 1 {
			t.Errorf("%s: %q, read %d times", m.name, got, source.reads)
		}
		if p, known := tree.Print("file"); !known || snapshot.Print(p) != snapshot.PrintString("one") || source.reads != 1 {
			t.Errorf("%s: print %v of a file that was read by", m.name, p)
		}
		liar := m.layer(t, oddFiles(t, func(h *tar.Header) { h.Name = strings.ReplaceAll(h.Name, "caps", "hats") }))
		tree, spool = newTree(t)
		if err := ApplyIndex(t.Context(), tree, bytes.NewReader(index.Bytes()), liar, spool, ApplyOptions{First: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Open("caps"); err == nil || !strings.Contains(err.Error(), "it is not what its table of contents says") {
			t.Errorf("%s: another layer than the table's: %v", m.name, err)
		}
	}
}

func contentOfFile(t testing.TB, tree *rootfs.Tree, name string) string {
	t.Helper()
	rc, err := tree.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
