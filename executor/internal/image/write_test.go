package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func someImage(t *testing.T) v1.Image {
	t.Helper()
	l := newLayer(t)
	img, err := Assemble(Input{Base: baseImage(t, 1), Layers: []v1.Layer{l, l}, History: []v1.History{{}, {}}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// readLayout returns the only image of a layout and its descriptor.
func readLayout(t *testing.T, dir string) (v1.Image, v1.Descriptor) {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 {
		t.Fatalf("layout holds %d manifests", len(m.Manifests))
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img, m.Manifests[0]
}

// A layout holds the image, whole and named; writing another replaces it and
// leaves no blob of the first behind, nor touches a file that is no blob.
func TestWriteLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "layout")
	first, second := someImage(t), someImage(t)
	for _, img := range []v1.Image{first, second, second} {
		if err := WriteLayout(t.Context(), dir, img, "reg:5000/app:v1"); err != nil {
			t.Fatal(err)
		}
		got, desc := readLayout(t, dir)
		if err := validate.Image(got); err != nil {
			t.Fatal(err)
		}
		want, _ := img.Digest()
		if desc.Digest != want || desc.Annotations[refNameAnnotation] != "v1" || desc.Annotations[imageNameAnnotation] != "reg:5000/app:v1" {
			t.Errorf("descriptor = %+v", desc)
		}
		if err := os.WriteFile(filepath.Join(dir, "blobs/sha256/README"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 5 { // base layer, new layer, config, manifest, README
		t.Errorf("blobs = %v", entries)
	}
}

// A blob of the right size but wrong bytes is written anew.
func TestWriteLayoutRepairs(t *testing.T) {
	dir, img := t.TempDir(), someImage(t)
	if err := WriteLayout(t.Context(), dir, img, ""); err != nil {
		t.Fatal(err)
	}
	name, _ := img.ConfigName()
	path := filepath.Join(dir, "blobs/sha256", name.Hex)
	content, _ := os.ReadFile(path)
	content[0] ^= 1
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteLayout(t.Context(), dir, img, ""); err != nil {
		t.Fatal(err)
	}
	got, desc := readLayout(t, dir)
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	if desc.Annotations != nil {
		t.Errorf("an image without name has annotations %v", desc.Annotations)
	}
}

// The archive is read by docker's format reader under all its tags and is an
// OCI layout as well; equal images give equal bytes.
func TestWriteTar(t *testing.T) {
	dir, img := t.TempDir(), someImage(t)
	path := filepath.Join(dir, "img.tar")
	tags := []string{"example.com/app:v1", "example.com/app:latest"}
	if err := WriteTar(t.Context(), path, img, tags); err != nil {
		t.Fatal(err)
	}
	wantConfig, _ := img.ConfigName()
	for _, tag := range tags {
		ref, _ := name.NewTag(tag)
		got, err := tarball.ImageFromPath(path, &ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(got); err != nil {
			t.Error(err)
		}
		if c, _ := got.ConfigName(); c != wantConfig {
			t.Errorf("image id = %s, want %s", c, wantConfig)
		}
	}
	again := filepath.Join(dir, "again.tar")
	if err := WriteTar(t.Context(), again, img, tags); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(path)
	b, _ := os.ReadFile(again)
	if !bytes.Equal(a, b) {
		t.Error("two archives of one image differ")
	}
	files := untar(t, path)
	var index v1.IndexManifest
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	d, _ := img.Digest()
	if len(index.Manifests) != 2 || index.Manifests[0].Digest != d || files[blobPath(d)] == nil {
		t.Errorf("index = %+v", index)
	}
	if string(files["oci-layout"]) != layoutFile {
		t.Errorf("oci-layout = %s", files["oci-layout"])
	}
}

func untar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, dup := files[h.Name]; dup {
			t.Errorf("%s is in the archive twice", h.Name)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

// lyingLayer says it has the digest of another.
type lyingLayer struct {
	v1.Layer
	content string
}

func (l lyingLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(l.content)), nil
}

// A layer whose bytes are not what its digest says, or a cancelled write,
// fails the write and leaves no archive and no index.
func TestWriteVerifies(t *testing.T) {
	good := newLayer(t)
	size, _ := good.Size()
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	cancel(stop)
	for name, tc := range map[string]struct {
		ctx   context.Context
		layer v1.Layer
		want  string
	}{
		"other bytes": {t.Context(), lyingLayer{good, strings.Repeat("x", int(size))}, "is corrupt"},
		"too short":   {t.Context(), lyingLayer{good, "x"}, "as its descriptor says"},
		"cancelled":   {ctx, good, "enough"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			img, err := Assemble(Input{Platform: linux(), Layers: []v1.Layer{tc.layer}, History: []v1.History{{}}})
			if err != nil {
				t.Fatal(err)
			}
			if err := WriteTar(tc.ctx, filepath.Join(dir, "a.tar"), img, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("WriteTar: %v, want %q", err, tc.want)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("left behind: %v", entries)
			}
			if err := WriteLayout(tc.ctx, dir, img, ""); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("WriteLayout: %v, want %q", err, tc.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "index.json")); err == nil {
				t.Error("a failed write has an index")
			}
		})
	}
}

// Names without a tag and registries with a port are told apart.
func TestTagOf(t *testing.T) {
	for in, want := range map[string]string{"app:v1": "v1", "reg:5000/app": "reg:5000/app", "reg:5000/app:x": "x", "app": "app"} {
		if got := tagOf(in); got != want {
			t.Errorf("tagOf(%q) = %q, want %q", in, got, want)
		}
	}
}
