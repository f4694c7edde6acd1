package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/kilnhook/kiln/e2e/need"
)

// bzip2Compressed is the archive of one empty file "b" with bzip2, which Go
// cannot write.
const bzip2Compressed = "425a68393141592653597488403200006cfb80c8800010400045800000f0001e000008200054329ea0003d41145188f53207dac48a11b22257758382f7412020a9198133293aac146e90f6fadba1240f8bb9229c28483a44201900"

func mtime() time.Time { return time.Date(2020, 2, 3, 4, 5, 6, 789_000_000, time.UTC) }

// tarOf makes an archive. A header without type is a regular file whose
// content is "content of NAME" unless it has a size.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			content = "content of " + h.Name
			if h.Size > 0 {
				content = strings.Repeat("x", int(h.Size))
			}
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.ModTime, h.Format = mtime(), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func xzed(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// fetchBytes fetches an archive from standard input.
func fetchBytes(t testing.TB, b []byte, opt Options) (*Context, error) {
	t.Helper()
	opt.Stdin = bytes.NewReader(b)
	if opt.TempDir == "" {
		opt.TempDir = t.TempDir()
	}
	c, err := Fetch(t.Context(), "tar://stdin", opt)
	if err == nil {
		t.Cleanup(func() {
			if err := errors.Join(c.Close(), c.Close()); err != nil {
				t.Error(err)
			}
			if left, _ := os.ReadDir(opt.TempDir); len(left) != 0 {
				t.Errorf("Close left %v", left)
			}
		})
	} else if left, _ := os.ReadDir(opt.TempDir); len(left) != 0 {
		t.Errorf("a failed fetch left %v", left)
	}
	return c, err
}

// list describes a tree, a line a file.
func list(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s", info.Mode(), rel)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			fmt.Fprintf(&b, " -> %s", target)
		case info.Mode().IsRegular():
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", content)
		}
		if !info.ModTime().Equal(mtime()) {
			fmt.Fprintf(&b, " at %v", info.ModTime().UTC())
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Everything that a context may hold is unpacked with its mode and time, by
// whichever compression; the archive itself is nowhere, and its SHA-256 is
// known.
func TestUnpack(t *testing.T) {
	plain := tarOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "./Dockerfile"},
		tar.Header{Name: "implied/by/file", Mode: 0o600},
		tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o555},
		tar.Header{Name: "dir/tool", Mode: 0o4755},
		tar.Header{Name: "dir/sticky/", Typeflag: tar.TypeDir, Mode: 0o1777},
		tar.Header{Name: "dir/abs", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		tar.Header{Name: "dir/up", Typeflag: tar.TypeSymlink, Linkname: "../../../x"},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "./dir/tool"},
		tar.Header{Name: "twice"},
		tar.Header{Name: "twice", Size: 3},
	)
	want := `-rw-r--r-- Dockerfile "content of ./Dockerfile"
dr-xr-xr-x dir
Lrwxrwxrwx dir/abs -> /etc/passwd
dtrwxrwxrwx dir/sticky
urwxr-xr-x dir/tool "content of dir/tool"
Lrwxrwxrwx dir/up -> ../../../x
urwxr-xr-x hard "content of dir/tool"
drwxr-xr-x implied
drwxr-xr-x implied/by
-rw------- implied/by/file "content of implied/by/file"
-rw-r--r-- twice "xxx"
`
	skippable := append([]byte("\x53\x2a\x4d\x18\x03\x00\x00\x00abc"), zstded(t, plain)...)
	for name, b := range map[string][]byte{
		"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain), "zstd skippable": skippable, "xz": xzed(t, plain),
		"padded": append(bytes.Clone(plain), make([]byte, 10240)...), "two gzip members": append(gzipped(t, plain[:1000]), gzipped(t, plain[1000:])...),
	} {
		t.Run(name, func(t *testing.T) {
			var done int64
			c, err := fetchBytes(t, b, Options{Progress: func(n, _ int64) { done = n }})
			if err != nil {
				t.Fatal(err)
			}
			if got := list(t, c.Dir); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			sum := sha256.Sum256(b)
			if c.Revision.SHA256 != hex.EncodeToString(sum[:]) || c.Revision.String() != "sha256:"+c.Revision.SHA256 {
				t.Errorf("revision = %v", c.Revision)
			}
			if done != int64(len(b)) {
				t.Errorf("progress ended at %d of %d bytes", done, len(b))
			}
		})
	}
}

// bzip2 archives are unpacked too.
func TestUnpackBzip2(t *testing.T) {
	b, err := hex.DecodeString(bzip2Compressed)
	if err != nil {
		t.Fatal(err)
	}
	c, err := fetchBytes(t, b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, c.Dir); got != "-rw-r--r-- b \"\" at 1970-01-01 00:00:00 +0000 UTC\n" {
		t.Errorf("got %s", got)
	}
}

// Later entries replace earlier ones of any kind, and nothing is ever written
// through a symbolic link to outside the context.
func TestUnpackReplaces(t *testing.T) {
	outside := t.TempDir()
	for name, tc := range map[string]struct {
		entries []tar.Header
		want    string
		err     string
	}{
		"file by directory":        {[]tar.Header{{Name: "a"}, {Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "a/b"}}, "drwxr-xr-x a\n-rw-r--r-- a/b \"content of a/b\"\n", ""},
		"directory by file":        {[]tar.Header{{Name: "a/b"}, {Name: "a"}}, "-rw-r--r-- a \"content of a\"\n", ""},
		"link by file":             {[]tar.Header{{Name: "a", Typeflag: tar.TypeSymlink, Linkname: outside + "/x"}, {Name: "a"}}, "-rw-r--r-- a \"content of a\"\n", ""},
		"link by directory":        {[]tar.Header{{Name: "a", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "a/b"}}, "drwxr-xr-x a\n-rw-r--r-- a/b \"content of a/b\"\n", ""},
		"hard link to itself":      {[]tar.Header{{Name: "a"}, {Name: "a", Typeflag: tar.TypeLink, Linkname: "a"}}, "", `tar entry "a": is a hard link to itself`},
		"through inner link":       {[]tar.Header{{Name: "d/x"}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d"}, {Name: "l/y"}}, "drwxr-xr-x d\n-rw-r--r-- d/x \"content of d/x\"\n-rw-r--r-- d/y \"content of l/y\"\nLrwxrwxrwx l -> d\n", ""},
		"through absolute link":    {[]tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/y"}}, "", `tar entry "l/y": `},
		"through upward link":      {[]tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "l/y"}}, "", `tar entry "l/y": `},
		"directory through link":   {[]tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/d/", Typeflag: tar.TypeDir}}, "", `tar entry "l/d/": `},
		"hard link through link":   {[]tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "l/passwd"}}, "", `tar entry "h": `},
		"link through link":        {[]tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/s", Typeflag: tar.TypeSymlink, Linkname: "x"}}, "", `tar entry "l/s": `},
		"below a file":             {[]tar.Header{{Name: "f"}, {Name: "f/y"}}, "", `tar entry "f/y": `},
		"parent after its content": {[]tar.Header{{Name: "p/q/f"}, {Name: "p/q/", Typeflag: tar.TypeDir, Mode: 0o500}, {Name: "p/", Typeflag: tar.TypeDir, Mode: 0o100}}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := fetchBytes(t, tarOf(t, tc.entries...), Options{})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error = %v, want %q", err, tc.err)
				}
			} else if err != nil {
				t.Error(err)
			} else if tc.want != "" {
				if got := list(t, c.Dir); got != tc.want {
					t.Errorf("got:\n%s\nwant:\n%s", got, tc.want)
				}
			}
			if left, _ := os.ReadDir(outside); len(left) != 0 {
				t.Errorf("written outside: %v", left)
			}
		})
	}
}

// What must not be in a context is refused by name.
func TestUnpackRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		h    tar.Header
		want string
	}{
		"parent":               {tar.Header{Name: "../x"}, `tar entry "../x" is not allowed: references parent directory`},
		"inner parent":         {tar.Header{Name: "a/../../x"}, `tar entry "a/../../x" is not allowed: references parent directory`},
		"absolute":             {tar.Header{Name: "/etc/x"}, `tar entry "/etc/x" is not allowed: has an absolute path`},
		"hard link up":         {tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../x"}, `tar entry "h" is not allowed: references parent directory`},
		"hard link absolute":   {tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}, `tar entry "h" is not allowed: has an absolute path`},
		"hard link to nothing": {tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "none"}, `tar entry "h": is a hard link to "none", which is not there`},
		"device":               {tar.Header{Name: "dev/null", Typeflag: tar.TypeChar}, `tar entry "dev/null" is not allowed: a device node cannot be part of a build context`},
		"block device":         {tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock}, `tar entry "dev/sda" is not allowed: a device node`},
		"fifo":                 {tar.Header{Name: "pipe", Typeflag: tar.TypeFifo}, `tar entry "pipe" is not allowed: a named pipe`},
		"root as link":         {tar.Header{Name: ".", Typeflag: tar.TypeSymlink, Linkname: "/"}, `tar entry "." is not allowed: has no name`},
		"long name":            {tar.Header{Name: strings.Repeat("n", 300)}, "file name too long"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fetchBytes(t, tarOf(t, tar.Header{Name: "first"}, tc.h), Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "context tar://stdin: ") {
				t.Errorf("error = %v, want %q", err, tc.want)
			}
		})
	}
}

// What is no archive, or only a part of one, says so.
func TestUnpackBrokenInput(t *testing.T) {
	noise := make([]byte, 4096)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise)
	noise[0] = 'n'
	big := make([]byte, 300_000)
	_, _ = r.Read(big)
	plain := tarOf(t, tar.Header{Name: "one"}, tar.Header{Name: "two", Size: 200_000})
	gz, zst, x := gzipped(t, plain), zstded(t, plain), xzed(t, plain)
	random := gzipped(t, append(bytes.Clone(plain), big...))
	flipped := bytes.Clone(gz)
	flipped[len(flipped)-6] ^= 1
	for name, tc := range map[string]struct {
		b    []byte
		is   error
		want string
	}{
		"empty":                 {nil, ErrEmpty, "context tar://stdin: empty: 0 bytes"},
		"noise":                 {noise, ErrNotArchive, "context tar://stdin: not a tar archive and not gzip, zstd, xz or bzip2"},
		"zip":                   {append([]byte("PK\x03\x04"), noise...), ErrNotArchive, "it is a zip archive"},
		"web page":              {append([]byte("\n<!DOCTYPE html>"), noise...), ErrNotArchive, "it is a web page"},
		"short":                 {[]byte("hello"), ErrNotArchive, "it is only 5 bytes long"},
		"gzip of nothing":       {gzipped(t, nil), ErrTruncated, "truncated: the end-of-archive marker is missing at its beginning"},
		"gzip of noise":         {gzipped(t, noise), ErrNotArchive, "not a tar archive"},
		"cut header":            {plain[:1700], ErrTruncated, "truncated"},
		"cut content":           {plain[:len(plain)-5000], ErrTruncated, `truncated in entry "two"`},
		"cut at entry":          {plain[:len(plain)-1024], ErrTruncated, `the end-of-archive marker is missing after entry "two"`},
		"cut gzip":              {gz[:len(gz)/2], ErrTruncated, "truncated: the gzip data ends too early"},
		"cut gzip trailer":      {gz[:len(gz)-3], ErrTruncated, "truncated: the gzip data ends too early"},
		"cut gzip after tar":    {random[:len(random)-5000], ErrTruncated, "truncated: the gzip data ends too early"},
		"cut gzip header":       {gz[:5], ErrTruncated, "truncated: the gzip data ends too early"},
		"cut zstd":              {zst[:len(zst)-20], ErrTruncated, "truncated: the zstd data ends too early"},
		"cut xz":                {x[:len(x)-40], ErrTruncated, "truncated: the xz data ends too early"},
		"bad gzip checksum":     {flipped, nil, "corrupt gzip data"},
		"bad bzip2":             {append([]byte("BZh91AY&SY"), noise...), nil, "corrupt bzip2 data"},
		"corrupt in the middle": {append(bytes.Clone(plain[:2048]), noise...), nil, `corrupt tar archive after entry "one"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fetchBytes(t, tc.b, Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want %q", err, tc.want)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("error %q is not %q", err, tc.is)
			}
		})
	}
}

// An archive without files is an empty context, and what git archive adds is
// no file.
func TestUnpackEmptyArchive(t *testing.T) {
	c, err := fetchBytes(t, make([]byte, 1024), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, c.Dir); got != "" {
		t.Errorf("got %s", got)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if _, err := fetchBytes(t, b.Bytes(), Options{}); err != nil {
		t.Error(err)
	}
}

// Contexts that are too large are refused with the limit, however they try.
func TestUnpackLimits(t *testing.T) {
	var bomb bytes.Buffer
	zw, _ := zstd.NewWriter(&bomb)
	tw := tar.NewWriter(zw)
	const size = ratioGrace + 64<<20
	if err := tw.WriteHeader(&tar.Header{Name: "zeros", Size: size, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(tw, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	_, _ = tw.Close(), zw.Close()
	after := gzipped(t, append(tarOf(t, tar.Header{Name: "a"}), make([]byte, 100_000)...))
	for name, tc := range map[string]struct {
		b      []byte
		limits Limits
		want   string
	}{
		"bytes":             {tarOf(t, tar.Header{Name: "a", Size: 600}, tar.Header{Name: "b", Size: 500}), Limits{Bytes: 1000}, "too large: more than 1000 bytes unpacked"},
		"entries":           {tarOf(t, tar.Header{Name: "a"}, tar.Header{Name: "b"}, tar.Header{Name: "c"}), Limits{Entries: 2}, "too large: more than 2 entries"},
		"implied":           {tarOf(t, tar.Header{Name: "a/b/c/d/e"}), Limits{Entries: 3}, "too large: more than 3 entries"},
		"ratio":             {bomb.Bytes(), Limits{}, "too large: more than 1100 times its compressed size"},
		"after the archive": {after, Limits{Bytes: 50_000}, "too large: more than 50000 bytes unpacked"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fetchBytes(t, tc.b, Options{Limits: tc.limits})
			var limit *LimitError
			if !errors.As(err, &limit) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want %q", err, tc.want)
			}
		})
	}
	none := Options{Limits: Limits{Bytes: -1, Entries: -1, Ratio: -1}}
	if _, err := fetchBytes(t, tarOf(t, tar.Header{Name: "a", Size: 10}), none); err != nil {
		t.Errorf("without limits: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A full disk is reported with the entry, the directory and what to do, and
// is ENOSPC; what was unpacked is removed.
func TestUnpackFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		need.Missing(t, "to mount a small file system ("+err.Error()+")")
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	_, err := fetchBytes(t, gzipped(t, tarOf(t, tar.Header{Name: "a"}, tar.Header{Name: "big", Size: 2 << 20})), Options{TempDir: dir})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error = %v", err)
	}
	for _, want := range []string{`tar entry "big": unpack to ` + dir, "no space left on device: make room there"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

// A context that takes too long is given up with the reason.
func TestFetchCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("deadline of the job"))
	_, err := Fetch(ctx, "tar://stdin", Options{Stdin: bytes.NewReader(tarOf(t, tar.Header{Name: "a"})), TempDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "deadline of the job") {
		t.Errorf("error = %v", err)
	}
}

// An error of the place that an archive comes from is not taken for a broken
// archive.
func TestUnpackReadError(t *testing.T) {
	b := gzipped(t, tarOf(t, tar.Header{Name: "a", Size: 100_000}))
	r := io.MultiReader(bytes.NewReader(b[:100]), errReader{syscall.EIO})
	_, err := Fetch(t.Context(), "tar://stdin", Options{Stdin: r, TempDir: t.TempDir()})
	if !errors.Is(err, syscall.EIO) || strings.Contains(err.Error(), "corrupt") || errors.Is(err, ErrTruncated) {
		t.Errorf("error = %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// Compressed data that asks for much memory is refused.
func TestMemoryLimits(t *testing.T) {
	const window = 128 << 20
	plain := tarOf(t, tar.Header{Name: "a", Size: 1000})
	cfg := xz.WriterConfig{DictCap: window + 1<<20}
	var out bytes.Buffer
	w, err := cfg.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(plain)
	_ = w.Close()
	if _, err := fetchBytes(t, out.Bytes(), Options{}); err == nil || !strings.Contains(err.Error(), "dictionary of") {
		t.Errorf("xz: error = %v", err)
	}
	var z bytes.Buffer
	zw, err := zstd.NewWriter(&z, zstd.WithWindowSize(2*window), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.CopyN(zw, rand.NewChaCha8([32]byte{}), 1<<20) // large enough for the window to be announced
	_ = zw.Flush()
	_ = zw.Close()
	if _, err := fetchBytes(t, z.Bytes(), Options{}); err == nil || !strings.Contains(err.Error(), "corrupt zstd data: window size exceeded") {
		t.Errorf("zstd: error = %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	plain := tarOf(f, tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "../../x"},
		tar.Header{Name: "d/l/f"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "d/l"}, tar.Header{Name: "f"})
	f.Add(plain)
	f.Add(gzipped(f, plain))
	f.Add(zstded(f, plain))
	f.Add(xzed(f, plain))
	bz, _ := hex.DecodeString(bzip2Compressed)
	f.Add(bz)
	f.Fuzz(func(t *testing.T, b []byte) {
		top := t.TempDir()
		temp := filepath.Join(top, "temp")
		if err := os.Mkdir(temp, 0o755); err != nil {
			t.Fatal(err)
		}
		c, err := Fetch(t.Context(), "tar://stdin", Options{Stdin: bytes.NewReader(b), TempDir: temp, Limits: Limits{Bytes: 1 << 20, Entries: 1000}})
		if err == nil {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		var names []string
		for _, dir := range []string{top, temp} {
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				names = append(names, e.Name())
			}
		}
		if !slices.Equal(names, []string{"temp"}) {
			t.Errorf("left outside the context: %q", names)
		}
	})
}
