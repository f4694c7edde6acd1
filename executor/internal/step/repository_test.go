package step

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// A destination that is made for a repository is a copy of its top directory,
// owner and mode included; one that exists, or ends in a slash, is not.
func TestRepositoryDestination(t *testing.T) {
	repo := rootfs.NewMem()
	for _, e := range []rootfs.Entry{{Name: "d", Mode: fs.ModeDir | 0o755}, {Name: "d/f", Mode: 0o644}} {
		if err := repo.Put(e, strings.NewReader("f")); err != nil {
			t.Fatal(err)
		}
	}
	root := rootfs.NewMem()
	if err := root.Put(rootfs.Entry{Name: "there", Mode: fs.ModeDir | 0o711}, nil); err != nil {
		t.Fatal(err)
	}
	in := Inputs{Repo: func(context.Context, plan.Repo) (Repo, error) {
		return Repo{Files: repo, Close: func() error { return nil }}, nil
	}}
	for dest, want := range map[string]fs.FileMode{"/new": 0o700, "/deep/new": 0o700, "/slash/": 0o755, "/there": 0o711} {
		op := plan.Add{Placing: plan.Placing{Dest: dest, Chmod: "go-rwx", Chown: "3:4"}, Repos: []plan.Repo{{URL: "https://example.com/r.git"}}}
		if err := Do(t.Context(), root, op, in); err != nil {
			t.Fatal(err)
		}
		name := rootfs.Clean(dest)
		top, err := root.Lstat(name)
		if err != nil || top.Mode.Perm() != want || dest != "/there" && (top.UID != 3 || top.GID != 4) {
			t.Errorf("%s: %v %d:%d, %v; want mode %v", dest, top.Mode, top.UID, top.GID, err, want)
		}
		for below, mode := range map[string]fs.FileMode{"d": 0o700, "d/f": 0o600} {
			if e, err := root.Lstat(name + "/" + below); err != nil || e.Mode.Perm() != mode || e.UID != 3 {
				t.Errorf("%s: %s is %v of %d, %v; want %v", dest, below, e.Mode, e.UID, err, mode)
			}
		}
	}
	if e, err := root.Lstat("deep"); err != nil || e.Mode.Perm() != 0o755 {
		t.Errorf("/deep is %v, %v", e.Mode, err)
	}
}
