package inflate

import (
	"bytes"
	stdlib "compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
)

func squeeze(t testing.TB, b []byte, level int) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw, err := stdlib.NewWriterLevel(&buf, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := zw.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func expand(r io.Reader) ([]byte, error) {
	zr, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(zr)
}

// samples are contents of many kinds.
func samples() map[string][]byte {
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // to be repeated
	noise := make([]byte, 300<<10)
	skewed := make([]byte, 500<<10)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	for i := range skewed {
		// Few values often and many rarely: long codes.
		skewed[i] = byte(rnd.ExpFloat64() * 12)
	}
	text := []byte(strings.Repeat("the quick brown fox jumps over the lazy dog. ", 20000))
	mixed := append(append(bytes.Clone(noise[:70<<10]), text[:200<<10]...), noise[:40<<10]...)
	return map[string][]byte{
		"empty": nil, "one": {7}, "short": []byte("abc"), "zeros": make([]byte, 1<<20), "noise": noise, "text": text,
		"skewed": skewed, "mixed": mixed, "pairs": bytes.Repeat([]byte{1, 2}, 100000), "far": append(bytes.Clone(noise[:window]), noise[:window]...),
	}
}

func TestReader(t *testing.T) {
	for name, want := range samples() {
		for _, level := range []int{stdlib.NoCompression, stdlib.BestSpeed, stdlib.DefaultCompression, stdlib.BestCompression, stdlib.HuffmanOnly} {
			packed := squeeze(t, want, level)
			for how, r := range map[string]io.Reader{
				"whole": bytes.NewReader(packed), "by the byte": iotest.OneByteReader(bytes.NewReader(packed)),
				"with the end": iotest.DataErrReader(bytes.NewReader(packed)), "in halves": iotest.HalfReader(bytes.NewReader(packed)),
			} {
				got, err := expand(r)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, level %d, %s: %d bytes, %v; want %d", name, level, how, len(got), err, len(want))
				}
			}
		}
	}
}

func TestMembersAndHeaders(t *testing.T) {
	var buf bytes.Buffer
	zw := stdlib.NewWriter(&buf)
	zw.Name, zw.Comment, zw.Extra = "name", "comment", []byte("extra")
	_, _ = zw.Write([]byte("one "))
	_ = zw.Close()
	buf.Write(squeeze(t, nil, 6))
	buf.Write(squeeze(t, []byte("two"), 1))
	got, err := expand(&buf)
	if err != nil || string(got) != "one two" {
		t.Errorf("%q %v", got, err)
	}
}

// Wherever a stream is cut off and whatever bit of it is wrong, that is noticed.
func TestBrokenStreams(t *testing.T) {
	whole := squeeze(t, samples()["mixed"][60<<10:80<<10], 6)
	for n := range whole {
		if _, err := expand(bytes.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	for i := 10; i < len(whole); i += 37 {
		broken := bytes.Clone(whole)
		broken[i] ^= 1 << (i % 8)
		if _, err := expand(bytes.NewReader(broken)); err == nil {
			t.Errorf("byte %d is wrong and nobody noticed", i)
		}
	}
	fails := errors.New("connection lost")
	if _, err := expand(io.MultiReader(bytes.NewReader(whole[:100]), iotest.ErrReader(fails))); !errors.Is(err, fails) {
		t.Errorf("error %v", err)
	}
}

// It takes what compress/gzip takes, gives the same, and refuses the rest.
func FuzzReader(f *testing.F) {
	for _, s := range samples() {
		f.Add(squeeze(f, s[:min(len(s), 2000)], 6))
		f.Add(squeeze(f, s[:min(len(s), 300)], stdlib.HuffmanOnly))
	}
	f.Add([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var want []byte
		zr, werr := stdlib.NewReader(bytes.NewReader(b))
		if werr == nil {
			want, werr = io.ReadAll(io.LimitReader(zr, 8<<20))
		}
		got, err := []byte(nil), error(nil)
		fast, err := NewReader(bytes.NewReader(b))
		if err == nil {
			got, err = io.ReadAll(io.LimitReader(fast, 8<<20))
		}
		if (err == nil) != (werr == nil) {
			t.Fatalf("error %v, compress/gzip %v", err, werr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, compress/gzip has %d, or others", len(got), len(want))
		}
	})
}

// Body is a real stream: that in $KILN_BENCH_GZIP, or one of the Go sources here.
func body(b *testing.B) []byte {
	b.Helper()
	if name := os.Getenv("KILN_BENCH_GZIP"); name != "" {
		raw, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return raw
	}
	var all []byte
	for _, name := range []string{"inflate.go", "tables.go", "symbols.go", "inflate_test.go"} {
		raw, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, raw...)
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	return squeeze(b, append(bytes.Repeat(all, 20), exe...), 6)
}

func BenchmarkInflate(b *testing.B) {
	raw := body(b)
	for name, open := range map[string]func(io.Reader) (io.Reader, error){
		"kiln":      func(r io.Reader) (io.Reader, error) { return NewReader(r) },
		"klauspost": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		"stdlib":    func(r io.Reader) (io.Reader, error) { return stdlib.NewReader(r) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 256<<10)
			for b.Loop() {
				zr, err := open(bytes.NewReader(raw))
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{zr}, buf)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n)
			}
		})
	}
}
