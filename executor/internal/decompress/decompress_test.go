package decompress

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const text = "what a stream holds\n"

func compressed(t testing.TB, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// streams are all formats; that of bzip2, which Go cannot write, is bzip2's.
func streams(t testing.TB) map[Format][]byte {
	t.Helper()
	bz, err := hex.DecodeString(bzipped)
	if err != nil {
		t.Fatal(err)
	}
	return map[Format][]byte{
		None:  []byte(text),
		Gzip:  compressed(t, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		Zstd:  compressed(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		XZ:    compressed(t, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		Bzip2: bz,
	}
}

// Every format is known by its first bytes and taken off, however the bytes come;
// one that is not asked for is left as it is.
func TestNew(t *testing.T) {
	for want, stream := range streams(t) {
		r, got, err := New(iotest.OneByteReader(bytes.NewReader(stream)))
		if err != nil || got != want {
			t.Errorf("%q: format %q, %v", want, got, err)
			continue
		}
		out, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || string(out) != text {
			t.Errorf("%q: %q, %v", want, out, err)
		}
		r, got, err = New(bytes.NewReader(stream), Gzip, Zstd)
		if err != nil {
			t.Errorf("%q: %v", want, err)
			continue
		}
		out, err = io.ReadAll(r)
		taken := want == Gzip || want == Zstd
		if err != nil || (got != None) != taken || taken != (string(out) == text) && want != None || !taken && !bytes.Equal(out, stream) {
			t.Errorf("%q, of gzip and zstd: format %q, %q, %v", want, got, out, err)
		}
	}
}

// What only looks like a format is none, and what is cut off is an error.
func TestDetect(t *testing.T) {
	for stream, want := range map[string]Format{
		"": None, "\x1f": None, "BZh9 is a file": None, "BZh91AY&SYx": Bzip2, "BZh01AY&SYx": None, "BZh9\x17rE8P\x90": Bzip2,
		"\x28\xb5\x2f\xfd": Zstd, "\x50\x2a\x4d\x18\x04\x00\x00\x00": Zstd, "\x50\x2a\x4d\x18": None, "\xfd7zXZ\x00": XZ, "\xfd7zXY\x00": None,
	} {
		if got := Detect([]byte(stream)); got != want {
			t.Errorf("%q: %q, want %q", stream, got, want)
		}
	}
	for format, stream := range streams(t) {
		if format == None {
			continue
		}
		r, _, err := New(bytes.NewReader(stream[:len(stream)-3]))
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if err == nil {
			t.Errorf("%s: no error for a stream that is cut off", format)
		}
	}
	cause := errors.New("the disk is gone")
	if _, _, err := New(iotest.ErrReader(cause)); !errors.Is(err, cause) {
		t.Errorf("error = %v", err)
	}
}

// A stream that asks for too much memory is refused before any is used.
func TestWindow(t *testing.T) {
	stream := bytes.Clone(streams(t)[XZ])
	i := bytes.Index(stream, []byte{0x21, 1})
	stream[i+2] = 40 // the size of the dictionary
	if _, _, err := New(bytes.NewReader(stream)); err == nil || !strings.Contains(err.Error(), "more than the 128 MiB allowed") {
		t.Errorf("xz: %v", err)
	}
	large := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x01, 0x00, 0x00} // a window of 1 GiB
	r, _, err := New(bytes.NewReader(large))
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("zstd: %v", err)
	}
}

func FuzzNew(f *testing.F) {
	for _, stream := range streams(f) {
		f.Add(stream)
	}
	f.Fuzz(func(_ *testing.T, stream []byte) {
		r, format, err := New(bytes.NewReader(stream))
		if err != nil {
			return
		}
		_, err = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		if format == None && err != nil {
			panic(err)
		}
		_ = r.Close()
	})
}

const bzipped = "425a68393141592653593ef4fd0d000009d1800010400026469c8020003100d001468f4d4f53ca79a00f53821b5071cf8bb9229c28481f7a7e8680"
