package baseimage

import (
	"os"
	"testing"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/need"
)

// TestImages proves that the layers of both images apply and are what their
// configs say.
func TestImages(t *testing.T) {
	need.Command(t, "mmdebstrap")
	need.Root(t)
	dir, err := cache.Default()
	if err != nil {
		t.Fatal(err)
	}
	debian, err := Debian(t.Context(), dir, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	odd, err := Odd(debian)
	if err != nil {
		t.Fatal(err)
	}
	diffs, err := compare.Images(t.Context(), debian, odd, compare.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(diffs) < 30 {
		t.Errorf("only %d differences: %v", len(diffs), diffs)
	}
}
