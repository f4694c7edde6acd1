package baseimage

import (
	"os"
	"slices"
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

// TestBusybox proves that the image of this machine's architecture differs from
// the other one in what it says of it only.
func TestBusybox(t *testing.T) {
	_, images, err := Busybox(t.Context(), need.Command(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	diffs, err := compare.Images(t.Context(), images[0], images[1], compare.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range diffs {
		got = append(got, d.Part+" "+d.Where+" "+d.Field)
	}
	if want := []string{"config architecture ", "tree /etc/arch sha256"}; !slices.Equal(got, want) {
		t.Errorf("differences in %q, want %q", got, want)
	}
}
