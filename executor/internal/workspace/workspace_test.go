package workspace

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/nstest"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
)

func TestMain(m *testing.M) {
	if status, acted := sandbox.Child(os.Args, os.Environ(), os.Stdout, os.Stderr); acted {
		os.Exit(status)
	}
	nstest.Main(m)
}

// begin is either kind of workspace.
type begin interface {
	Begin(ctx context.Context, g Ground) (Root, error)
}

var quiet = Report{Bytes: func(string, int64, int64) {}, Note: func(string) {}}

// each runs a test in both kinds. root is where the workspace's root can be
// seen, "" if there is no one place.
func each(t *testing.T, test func(t *testing.T, w begin)) {
	t.Helper()
	t.Run("Overlay", func(t *testing.T) {
		nstest.Need(t)
		w, err := NewOverlay(t.TempDir(), sandbox.Namespace{FreshProc: true}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeAll(t, w) })
		test(t, w)
	})
	t.Run("InPlace", func(t *testing.T) {
		nstest.Need(t)
		w, _ := inPlace(t)
		test(t, w)
	})
}

func closeAll(t *testing.T, w *Overlay) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// inPlace is a workspace on a directory that plays the container's root: the
// executor's files lie in /kaniko and a volume in /workspace.
func inPlace(t *testing.T) (*InPlace, string) {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"kaniko/work", "workspace/src", "var/run/secrets/token"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w, err := NewInPlace(root, filepath.Join(root, "kaniko/work"),
		[]string{filepath.Join(root, "kaniko"), filepath.Join(root, "workspace"), filepath.Join(root, "var/run/secrets")}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return w, root
}

func layerOf(t *testing.T, files ...string) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		name, body, _ := strings.Cut(f, "=")
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}
		switch target, isLink := strings.CutPrefix(body, "->"); {
		case isLink:
			h.Typeflag, h.Linkname, h.Size, body = tar.TypeSymlink, target, 0, ""
		case strings.HasSuffix(name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func put(t *testing.T, fsys rootfs.FS, name, body string) {
	t.Helper()
	if err := fsys.Put(rootfs.Entry{Name: name, Mode: 0o644, ModTime: time.Unix(1e9, 0)}, strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}
}

func commit(t *testing.T, r Root) (Commit, string) {
	t.Helper()
	c, err := r.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, ch := range c.Changes {
		if ch.Deleted {
			out = append(out, "-"+ch.Name)
		} else {
			out = append(out, ch.Name)
		}
	}
	return c, strings.Join(out, " ")
}

func content(t *testing.T, fsys rootfs.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	b := make([]byte, 100)
	n, _ := f.Read(b)
	return string(b[:n])
}

// Whatever the kind, the same steps are the same changes.
func TestCommitsAreTheSameInBothKinds(t *testing.T) {
	base := Image{Key: "aa", Layers: []v1.Layer{
		layerOf(t, "etc/", "etc/passwd=root", "usr/", "usr/a=1", "usr/b=2", "link=->usr"),
		layerOf(t, "usr/.wh.a", "usr/c=3"),
	}}
	each(t, func(t *testing.T, w begin) {
		r, err := w.Begin(t.Context(), Ground{Image: base})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got := content(t, r.FS(), "usr/c") + content(t, r.FS(), "link/b"); got != "32" {
			t.Errorf("the base shows %q", got)
		}
		if _, err := r.FS().Lstat("usr/a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("usr/a, which the second layer hides: %v", err)
		}
		if _, got := commit(t, r); got != "" {
			t.Errorf("nothing was done and %q changed", got)
		}
		put(t, r.FS(), "usr/new", "x")
		put(t, r.FS(), "link/b", "changed")
		if err := r.FS().Remove("etc/passwd"); err != nil {
			t.Fatal(err)
		}
		c, got := commit(t, r)
		if want := "-etc/passwd usr/b usr/new"; got != want {
			t.Errorf("changed: %q, want %q", got, want)
		}
		blob, err := layer.NewBlob(t.TempDir(), layer.Compression{})
		if err != nil {
			t.Fatal(err)
		}
		if err := blob.Fill(t.Context(), c.FS, c.Changes, layer.WriteOptions{Learn: c.Learn}); err != nil {
			t.Fatal(err)
		}
		c.Release()
		// The same once more changes nothing; a directory put as it is neither.
		e, err := r.FS().Lstat("usr")
		if err != nil {
			t.Fatal(err)
		}
		if err := r.FS().Put(e, nil); err != nil {
			t.Fatal(err)
		}
		put(t, r.FS(), "usr/new", "x")
		if _, got := commit(t, r); got != "" {
			t.Errorf("the same again changed %q", got)
		}
		put(t, r.FS(), "usr/new", "y")
		if _, got := commit(t, r); got != "usr/new" {
			t.Errorf("other content of the same size and time changed %q", got)
		}
	})
}

func TestStagesOnStages(t *testing.T) {
	base := Image{Key: "bb", Layers: []v1.Layer{layerOf(t, "a=1", "gone=1")}}
	each(t, func(t *testing.T, w begin) {
		first, err := w.Begin(t.Context(), Ground{Image: base})
		if err != nil {
			t.Fatal(err)
		}
		put(t, first.FS(), "made", "by the first")
		if err := first.FS().Remove("gone"); err != nil {
			t.Fatal(err)
		}
		c, _ := commit(t, first)
		blob, err := layer.NewBlob(t.TempDir(), layer.Compression{})
		if err != nil {
			t.Fatal(err)
		}
		if err := blob.Fill(t.Context(), c.FS, c.Changes, layer.WriteOptions{Learn: c.Learn}); err != nil {
			t.Fatal(err)
		}
		c.Release()
		kept, err := first.Keep(t.Context(), []string{"/made"})
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		// Another stage in between, so that a root in place must be remade.
		other, err := w.Begin(t.Context(), Ground{})
		if err != nil {
			t.Fatal(err)
		}
		if names, err := other.FS().List("."); err != nil || slices.Contains(names, "made") {
			t.Errorf("scratch holds %v, %v", names, err)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		second, err := w.Begin(t.Context(), Ground{Image: base, Parent: first, Layers: []v1.Layer{blob}})
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		if got := content(t, second.FS(), "made"); got != "by the first" {
			t.Errorf("made is %q", got)
		}
		if _, err := second.FS().Lstat("gone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("gone came back: %v", err)
		}
		if got := content(t, kept, "made"); got != "by the first" {
			t.Errorf("what was kept of the first stage: %q", got)
		}
		if _, got := commit(t, second); got != "" {
			t.Errorf("a stage that did nothing changed %q", got)
		}
	})
}

// What is mounted, and the executor's own files, are neither seen nor touched.
func TestInPlaceLeavesAlone(t *testing.T) {
	nstest.Need(t)
	w, root := inPlace(t)
	var notes []string
	w.report.Note = func(s string) { notes = append(notes, s) }
	base := Image{Key: "cc", Layers: []v1.Layer{layerOf(t, "kaniko/executor=evil", "workspace/x=evil", "var/", "var/run=->/run", "ok=1")}}
	r, err := w.Begin(t.Context(), Ground{Image: base})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kaniko/executor", "workspace/x"} {
		if _, err := os.Stat(filepath.Join(root, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was extracted: %v", name, err)
		}
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "var/run") {
		t.Errorf("notes: %q", notes)
	}
	err = r.FS().Put(rootfs.Entry{Name: "kaniko/executor", Mode: 0o755}, strings.NewReader("evil"))
	if !errors.Is(err, ErrMounted) {
		t.Errorf("a step could write to /kaniko: %v", err)
	}
	if err := r.FS().Put(rootfs.Entry{Name: "workspace", Mode: fs.ModeDir | 0o755}, nil); err != nil {
		t.Errorf("WORKDIR of a mounted directory: %v", err)
	}
	if _, err := w.Begin(t.Context(), Ground{}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"kaniko/work", "workspace/src", "var/run/secrets/token"} {
		if _, err := os.Stat(filepath.Join(root, d)); err != nil {
			t.Errorf("between stages: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "ok")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the first stage's file is still there: %v", err)
	}
}

// Keep copies what a path leads to, the links on the way included.
func TestKeep(t *testing.T) {
	base := Image{Key: "dd", Layers: []v1.Layer{layerOf(t,
		"opt/", "opt/v2/", "opt/v2/bin/", "opt/v2/bin/tool=x", "opt/current=->/opt/v2", "usr/", "usr/tool=->../opt/current/bin/tool", "big/", "big/file=1", "out/", "out/a.txt=a", "out/b.bin=b")}}
	each(t, func(t *testing.T, w begin) {
		r, err := w.Begin(t.Context(), Ground{Image: base})
		if err != nil {
			t.Fatal(err)
		}
		kept, err := r.Keep(t.Context(), []string{"/usr/tool", "/out/*.txt", "/none"})
		if err != nil {
			t.Fatal(err)
		}
		name, err := rootfs.Resolve(kept, "usr/tool")
		if err != nil || name != "opt/v2/bin/tool" || content(t, kept, name) != "x" {
			t.Errorf("usr/tool leads to %q, %v", name, err)
		}
		if got := content(t, kept, "out/a.txt"); got != "a" {
			t.Errorf("out/a.txt is %q", got)
		}
	})
}

// A RUN needs mount points that an image may not have, and leaves behind those
// that runc leaves.
func TestRunLeavesNoMountPoints(t *testing.T) {
	nstest.Need(t)
	w, err := NewOverlay(t.TempDir(), sandbox.Namespace{FreshProc: true}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, w) })
	r, err := w.Begin(t.Context(), Ground{})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	if err := r.FS().Put(rootfs.Entry{Name: "test", Mode: 0o755}, exe); err != nil {
		t.Fatal(err)
	}
	c, _ := commit(t, r)
	c.Release()
	err = r.Run(t.Context(), sandbox.Process{Args: []string{"/test", "-test.run=NoSuchTest"}, Dir: "/"})
	var exit *sandbox.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.Code == 127) { // 127: the test binary is not static
		t.Fatal(err)
	}
	if _, got := commit(t, r); got != "dev proc sys" {
		t.Errorf("the RUN changed %q", got)
	}
}

func TestParseMountinfo(t *testing.T) {
	got, err := parseMountinfo(strings.NewReader(
		"22 1 254:0 / / rw - ext4 /dev/vda rw\n" +
			"30 22 0:5 / /proc rw - proc proc rw\n" +
			`31 22 0:6 / /mnt/a\040b\134c rw shared:1 - tmpfs tmpfs rw` + "\n"))
	if err != nil || fmt.Sprint(got) != `[/proc /mnt/a b\c]` {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := parseMountinfo(strings.NewReader("garbage\n")); err == nil {
		t.Error("garbage has mount points")
	}
}

// Names of one file stay names of one file in what is kept.
func TestKeepHardLinks(t *testing.T) {
	nstest.Need(t)
	w, root := inPlace(t)
	r, err := w.Begin(t.Context(), Ground{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, r.FS(), "a", "x")
	if err := os.Link(filepath.Join(root, "a"), filepath.Join(root, "b")); err != nil {
		t.Fatal(err)
	}
	kept, err := r.Keep(t.Context(), []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	x, xerr := kept.Lstat("a")
	y, yerr := kept.Lstat("b")
	if xerr != nil || yerr != nil || x.Inode != y.Inode || x.Nlink != 2 {
		t.Errorf("a is %+v, %v and b is %+v, %v", x, xerr, y, yerr)
	}
}

// Clear empties the root but for what is left alone, so that the next build in
// the container starts from nothing.
func TestInPlaceClear(t *testing.T) {
	nstest.Need(t)
	w, root := inPlace(t)
	r, err := w.Begin(t.Context(), Ground{Image: Image{Key: "k", Layers: []v1.Layer{layerOf(t, "bin/sh=#!", "var/lib/x=1")}}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, r.FS(), "made", "x")
	if err := w.Clear(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"bin": false, "made": false, "var/lib": false, "kaniko/work": true, "workspace/src": true, "var/run/secrets/token": true} {
		if _, err := os.Stat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// cutLayer is a layer that breaks off the first times that it is read.
type cutLayer struct {
	v1.Layer
	cuts *int
}

func (c cutLayer) Compressed() (io.ReadCloser, error) {
	rc, err := c.Layer.Compressed()
	if err == nil && *c.cuts > 0 {
		*c.cuts--
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(rc, 60), iotest.ErrReader(io.ErrUnexpectedEOF)), rc}, nil
	}
	return rc, err
}

// A layer whose extraction breaks off is extracted again, as often as asked.
func TestExtractRetries(t *testing.T) {
	for retries, cuts := range map[int]int{2: 2, 1: 2, 0: 1} {
		left := cuts
		report := quiet
		report.Retries = retries
		l := cutLayer{layerOf(t, "dir/", "dir/a=1", "dir/l=->a", "b=2"), &left}
		dir := filepath.Join(t.TempDir(), "x")
		err := extractTo(t.Context(), dir, Image{Layers: []v1.Layer{l}}, report)
		if retries < cuts {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d retries: %v", retries, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "dir/l")); err != nil || string(got) != "1" {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// A stage that needs files can stand on one of which only the outline is known:
// what that added is in layers, also in those that are still being written.
func TestRootsOnOutlines(t *testing.T) {
	base := Image{Key: "aa", Layers: []v1.Layer{layerOf(t, "a=1", "b=2")}}
	each(t, func(t *testing.T, w begin) {
		o := NewOutlines(t.TempDir(), forgetful{}, time.Now)
		defer o.Close()
		parent, err := o.Begin(t.Context(), Ground{Image: base})
		if err != nil {
			t.Fatal(err)
		}
		put(t, parent.FS(), "c", "3")
		if err := parent.FS().Remove("a"); err != nil {
			t.Fatal(err)
		}
		c, got := commit(t, parent)
		if got != "-a c" {
			t.Errorf("changed: %q", got)
		}
		blob, err := layer.NewBlob(t.TempDir(), layer.Compression{})
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan error, 1)
		time.AfterFunc(50*time.Millisecond, func() {
			written <- blob.Fill(context.Background(), c.FS, c.Changes, layer.WriteOptions{})
		})
		r, err := w.Begin(t.Context(), Ground{Image: base, Parent: parent, Layers: []v1.Layer{blob}})
		if err := errors.Join(err, <-written); err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got := content(t, r.FS(), "b") + content(t, r.FS(), "c"); got != "23" {
			t.Errorf("the root shows %q", got)
		}
		if _, err := r.FS().Lstat("a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a, which the parent removed: %v", err)
		}
		if _, got := commit(t, r); got != "" {
			t.Errorf("nothing was done and %q changed", got)
		}
		// Another outline on the same parent has what that has.
		other, err := o.Begin(t.Context(), Ground{Image: base, Parent: parent})
		if err != nil {
			t.Fatal(err)
		}
		put(t, other.FS(), "d", "4")
		if _, err := parent.FS().Lstat("d"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("d, which is the other's: %v", err)
		}
		if got := content(t, other.FS(), "c") + content(t, other.FS(), "b"); got != "32" {
			t.Errorf("the other shows %q", got)
		}
	})
}

// forgetful makes every index when it is asked for it.
type forgetful struct{}

func (forgetful) Index(ctx context.Context, l v1.Layer, _ bool) (io.ReadCloser, error) {
	var buf bytes.Buffer
	err := layer.WriteIndex(ctx, l, &buf)
	return io.NopCloser(&buf), err
}

func (forgetful) Known(context.Context, v1.Layer) (io.ReadCloser, error) { return nil, nil }

func (forgetful) Record(_ context.Context, _ v1.Layer, extract func(index io.Writer) error) error {
	return extract(nil)
}
