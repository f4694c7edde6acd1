package workspace

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/executor/internal/nstest"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// A directory is not mounted on a file, nor a file on a directory, and both
// workspaces say so in the same words.
func TestMountThatDoesNotFit(t *testing.T) {
	eachLab(t, func(t *testing.T, l lab) {
		src := sourceDir(t)
		for _, c := range []struct {
			mount Mount
			want  string
		}{
			{Mount{Target: "/etc/old", Source: src}, "start process: mount at /etc/old: what is there is not a directory"},
			{Mount{Target: "/etc/old", Tmpfs: true}, "start process: mount at /etc/old: what is there is not a directory"},
			{Mount{Target: "/opt/full", Source: src + "/a"}, "start process: mount at /opt/full: what is there is a directory"},
		} {
			if out, err := l.sh(t, ":", c.mount); err == nil || err.Error() != c.want {
				t.Errorf("%s: %v: %s; want %s", c.mount.Target, err, out, c.want)
			}
			k, changes := commit(t, l.root)
			if changes != "" {
				t.Errorf("%s: the layer has %q", c.mount.Target, changes)
			}
			k.Release()
		}
	})
}

// A directory that a step has just written to can be mounted over.
func TestMountOverUsedDirectory(t *testing.T) {
	eachLab(t, func(t *testing.T, l lab) {
		if err := l.root.FS().Put(rootfs.Entry{Name: "opt/full/y", Mode: 0o644}, strings.NewReader("y")); err != nil {
			t.Fatal(err)
		}
		got, err := l.sh(t, "ls $R/opt/full $R/opt/full/sub", Mount{Target: "/opt/full", Source: sourceDir(t), ReadOnly: true})
		if err != nil || !strings.Contains(got, "a\nsub") {
			t.Errorf("%v: %s", err, got)
		}
		k, changes := commit(t, l.root)
		defer k.Release()
		if changes != "opt/full/y" {
			t.Errorf("the layer has %q", changes)
		}
	})
}

// In place nothing keeps a tmpfs to a size.
func TestTmpfsSizeInPlace(t *testing.T) {
	nstest.Need(t)
	w, root := inPlace(t)
	r, err := w.Begin(t.Context(), Ground{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := (lab{r, root}).sh(t, ":", Mount{Target: "/t", Tmpfs: true, Size: 1 << 20}); !errors.Is(err, ErrTmpfsSize) {
		t.Errorf("%v: %s", err, out)
	}
}

// In place a directory that is there only because something below it is left
// alone is no part of a stage; one that the image has is.
func TestKeepOfTheImageOnly(t *testing.T) {
	w, _ := inPlace(t)
	for _, c := range []struct {
		files []string
		put   string
		want  []string
	}{
		{[]string{"a=1"}, "", []string{"a"}},
		{[]string{"a=1", "var/", "var/x=1"}, "", []string{"a", "var"}},
		{[]string{"a=1", "var/x=1"}, "", []string{"a", "var"}},
		{[]string{"a=1"}, "var/x", []string{"a", "var"}},
	} {
		r, err := w.Begin(t.Context(), Ground{Image: Image{Key: strings.Join(c.files, " "), Layers: []v1.Layer{layerOf(t, c.files...)}}})
		if err != nil {
			t.Fatal(err)
		}
		if c.put != "" {
			if err := r.FS().Put(rootfs.Entry{Name: c.put, Mode: 0o644}, strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
		}
		k, _ := commit(t, r)
		k.Release()
		tree, err := r.Keep(t.Context(), []string{"."})
		if err != nil {
			t.Fatal(err)
		}
		names, err := tree.List(".")
		if err != nil || !slices.Equal(names, c.want) {
			t.Errorf("%q and %q: kept %q, %v; want %q", c.files, c.put, names, err, c.want)
		}
		if below, err := tree.List("var"); err == nil && slices.Contains(below, "run") {
			t.Errorf("%q: kept var/run", c.files)
		}
	}
}

// In place a step makes such a directory anew, whoever it belongs to.
func TestMakeWhatIsThereForAMount(t *testing.T) {
	need.Root(t)
	w, _ := inPlace(t)
	for _, owner := range []int{5, 0} { // the second stage must not see what the first did
		r, err := w.Begin(t.Context(), Ground{})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := r.FS().Lstat("var"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("/var is there: %+v, %v", e, err)
		}
		if names, err := r.FS().List("."); err != nil || slices.Contains(names, "var") {
			t.Errorf("the root has %q, %v", names, err)
		}
		if err := r.FS().Put(rootfs.Entry{Name: "var", Mode: fs.ModeDir | 0o750, UID: owner, GID: owner}, nil); err != nil {
			t.Fatal(err)
		}
		e, err := r.FS().Lstat("var")
		if err != nil || e.UID != owner || e.Mode.Perm() != 0o750 {
			t.Errorf("/var is %+v, %v", e, err)
		}
		k, changes := commit(t, r)
		if changes != "var" {
			t.Errorf("the layer has %q", changes)
		}
		k.Release()
	}
}
