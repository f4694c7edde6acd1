package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// What was written is read again with its digest, from a layout and from an
// archive; an archive of docker save is read too.
func TestRead(t *testing.T) {
	img, err := Assemble(Input{Platform: linux(), Created: created(), Layers: []v1.Layer{newLayer(t), newLayer(t)}, History: []v1.History{{}, {}}})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := img.Digest()
	dir := t.TempDir()
	if err := WriteLayout(t.Context(), filepath.Join(dir, "layout"), img, "a:1"); err != nil {
		t.Fatal(err)
	}
	if err := WriteTar(t.Context(), filepath.Join(dir, "image.tar"), img, []string{"a:1", "a:2"}); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"layout", "image.tar"} {
		got, err := Read(filepath.Join(dir, from), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if digest, err := got.Digest(); err != nil || digest != want {
			t.Errorf("%s: digest %s, %v, want %s", from, digest, err, want)
		}
		if err := validate.Image(got); err != nil {
			t.Errorf("%s: %v", from, err)
		}
	}
	base := baseImage(t, 2)
	if err := tarball.WriteToFile(filepath.Join(dir, "saved.tar"), name.MustParseReference("b:1"), base); err != nil {
		t.Fatal(err)
	}
	saved, err := Read(filepath.Join(dir, "saved.tar"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if layers, err := saved.Layers(); err != nil || len(layers) != 2 {
		t.Errorf("layers = %v, %v", layers, err)
	}
}

// What is no image says so.
func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte(strings.Repeat("text", 300)), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"gone": "no such file", "text": "not an image archive", ".": "not an OCI image layout"} {
		if _, err := Read(filepath.Join(dir, name), t.TempDir()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// FuzzRead finds panics and escapes of the reader of archives.
func FuzzRead(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a.tar"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		temp := filepath.Join(dir, "temp")
		if err := os.Mkdir(temp, 0o700); err != nil {
			t.Fatal(err)
		}
		_, _ = Read(filepath.Join(dir, "a.tar"), temp)
		if left, _ := os.ReadDir(dir); len(left) != 2 {
			t.Errorf("written outside: %v", left)
		}
	})
}
