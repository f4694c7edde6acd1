package step

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// tarOf makes an archive of headers; a file's content is its name.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = h.Name
			h.Size = int64(len(content))
		}
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o644
		}
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

// addArchive carries out ADD x.tar dest and returns the tree.
func addArchive(t testing.TB, archive []byte, rootTree string, op plan.Add) (string, error) {
	t.Helper()
	ctx := rootfs.NewMem()
	if err := ctx.Put(rootfs.Entry{Name: "x.tar", Mode: 0o600, UID: 5}, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	root := buildTree(t, rootTree)
	op.Paths = []string{"x.tar"}
	err := Do(t.Context(), root, op, Inputs{Context: ctx, Now: func() time.Time { return time.Unix(1000, 0) }})
	return printTree(t, root), err
}

// Every compression that Docker unpacks is recognised by content, whatever the
// file is called.
func TestAddCompressions(t *testing.T) {
	plain := tarOf(t, tar.Header{Name: "foo", Typeflag: tar.TypeReg, ModTime: time.Unix(7, 0)})
	pack := func(open func(io.Writer) (io.WriteCloser, error)) []byte {
		var b bytes.Buffer
		w, err := open(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	zst := pack(func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	bz2, err := base64.StdEncoding.DecodeString(bzip2Archive)
	if err != nil {
		t.Fatal(err)
	}
	for name, archive := range map[string][]byte{
		"plain":                        plain,
		"gzip":                         pack(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"xz":                           pack(func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		"zstd":                         zst,
		"zstd after a skippable frame": append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9}, zst...),
		"bzip2":                        bz2,
	} {
		got, err := addArchive(t, archive, "", plan.Add{Placing: plan.Placing{Dest: "/d"}})
		if want := "dir 0755 0:0 @1000 d\nfile 0644 0:0 @7 d/foo \"foo\"\n"; err != nil || got != want {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
}

// bzip2Archive is the same archive, compressed by libbz2: Go has no encoder.
const bzip2Archive = "QlpoOTFBWSZTWegqBRQAACzbgMkAQABPgAACYQCeAAgIIABUQQ0A0GnqCRJDEekGhzqP5FBtAV7vUpNthDB7wKGIxCImb4EVZQJ0GycnAFDP4u5IpwoSHQVAooA="

// What is no archive, or a damaged one, is copied as it is.
func TestAddNoArchive(t *testing.T) {
	good := tarOf(t, tar.Header{Name: "foo", Typeflag: tar.TypeReg})
	for name, content := range map[string][]byte{
		"empty file": nil, "text": []byte("hello"), "empty archive": make([]byte, 1024),
		"gzip of text": gzipped(t, []byte("hello")), "gzip magic": {0x1f, 0x8b, 0x08}, "bzip2 magic": []byte("BZh9junk"),
		"xz magic": []byte("\xfd7zXZ\x00junk"), "zstd magic": {0x28, 0xb5, 0x2f, 0xfd, 1}, "cut tar": good[:100],
		"zip": []byte("PK\x03\x04"),
	} {
		got, err := addArchive(t, content, "", plan.Add{Placing: plan.Placing{Dest: "/d/"}})
		if err != nil || !strings.Contains(got, "file 0600 0:0 d/x.tar") {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Owners, modes, times, links and devices come from the archive; directories
// that it only implies are 0755 of root; the destination stays as it is.
func TestUnpack(t *testing.T) {
	at := func(n int64) time.Time { return time.Unix(n, 0) }
	archive := tarOf(t,
		tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}},
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 9, Gid: 9, ModTime: at(1)},
		tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o2511, Uid: 1, Gid: 2, ModTime: at(2)},
		tar.Header{Name: "dir/suid", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 3, Gid: 4, ModTime: at(3),
			PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		tar.Header{Name: "implied/deep/f", Typeflag: tar.TypeReg, ModTime: at(4)},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd", Uid: 5, ModTime: at(5)},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "dir/suid"},
		tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, ModTime: at(6)},
		tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o660, ModTime: at(6)},
		tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, ModTime: at(6)},
		tar.Header{Name: "have/", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 6, Gid: 6, ModTime: at(8)},
		tar.Header{Name: "have/old", Typeflag: tar.TypeReg, ModTime: at(9)},
		tar.Header{Name: "gone", Typeflag: tar.TypeReg, ModTime: at(-5)},
	)
	root := "dir 0750 7:7 @99 d\ndir 0700 d/have\nfile d/have/old \"o\"\nfile d/have/kept \"k\"\ndir d/gone\nfile d/gone/x\n"
	got, err := addArchive(t, archive, root, plan.Add{Placing: plan.Placing{Dest: "/d/", Chmod: "0777"}})
	want := `dir 0750 7:7 @99 d
dir 2511 1:2 @2 d/dir
file 4755 3:4 @3 d/dir/suid "dir/suid"
fifo 0644 0:0 @6 d/fifo
file 0644 0:0 @0 d/gone "gone"
hard d/hard => d/dir/suid
dir 0711 6:6 @8 d/have
file 0644 0:0 d/have/kept "k"
file 0644 0:0 @9 d/have/old "have/old"
dir 0755 0:0 @1000 d/implied
dir 0755 0:0 @1000 d/implied/deep
file 0644 0:0 @4 d/implied/deep/f "implied/deep/f"
link 5:0 @5 d/link -> /etc/passwd
char 0644 0:0 1:3 @6 d/null
block 0660 0:0 8:0 @6 d/sda
`
	if err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

// --chown is for all that the archive holds and for the destination.
func TestUnpackChown(t *testing.T) {
	got, err := addArchive(t, tarOf(t,
		tar.Header{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1, ModTime: time.Unix(1, 0)},
		tar.Header{Name: "b/f", Typeflag: tar.TypeReg, Uid: 1, ModTime: time.Unix(1, 0)},
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "x", Uid: 1, ModTime: time.Unix(1, 0)},
	), "", plan.Add{Placing: plan.Placing{Dest: "/out", Chown: "100:200"}})
	want := "dir 0755 100:200 @1000 out\ndir 0755 100:200 @1 out/a\ndir 0755 0:0 @1000 out/b\n" +
		"file 0644 100:200 @1 out/b/f \"b/f\"\nlink 100:200 @1 out/l -> x\n"
	if err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

// Names and links that climb or are absolute stay in the destination, as in a
// chroot; a link on the way is followed there, one at the end is replaced.
func TestUnpackStaysInside(t *testing.T) {
	one := time.Unix(1, 0)
	got, err := addArchive(t, tarOf(t,
		tar.Header{Name: "../../up", Typeflag: tar.TypeReg, ModTime: one},
		tar.Header{Name: "/abs", Typeflag: tar.TypeReg, ModTime: one},
		tar.Header{Name: "esc", Typeflag: tar.TypeSymlink, Linkname: "../../../etc", ModTime: one},
		tar.Header{Name: "esc/passwd", Typeflag: tar.TypeReg, ModTime: one},
		tar.Header{Name: "run", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: one},
		tar.Header{Name: "varrun", Typeflag: tar.TypeSymlink, Linkname: "/run", ModTime: one},
		tar.Header{Name: "varrun/pid", Typeflag: tar.TypeReg, ModTime: one},
		tar.Header{Name: "stolen", Typeflag: tar.TypeLink, Linkname: "../../varrun/pid"},
		tar.Header{Name: "repl", Typeflag: tar.TypeReg, ModTime: one},
	), "dir d\ndir etc\nfile etc/passwd \"root\"\nlink d/repl -> ../etc/passwd\n", plan.Add{Placing: plan.Placing{Dest: "/d"}})
	want := `dir 0755 0:0 d
file 0644 0:0 @1 d/abs "/abs"
link 0:0 @1 d/esc -> ../../../etc
dir 0755 0:0 @1000 d/etc
file 0644 0:0 @1 d/etc/passwd "esc/passwd"
file 0644 0:0 @1 d/repl "repl"
dir 0755 0:0 @1 d/run
file 0644 0:0 @1 d/run/pid "varrun/pid"
hard d/stolen => d/run/pid
file 0644 0:0 @1 d/up "../../up"
link 0:0 @1 d/varrun -> /run
dir 0755 0:0 etc
file 0644 0:0 etc/passwd "root"
`
	if err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

// A directory that is replaced by a link once it is filled is not confused with
// what the link leads to.
func TestUnpackReplacedParent(t *testing.T) {
	one := time.Unix(1, 0)
	got, err := addArchive(t, tarOf(t,
		tar.Header{Name: "a/etc/", Typeflag: tar.TypeDir, Mode: 0o777, Uid: 4, ModTime: one},
		tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "..", ModTime: one},
	), "dir d\ndir 0700 @3 etc\n", plan.Add{Placing: plan.Placing{Dest: "/d"}})
	if want := "dir 0755 0:0 d\nlink 0:0 @1 d/a -> ..\ndir 0700 0:0 @3 etc\n"; err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

// The errors name the archive, the destination and the entry.
func TestUnpackErrors(t *testing.T) {
	file := tar.Header{Name: "f", Typeflag: tar.TypeReg}
	for name, c := range map[string]struct {
		archive []byte
		root    string
		want    string
	}{
		"hard link": {tarOf(t, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "nope"}), "",
			"unpack x.tar to /d: h: hard link to nope: lstat d/nope: no such file or directory"},
		"hard link to directory": {tarOf(t, tar.Header{Name: "a", Typeflag: tar.TypeDir}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "a"}), "",
			"unpack x.tar to /d: h: hard link to a: it is a directory"},
		"below a file": {tarOf(t, file, tar.Header{Name: "f/x", Typeflag: tar.TypeReg}), "",
			"unpack x.tar to /d: f/x: /d/f is not a directory"},
		"type": {tarOf(t, file, tar.Header{Name: "v", Typeflag: 'V'}), "", `unpack x.tar to /d: v: entries of type "V" cannot be unpacked`},
		"loop": {tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "l"}, tar.Header{Name: "l/x", Typeflag: tar.TypeReg}), "",
			"unpack x.tar to /d: l/x: resolve l: too many levels of symbolic links"},
		"cut":         {append(tarOf(t, file)[:1024], "junk"...), "", "unpack x.tar to /d: read archive: unexpected EOF"},
		"destination": {tarOf(t, file), "file d", "unpack x.tar to /d: /d is not a directory"},
	} {
		_, err := addArchive(t, c.archive, c.root, plan.Add{Placing: plan.Placing{Dest: "/d"}})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
}

// A device that cannot be made here is left out of an archive, with a note.
func TestUnpackNoDevice(t *testing.T) {
	ctx := rootfs.NewMem()
	archive := tarOf(t, tar.Header{Name: "null", Typeflag: tar.TypeChar}, tar.Header{Name: "f", Typeflag: tar.TypeReg})
	if err := ctx.Put(rootfs.Entry{Name: "x.tar", Mode: 0o600}, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	root := noDevices{rootfs.NewMem()}
	var notes []string
	err := Do(t.Context(), root, plan.Add{Placing: plan.Placing{Dest: "/"}, Paths: []string{"x.tar"}}, Inputs{Context: ctx, Note: func(s string) { notes = append(notes, s) }})
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "null is left out") {
		t.Errorf("%v, %q", err, notes)
	}
	if _, err := root.Lstat("f"); err != nil {
		t.Error(err)
	}
}

type noDevices struct{ rootfs.FS }

func (n noDevices) Put(e rootfs.Entry, r io.Reader) error {
	if e.Mode&fs.ModeDevice != 0 {
		return &fs.PathError{Op: "put", Path: e.Name, Err: rootfs.ErrNoDevice}
	}
	return n.FS.Put(e, r)
}

// sink takes files without keeping them.
type sink struct{ rootfs.FS }

func (s sink) Put(e rootfs.Entry, r io.Reader) error {
	if !e.Mode.IsRegular() || r == nil {
		return s.FS.Put(e, nil)
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

type bigContext struct {
	rootfs.FS
	open func() io.Reader
}

func (b bigContext) Open(string) (io.ReadCloser, error) { return io.NopCloser(b.open()), nil }

// Copying and unpacking 256 MiB takes a few MiB of memory.
func TestMemoryIsBounded(t *testing.T) {
	const size = 256 << 20
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	mem := buildTree(t, "file x.tar \"x\"\n")
	for name, open := range map[string]func() io.Reader{
		"archive": func() io.Reader {
			return io.MultiReader(bytes.NewReader(head.Bytes()), io.LimitReader(zeros{}, size+1024))
		},
		"file": func() io.Reader { return io.MultiReader(strings.NewReader("x"), io.LimitReader(zeros{}, size)) },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		op := plan.Add{Placing: plan.Placing{Dest: "/d/"}, Paths: []string{"x.tar"}}
		if err := Do(t.Context(), sink{rootfs.NewMem()}, op, Inputs{Context: bigContext{mem, open}}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
			t.Errorf("%s: %d bytes were allocated", name, used)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Cancelling stops a copy and an unpacking, with the reason.
func TestCancel(t *testing.T) {
	reason := errors.New("deadline of job reached")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	src := rootfs.NewMem()
	if err := src.Put(rootfs.Entry{Name: "x.tar", Mode: 0o644}, bytes.NewReader(tarOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg}))); err != nil {
		t.Fatal(err)
	}
	for _, op := range []plan.Op{
		plan.Copy{Placing: plan.Placing{Dest: "/"}, Paths: []string{"."}}, plan.Copy{Placing: plan.Placing{Dest: "/"}, Paths: []string{"x.tar"}}, plan.Add{Placing: plan.Placing{Dest: "/"}, Paths: []string{"x.tar"}},
	} {
		if err := Do(ctx, rootfs.NewMem(), op, Inputs{Context: src}); !errors.Is(err, reason) {
			t.Errorf("%v: %v", op, err)
		}
	}
}

// smallFiles refuses files of more than 64 KiB: a few bytes of an archive may
// stand for any number of zeros.
type smallFiles struct{ rootfs.FS }

func (s smallFiles) Put(e rootfs.Entry, r io.Reader) error {
	if e.Size > 64<<10 {
		return errors.New("too large")
	}
	return s.FS.Put(e, r)
}

func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f,
		tar.Header{Name: "../a", Typeflag: tar.TypeReg}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/../../x"},
		tar.Header{Name: "l/y", Typeflag: tar.TypeReg}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "l/y"},
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: ".", Typeflag: tar.TypeSymlink, Linkname: "/"},
	))
	f.Add(gzipped(f, tarOf(f, tar.Header{Name: "f", Typeflag: tar.TypeReg})))
	outside := "dir etc\nfile etc/passwd \"root\"\nlink in -> dest\n"
	f.Fuzz(func(t *testing.T, archive []byte) {
		root := buildTree(t, outside+"dir dest\nlink dest/up -> ..\nlink dest/abs -> /etc\n")
		u := &unpacker{root: smallFiles{root}, dest: "dest", in: Inputs{}}
		_ = u.unpack(t.Context(), bytes.NewReader(archive)) // any error will do
		if err := root.Remove("dest"); err != nil {
			t.Fatal(err)
		}
		if got, want := printTree(t, root), printTree(t, buildTree(t, outside)); got != want {
			t.Fatalf("outside of the destination there is\n%s", got)
		}
	})
}
