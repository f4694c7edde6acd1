package toc

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// memory is a blob.
type memory []byte

func (m memory) Range(_ context.Context, from, to int64) (io.ReadCloser, error) {
	if from < 0 || from > to || to > int64(len(m)) {
		return nil, fmt.Errorf("there are no bytes %d to %d of %d", from, to, len(m))
	}
	return io.NopCloser(bytes.NewReader(m[from:to])), nil
}

func hash(fill string) string { return "sha256:" + strings.Repeat(fill, 64) }

// What a manifest says of a table is taken if it is whole.
func TestFind(t *testing.T) {
	position := func(at, sum string) map[string]string {
		return map[string]string{annotationPosition: at, annotationChecksum: sum}
	}
	for what, c := range map[string]struct {
		annotations map[string]string
		ok          bool
	}{
		"nothing":              {nil, false},
		"eStargz":              {map[string]string{annotationStargz: hash("a")}, true},
		"eStargz, no digest":   {map[string]string{annotationStargz: "a"}, false},
		"eStargz, sha512":      {map[string]string{annotationStargz: "sha512:" + strings.Repeat("a", 128)}, false},
		"zstd":                 {position("100:50:80:1", hash("b")), true},
		"zstd of stargz":       {map[string]string{annotationPosition2: "100:50:80:1", annotationChecksum2: hash("b")}, true},
		"zstd of another type": {position("100:50:80:2", hash("b")), false},
		"zstd, no checksum":    {position("100:50:80:1", ""), false},
		"zstd, three numbers":  {position("100:50:80", hash("b")), false},
		"zstd, below 0":        {position("100:-50:80:1", hash("b")), false},
		"zstd, no number":      {position("100:x:80:1", hash("b")), false},
		"zstd, too far":        {position("951:50:80:1", hash("b")), false},
		"zstd, far too long":   {position("9223372036854775807:9223372036854775807:80:1", hash("b")), false},
	} {
		if _, ok := Find(v1.Descriptor{Size: 1000, Annotations: c.annotations}); ok != c.ok {
			t.Errorf("%s: %t", what, ok)
		}
	}
}

// listing shows what a table lists.
func listing(raw string) (string, error) {
	var out strings.Builder
	err := parse(iotest.OneByteReader(strings.NewReader(raw)), func(name string) bool { return name == "w" }, func(e *entry) error {
		h := e.h
		fmt.Fprintf(&out, "%q %q %d %o %d:%d %d,%d %s %v %t %v %s\n", h.Typeflag, h.Name, h.Size, h.Mode, h.Uid, h.Gid, h.Devmajor, h.Devminor,
			h.ModTime.UTC().Format("2006-01-02T15:04:05.999Z"), h.PAXRecords, e.chunk, e.span, e.sum+h.Linkname)
		return nil
	})
	return out.String(), err
}

// A table is read in whatever way its JSON is written, and one that is not understood
// is an error.
func TestParse(t *testing.T) {
	wrap := func(entries string) string { return `{"version":1,"entries":[` + entries + `]}` }
	for raw, want := range map[string]string{
		wrap(""):                       "",
		`{"version":1,"entries":null}`: "",
		" {\n\"entries\" : [ ] ,\t\"more\":{\"a\":[1.5e-3,true,null,{}],\"b\":\"\"},\"version\" : 1 } ":                                                                                        "",
		wrap(`{"name":"a\u00e9\/\ud83d\ude00\n","type":"reg","size":5,"mode":493,"uid":1,"gid":2,"offset":9,"innerOffset":8,"chunkSize":7,"digest":"x"}`):                                      "'0' \"aé/😀\\n\" 5 755 1:2 0,0 1970-01-01T00:00:00Z map[] false {9 8 0 7} \n",
		wrap(`{"name":"w","type":"reg","digest":"x","modtime":"2020-01-02T03:04:05.5+01:00"}`):                                                                                                 "'0' \"w\" 0 0 0:0 0,0 2020-01-02T02:04:05.5Z map[] false {0 0 0 0} x\n",
		wrap(`{"name":"d","type":"char","devMajor":1,"devMinor":3,"size":9},{"type":"symlink","linkName":"t","name":"l","NumLink":0,"userName":"u","xattrs":{"user.a":"/w==","user.b":null}}`): "'3' \"d\" 0 0 0:0 1,3 1970-01-01T00:00:00Z map[] false {0 0 0 0} \n'2' \"l\" 0 0 0:0 0,0 1970-01-01T00:00:00Z map[SCHILY.xattr.user.a:\xff SCHILY.xattr.user.b:] false {0 0 0 0} t\n",
		wrap(`{"name":"a","type":"chunk","chunkOffset":4,"offset":3,"xattrs":null}`):                                                                                                           "'\\x00' \"a\" 0 0 0:0 0,0 1970-01-01T00:00:00Z map[] true {3 0 4 0} \n",
	} {
		if got, err := listing(raw); err != nil || got != want {
			t.Errorf("%s\ngot  %q\nwant %q, %v", raw, got, want, err)
		}
	}
	for what, raw := range map[string]string{
		"nothing": "", "no object": "[]", "cut off": `{"version":1,"entries":[`, "another version": `{"version":2,"entries":[]}`, "no version": `{"entries":[]}`,
		"two lists": `{"version":1,"entries":[],"entries":[]}`, "no list": `{"version":1}`, "more behind": wrap("") + "x", "entries that are none": wrap(`1`),
		"a type": wrap(`{"name":"a","type":"door"}`), "no type": wrap(`{"name":"a"}`), "no name": wrap(`{"type":"reg"}`),
		"a fraction": wrap(`{"name":"a","type":"reg","size":1.5}`), "an exponent": wrap(`{"name":"a","type":"reg","size":1e3}`),
		"a leading zero": wrap(`{"name":"a","type":"reg","size":01}`), "a long number": wrap(`{"name":"a","type":"reg","size":1234567890123456789}`),
		"a negative size": wrap(`{"name":"a","type":"reg","size":-1}`), "a negative offset": wrap(`{"name":"a","type":"reg","offset":-1}`),
		"a text for a number": wrap(`{"name":"a","type":"reg","size":"1"}`), "a number for a text": wrap(`{"name":1,"type":"reg"}`),
		"lost bytes": wrap(`{"name":"\ufffd","type":"reg"}`), "lost bytes in a link": wrap("{\"name\":\"a\",\"type\":\"symlink\",\"linkName\":\"\xef\xbf\xbd\"}"),
		"lost bytes in an attribute": wrap(`{"name":"a","type":"reg","xattrs":{"\ufffd":"YQ=="}}`),
		"bytes that are not UTF-8":   wrap("{\"name\":\"\xff\",\"type\":\"reg\"}"), "half a pair": wrap(`{"name":"\ud800x","type":"reg"}`), "the other half": wrap(`{"name":"\udc00","type":"reg"}`),
		"an escape": wrap(`{"name":"\x","type":"reg"}`), "a control character": wrap("{\"name\":\"\n\",\"type\":\"reg\"}"), "bad digits": wrap(`{"name":"\u00g0","type":"reg"}`),
		"no base64": wrap(`{"name":"a","type":"reg","xattrs":{"a":"?"}}`), "no time": wrap(`{"name":"a","type":"reg","modtime":"yesterday"}`),
		"deep": `{"x":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `,"version":1,"entries":[]}`, "a word": `{"x":nil,"version":1,"entries":[]}`, "a space in a number": wrap(`{"name":"a","type":"reg","size":- 1}`), "no digits": `{"x":1.,"version":1,"entries":[]}`, "no exponent": `{"x":1e+,"version":1,"entries":[]}`, "a comma": `{"version":1,,"entries":[]}`,
		"a long name": wrap(`{"name":"` + strings.Repeat("n", maxText+70_000) + `","type":"reg"}`),
	} {
		if got, err := listing(raw); err == nil {
			t.Errorf("%s: no error; %q", what, got)
		}
	}
}

// blobs are small layers of both forms.
func blobs(t testing.TB) (stargz, chunked memory, refs [2]Ref) {
	t.Helper()
	var raw, a, b bytes.Buffer
	tw := tar.NewWriter(&raw)
	for _, h := range []tar.Header{{Name: "d/", Typeflag: tar.TypeDir}, {Name: "d/w", Typeflag: tar.TypeReg, Size: 3}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d"}} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, "abc"[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	w := estargz.NewWriter(&a)
	err := w.AppendTar(bytes.NewReader(raw.Bytes()))
	sum, cerr := w.Close()
	annotations := map[string]string{}
	z := estargz.NewWriterWithCompressor(&b, &zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest, Metadata: annotations})
	zerr := z.AppendTar(bytes.NewReader(raw.Bytes()))
	if _, werr := z.Close(); errors.Join(err, cerr, zerr, werr) != nil {
		t.Fatal(err, cerr, zerr, werr)
	}
	for i, d := range []v1.Descriptor{{Size: int64(a.Len()), Annotations: map[string]string{annotationStargz: sum.String()}}, {Size: int64(b.Len()), Annotations: annotations}} {
		var ok bool
		if refs[i], ok = Find(d); !ok {
			t.Fatalf("no table in %v", d)
		}
	}
	return a.Bytes(), b.Bytes(), refs
}

// names are those that a table lists, with what wanted files hold.
func names(b memory, ref Ref) (string, error) {
	var out []string
	err := Read(context.Background(), b, ref, func(name string) bool { return name == "d/w" }, func(h *tar.Header, content Content) error {
		out = append(out, h.Name)
		if content == nil {
			return nil
		}
		body, err := content()
		out = append(out, string(body))
		return err
	})
	return strings.Join(out, " "), err
}

// A blob of which any byte is another one yields the same or an error.
func TestReadBrokenBlobs(t *testing.T) {
	stargz, chunked, refs := blobs(t)
	for i, b := range []memory{stargz, chunked} {
		want, err := names(b, refs[i])
		if err != nil || !strings.HasPrefix(want, "d/ d/w abc l") {
			t.Fatalf("%q, %v", want, err)
		}
		wrong, refused := 0, 0
		for at := range b {
			broken := bytes.Clone(b)
			broken[at] ^= 0x55
			got, err := names(broken, refs[i])
			if err == nil && got != want {
				t.Errorf("with byte %d of %d changed: %q", at, len(b), got)
			}
			if err != nil {
				refused++
			}
			if errors.Is(err, ErrDigest) {
				wrong++
			}
		}
		if wrong == 0 || refused < len(b)/2 {
			t.Errorf("of %d changes %d are refused, %d of them by the digest", len(b), refused, wrong)
		}
		for n := range len(b) {
			ref := refs[i]
			ref.size = int64(n)
			if got, err := names(b[:n], ref); err == nil && got != want {
				t.Errorf("%d of %d bytes: %q", n, len(b), got)
			}
		}
	}
}

// FuzzParse holds the scanner to what encoding/json reads: what it takes is what that
// takes, with the same names and sizes.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"entries":[{"name":"a\u00e9","type":"reg","size":5,"modtime":"2020-01-02T03:04:05Z","xattrs":{"user.a":"YQ=="}},{"name":"l","type":"symlink","linkName":"\\x"}]}`))
	f.Add([]byte(` {"x":[1.5e3,-0,true,false,null,{"y":""}],"entries":[{"type":"dir","name":"d"}],"version":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got []string
		err := parse(bytes.NewReader(raw), func(string) bool { return false }, func(e *entry) error {
			got = append(got, fmt.Sprintf("%q %q", e.h.Name, e.h.Linkname))
			return nil
		})
		if err != nil {
			return
		}
		var table struct{ Entries []map[string]json.RawMessage }
		var top map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(raw, &top), json.Unmarshal(top["entries"], &table.Entries)); err != nil {
			t.Fatalf("taken, but %v: %q", err, raw)
		}
		var want []string
		for _, e := range table.Entries {
			var name, link string
			for field, s := range map[string]*string{"name": &name, "linkName": &link} {
				if e[field] == nil {
					continue
				}
				if err := json.Unmarshal(e[field], s); err != nil {
					t.Fatalf("taken, but %v: %q", err, raw)
				}
			}
			want = append(want, fmt.Sprintf("%q %q", name, link))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: read %q, encoding/json reads %q", raw, got, want)
		}
	})
}

// FuzzRead reads foreign blobs.
func FuzzRead(f *testing.F) {
	stargz, chunked, refs := blobs(f)
	f.Add([]byte(stargz), false)
	f.Add([]byte(chunked), true)
	f.Fuzz(func(_ *testing.T, b []byte, chunked bool) {
		ref := refs[0]
		if chunked {
			ref = refs[1]
		}
		ref.size = int64(len(b))
		_, _ = names(b, ref)
	})
}

func BenchmarkParse(b *testing.B) {
	var raw strings.Builder
	raw.WriteString(`{"version":1,"entries":[`)
	for i := range 10_000 {
		fmt.Fprintf(&raw, "{\n\t\t\"name\": \"usr/lib/part%d/module_%d.js\",\n\t\t\"type\": \"reg\",\n\t\t\"size\": %d,\n\t\t\"modtime\": \"2026-01-01T00:00:00Z\",\n\t\t\"mode\": 420,\n\t\t\"offset\": %d,\n\t\t\"digest\": %q,\n\t\t\"chunkDigest\": %q\n\t},", i/50, i, i, i*1000+1, hash("a"), hash("a"))
	}
	text := strings.TrimSuffix(raw.String(), ",") + "]}"
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := parse(strings.NewReader(text), func(string) bool { return false }, func(*entry) error { n++; return nil }); err != nil || n != 10_000 {
			b.Fatal(n, err)
		}
	}
}
