package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/nstest"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/step"
	"github.com/kilnhook/kiln/executor/internal/store"
	"github.com/kilnhook/kiln/executor/internal/workspace"
)

func TestMain(m *testing.M) {
	if status, acted := sandbox.Child(os.Args, os.Environ(), os.Stdout, os.Stderr); acted {
		os.Exit(status)
	}
	nstest.Main(m)
}

// tarLayer is a layer of an archive that is not compressed.
func tarLayer(t *testing.T, raw []byte) v1.Layer {
	t.Helper()
	return static.NewLayer(raw, types.OCIUncompressedLayer)
}

// world makes random images, contexts and operations, in which names meet often.
type world struct {
	*rand.Rand
	t *testing.T
}

func (w world) pick(from ...string) string { return from[w.IntN(len(from))] }

// name is a path of up to three components.
func (w world) name() string {
	parts := []string{w.pick("a", "b", "etc", "link", "d")}
	for range w.IntN(3) {
		parts = append(parts, w.pick("a", "b", "c", "link", "x"))
	}
	return strings.Join(parts, "/")
}

func (w world) mode() int64 {
	return []int64{0o644, 0o755, 0o600, 0o700, 0o4755, 0o1777, 0o2755}[w.IntN(7)]
}

// when is one of few times, so that equal ones meet, all before the clamp.
func (w world) when() time.Time { return time.Unix(int64(4e8+w.IntN(3)), 0) }

func (w world) target() string {
	return w.pick("a", "/a", "../a", "b/c", "/d", "../../..", "link", "/nowhere/x", "c", ".", "/etc")
}

// image is a stack of layers as other tools write them, whiteouts included.
func (w world) image() []v1.Layer {
	var out []v1.Layer
	for range 1 + w.IntN(3) {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		add := func(h tar.Header, body string) {
			h.Size, h.ModTime, h.Uid, h.Gid = int64(len(body)), w.when(), w.IntN(3)*1000, w.IntN(2)*1000
			if h.Mode == 0 {
				h.Mode = w.mode()
			}
			if err := errors.Join(tw.WriteHeader(&h), second(tw.Write([]byte(body)))); err != nil {
				w.t.Fatal(err)
			}
		}
		if len(out) == 0 {
			add(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, "")
			add(tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
			add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg}, "root:x:0:0::/:\nann:x:1000:1001::/home/ann:\n")
			add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg}, "staff:x:50:ann\n")
		}
		files := []string{"etc/passwd"}
		for range w.IntN(25) {
			name := w.name()
			if strings.HasPrefix(name, "etc/passwd") || strings.HasPrefix(name, "etc/group") {
				continue
			}
			switch w.IntN(10) {
			case 0, 1, 2:
				add(tar.Header{Name: name, Typeflag: tar.TypeReg}, w.pick("", "1", "22"))
				files = append(files, name)
			case 3, 4, 5:
				h := tar.Header{Name: name + "/", Typeflag: tar.TypeDir}
				if w.IntN(4) == 0 {
					h.PAXRecords = map[string]string{"SCHILY.xattr.user.k": "v"}
				}
				add(h, "")
			case 6, 7:
				add(tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: w.target()}, "")
			case 8:
				add(tar.Header{Name: rootfs.Join(rootfs.Parent(name), ".wh."+w.pick("a", "b", "link")), Typeflag: tar.TypeReg}, "")
			case 9:
				add(tar.Header{Name: rootfs.Join(rootfs.Parent(name), ".wh..wh..opq"), Typeflag: tar.TypeReg}, "")
			}
		}
		if err := tw.Close(); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, tarLayer(w.t, buf.Bytes()))
	}
	return out
}

func second[T any](_ T, err error) error { return err }

// context is a build context with names that images have too.
func (w world) context() *rootfs.Mem {
	m := rootfs.NewMem()
	put := func(e rootfs.Entry, body string) {
		e.ModTime = w.when()
		if err := m.Put(e, strings.NewReader(body)); err != nil {
			w.t.Fatal(err)
		}
	}
	put(rootfs.Entry{Name: "t", Mode: fs.ModeDir | 0o755}, "")
	for _, dir := range []string{"t/a", "t/b", "t/link", "t/a/c"} {
		if _, err := m.Lstat(rootfs.Parent(dir)); err == nil && w.IntN(3) > 0 {
			put(rootfs.Entry{Name: dir, Mode: fs.ModeDir | 0o755}, "")
		}
	}
	for _, f := range []string{"f", "t/x", "t/a/b", "t/b/a", "t/link/c", "t/a/c/x"} {
		if _, err := m.Lstat(rootfs.Parent(f)); err == nil {
			put(rootfs.Entry{Name: f, Mode: fs.FileMode(w.mode() & 0o777)}, w.pick("", "1", "22"))
		}
	}
	if w.IntN(2) == 0 {
		put(rootfs.Entry{Name: "t/ln", Mode: fs.ModeSymlink | 0o777, Link: w.target()}, "")
	}
	if w.IntN(2) == 0 {
		put(rootfs.Entry{Name: "t/hard", Mode: 0o644, Hard: true, Link: "f"}, "")
	}
	put(rootfs.Entry{Name: "x.tar", Mode: 0o644}, string(w.archive()))
	return m
}

// archive is what ADD unpacks: links into what the image has among it.
func (w world) archive() []byte {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for range 1 + w.IntN(6) {
		h := tar.Header{Name: w.name(), Mode: w.mode(), ModTime: w.when(), Uid: w.IntN(2) * 1000}
		body := ""
		switch w.IntN(6) {
		case 0, 1:
			h.Typeflag, body = tar.TypeReg, w.pick("1", "22")
		case 2:
			h.Typeflag = tar.TypeDir
		case 3:
			h.Typeflag, h.Linkname = tar.TypeSymlink, w.target()
		case 4:
			h.Typeflag, h.Linkname = tar.TypeLink, w.name()
		case 5:
			h.Typeflag = tar.TypeFifo
		}
		h.Size = int64(len(body))
		if err := errors.Join(tw.WriteHeader(&h), second(tw.Write([]byte(body)))); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		w.t.Fatal(err)
	}
	return buf.Bytes()
}

// op is an operation for which no process runs.
func (w world) op() plan.Op {
	dest := "/" + w.name()
	if w.IntN(2) == 0 {
		dest += "/"
	}
	p := plan.Placing{Dest: dest, Chown: w.pick("", "", "", "", "", "ann", "ann", "7:staff", "7:staff", "nobody"), Chmod: w.pick("", "", "0750", "u+x"), Link: w.IntN(6) == 0}
	switch w.IntN(8) {
	case 0:
		return plan.Workdir{Path: "/" + w.name(), User: w.pick("", "ann")}
	case 1, 2:
		return plan.Add{Placing: p, Paths: []string{"x.tar"}}
	case 3:
		return plan.Copy{Placing: p, Files: []plan.File{{Name: "in", Content: "line\n"}}}
	}
	return plan.Copy{Placing: p, Paths: [][]string{{"t"}, {"f"}, {"t/a", "f"}, {"t/*"}}[w.IntN(4)]}
}

// clampTime is later than every time of an image or a context, and earlier than
// now: what a filesystem or a clock gave can be told from what was given.
func clampTime() time.Time { return time.Unix(1e9, 0) }

// outcome is what a sequence of operations made: the layer of each as text, or
// its error, which ends it.
func outcome(t *testing.T, r workspace.Root, files rootfs.FS, ops []plan.Op) []string {
	t.Helper()
	var out []string
	for _, op := range ops {
		var wrote []string
		in := step.Inputs{Context: files, Spool: t.TempDir(), Now: time.Now, Wrote: func(name string) { wrote = append(wrote, name) }}
		if err := step.Do(t.Context(), r.FS(), op, in); err != nil {
			return append(out, "error")
		}
		c, err := r.Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if stands(op) {
			c.Changes = alone(c.FS, wrote)
		}
		var buf bytes.Buffer
		if err := layer.Write(t.Context(), &buf, c.FS, c.Changes, layer.WriteOptions{Clamp: clampTime()}); err != nil {
			t.Fatal(err)
		}
		c.Release()
		out = append(out, listing(t, &buf))
	}
	return out
}

// listing shows an archive.
func listing(t *testing.T, r io.Reader) string {
	t.Helper()
	var out strings.Builder
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%c %s %o %d:%d %d %q %v %q\n", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Linkname, h.PAXRecords, body)
	}
}

// Whatever an image holds and whatever is put onto it, a root of which only the
// outline is known gives the layers that a real one gives.
func TestOutlinesAreAsRealRoots(t *testing.T) {
	nstest.Need(t)
	quiet := workspace.Report{Bytes: func(string, int64, int64) {}, Note: func(string) {}}
	var failed, operations, errs int
	for seed := range uint64(600) {
		w := world{rand.New(rand.NewPCG(seed, 1)), t} //nolint:gosec // to be repeated
		image := workspace.Image{Key: fmt.Sprint(seed), Layers: w.image()}
		if seed%8 != 0 && !extracts(t, image.Layers) {
			continue // few images that cannot be extracted are enough
		}
		files := w.context()
		var ops []plan.Op
		for range 6 {
			ops = append(ops, w.op())
		}
		got := map[string][]string{}
		for _, kind := range []string{"outline", "overlay", "inplace"} {
			root, done := beginKind(t, kind, image, quiet)
			if root == nil {
				got[kind] = []string{"no root"}
				continue
			}
			got[kind] = outcome(t, root, files, ops)
			done()
		}
		for _, kind := range []string{"overlay", "inplace"} {
			for n := range max(len(got[kind]), len(got["outline"])) {
				operations++
				var a, b string
				if n < len(got[kind]) && got[kind][n] == "error" {
					errs++
				}
				if n < len(got["outline"]) {
					a = got["outline"][n]
				}
				if n < len(got[kind]) {
					b = got[kind][n]
				}
				if a != b {
					t.Errorf("seed %d, operation %d, %T %+v\noutline:\n%s%s:\n%s", seed, n, ops[n], ops[n], a, kind, b)
					failed++
					break
				}
			}
		}
		if failed > 5 {
			t.FailNow()
		}
	}
	t.Logf("%d operations compared, %d of them errors", operations, errs)
	if operations-errs < 300 {
		t.Errorf("too few operations succeed for the comparison to say much: %d, and %d do not", operations-errs, errs)
	}
}

// extracts tells whether an image makes sense.
func extracts(t *testing.T, layers []v1.Layer) bool {
	t.Helper()
	m := rootfs.NewMem()
	for _, l := range layers {
		if layer.Extract(t.Context(), m, l, layer.ApplyOptions{}, nil) != nil {
			return false
		}
	}
	return true
}

func beginKind(t *testing.T, kind string, image workspace.Image, quiet workspace.Report) (workspace.Root, func()) {
	t.Helper()
	var begin interface {
		Begin(ctx context.Context, g workspace.Ground) (workspace.Root, error)
	}
	done := func() {}
	dir := t.TempDir()
	switch kind {
	case "outline":
		kept, err := store.Open(filepath.Join(dir, "store"), store.Options{Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		o := workspace.NewOutlines(dir, kept, time.Now)
		done = func() { _ = o.Close() }
		begin = o
	case "overlay":
		o, err := workspace.NewOverlay(dir, sandbox.Namespace{FreshProc: true}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		done = func() { _ = o.Close() }
		begin = o
	case "inplace":
		root := filepath.Join(dir, "root")
		if err := os.MkdirAll(filepath.Join(root, "kiln"), 0o755); err != nil {
			t.Fatal(err)
		}
		o, err := workspace.NewInPlace(root, filepath.Join(root, "kiln"), nil, quiet)
		if err != nil {
			t.Fatal(err)
		}
		begin = o
	}
	r, err := begin.Begin(t.Context(), workspace.Ground{Image: image})
	if err != nil {
		done()
		return nil, nil
	}
	return r, func() { _ = r.Close(); done() }
}
