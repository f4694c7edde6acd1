package registryd

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/e2e/need"
)

// TestRestart proves that two registries run side by side and that one started
// again on the same directory has what was pushed before.
func TestRestart(t *testing.T) {
	program := need.Command(t, "docker-registry")
	dir := t.TempDir()
	img, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	start := func(dir string) (*Registry, name.Reference) {
		r, err := Start(t.Context(), program, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Stop(); err != nil {
				t.Error(err)
			}
		})
		ref, err := name.ParseReference(r.Host + "/some/app:tag")
		if err != nil {
			t.Fatal(err)
		}
		return r, ref
	}
	first, ref := start(dir)
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	_, other := start(t.TempDir())
	if _, err := remote.Head(other); err == nil {
		t.Error("two registries share their images")
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	_, ref = start(dir)
	if got, err := remote.Head(ref); err != nil || got.Digest != want {
		t.Errorf("after a restart got %v, %v; want %v", got, err, want)
	}
}
