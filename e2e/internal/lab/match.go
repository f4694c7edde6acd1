package lab

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
)

// Match builds with BuildKit and in both modes of the executor and fails the
// test for every difference.
func (l *Lab) Match(t *testing.T, name string, b Build) {
	t.Helper()
	want, err := l.BuildKit(t.Context(), "buildkit/"+name, b)
	check(t, err)
	t.Run("overlay", func(t *testing.T) { l.MatchMode(t, want.Ref, name, b, l.Overlay) })
	t.Run("inplace", func(t *testing.T) { l.MatchMode(t, want.Ref, name, b, l.InPlace) })
}

// MatchMode builds in one mode and compares with the image that want names.
func (l *Lab) MatchMode(t *testing.T, want, name string, b Build, mode Mode) {
	t.Helper()
	out, err := l.Guard(t, name, b, mode)
	if err == nil && out.Error != "" {
		err = errors.New(out.Log)
	}
	check(t, err)
	x, err := l.Image(t.Context(), want, b.Platform)
	check(t, err)
	y, err := l.Image(t.Context(), out.Ref, b.Platform)
	check(t, err)
	diffs, err := l.trees.Images(t.Context(), x, y, compare.Options{Layers: true})
	check(t, err)
	for _, d := range diffs {
		t.Errorf("BuildKit | ours: %s", d)
	}
}

// Guard builds in one mode and fails the test if that changed the host.
func (l *Lab) Guard(t testing.TB, name string, b Build, mode Mode) (Outcome, error) {
	t.Helper()
	own := filepath.Dir(t.TempDir())
	before, err := HostState(own)
	check(t, err)
	out, err := mode(t, name, b)
	after, herr := HostState(own)
	check(t, herr)
	if !slices.Equal(before, after) {
		t.Errorf("the build changed the host's root or mounts:\nbefore %q\nafter  %q", before, after)
	}
	return out, err
}
