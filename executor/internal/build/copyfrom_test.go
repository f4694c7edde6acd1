package build

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/nstest"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/step"
	"github.com/kilnhook/kiln/executor/internal/store"
	"github.com/kilnhook/kiln/executor/internal/workspace"
)

// source is a path that a COPY --from may name, of an image of this world.
func (w world) source() string {
	return w.pick(w.name(), w.pick("a", "b", "d", "etc"), w.pick("a", "b", "d", "link", "etc")+"/*", w.pick("a", "b", "d")+"/?",
		"link", "link/"+w.pick("a", "b", "c"), "*/a", "?", "etc/passwd", ".")
}

// What is copied from an image of which only some files are read is what is copied
// from the extracted image, links on the way and to files elsewhere included.
func TestCopiesFromImagesThatAreNotExtracted(t *testing.T) {
	nstest.Need(t)
	quiet := workspace.Report{Bytes: func(string, int64, int64) {}, Note: func(string) {}}
	var compared, errs int
	for seed := range uint64(500) {
		w := world{rand.New(rand.NewPCG(seed, 2)), t} //nolint:gosec // to be repeated
		image := workspace.Image{Key: fmt.Sprint(seed), Layers: w.image()}
		if !extracts(t, image.Layers) {
			continue
		}
		var ops []plan.Copy
		var paths []string
		for range 4 {
			op := plan.Copy{Paths: []string{w.source()}, From: plan.Source{Image: "image"}}
			op.Dest = w.pick("/to", "/to/", "/deep/er/")
			if w.IntN(4) == 0 {
				op.Paths, op.Dest = append(op.Paths, w.source()), "/to/"
			}
			if w.IntN(6) == 0 {
				op.Parents = []string{".", "."}[:len(op.Paths)]
			}
			ops = append(ops, op)
			paths = append(paths, op.Reads()...)
		}
		dir := t.TempDir()
		o, err := workspace.NewOverlay(dir, sandbox.Namespace{FreshProc: true}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		real, err := o.Image(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := store.Open(filepath.Join(dir, "store"), store.Options{Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		outlines := workspace.NewOutlines(dir, kept, time.Now)
		thought, err := outlines.Image(t.Context(), image, paths)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range image.Layers { // so that they are known the second time
			rc, err := kept.Index(t.Context(), l, false)
			if err != nil {
				t.Fatal(err)
			}
			_ = rc.Close()
		}
		known, err := outlines.Image(t.Context(), image, paths)
		if err != nil {
			t.Fatal(err)
		}
		for n, op := range ops {
			compared++
			want := copied(t, op, real)
			if want == "error" {
				errs++
			}
			for what, from := range map[string]rootfs.FS{"not extracted": thought, "not extracted, indexes known": known} {
				if got := copied(t, op, from); want != got {
					t.Errorf("seed %d, operation %d, %+v\nextracted:\n%s%s:\n%s", seed, n, op, want, what, got)
				}
			}
		}
		_ = outlines.Close()
		_ = o.Close()
	}
	t.Logf("%d operations compared, %d of them errors", compared, errs)
	if compared-errs < 200 {
		t.Errorf("too few operations succeed for the comparison to say much: %d, and %d do not", compared-errs, errs)
	}
}

// copied is the layer that a COPY from a tree makes.
func copied(t *testing.T, op plan.Copy, from rootfs.FS) string {
	t.Helper()
	root, done := beginKind(t, "outline", workspace.Image{}, workspace.Report{})
	defer done()
	in := step.Inputs{From: from, Spool: t.TempDir(), Now: func() time.Time { return time.Unix(1, 0) }, Wrote: func(string) {}}
	if err := step.Do(t.Context(), root.FS(), op, in); err != nil {
		return "error"
	}
	c, err := root.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	var buf bytes.Buffer
	if err := layer.Write(t.Context(), &buf, c.FS, c.Changes, layer.WriteOptions{Clamp: clampTime()}); err != nil {
		t.Fatal(err)
	}
	return listing(t, &buf)
}
