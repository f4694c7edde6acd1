package basecache

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func randomImage(t *testing.T) (v1.Image, v1.Hash) {
	t.Helper()
	img, err := random.Image(2000, 3)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return img, digest
}

func at(s string) func() time.Time {
	now, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return func() time.Time { return now }
}

// same fails unless an image has the digest and all its content is right.
func same(t *testing.T, img v1.Image, digest v1.Hash) {
	t.Helper()
	if got, err := img.Digest(); err != nil || got != digest {
		t.Errorf("digest %s, %v, want %s", got, err, digest)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
}

// What is put is found, until it expires; Renew begins its time anew.
func TestPut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "cache")
	img, _ := randomImage(t)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, layers[0]); err != nil { // one layer twice
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	d := Open(path, 24*time.Hour, at("2026-01-10"))
	if _, err := d.Image(digest); !errors.Is(err, ErrNotCached) {
		t.Errorf("error = %v", err)
	}
	if err := d.Put(t.Context(), img, "docker.io/library/a:1"); err != nil {
		t.Fatal(err)
	}
	got, err := d.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, digest)
	later := Open(path, 24*time.Hour, at("2026-01-12"))
	if _, err := later.Image(digest); !errors.Is(err, ErrExpired) {
		t.Errorf("error = %v", err)
	}
	if _, err := Open(path, 0, at("2036-01-12")).Image(digest); err != nil {
		t.Errorf("without a limit: %v", err)
	}
	if err := later.Verify(digest); err != nil {
		t.Error(err)
	}
	if err := later.Renew(digest); err != nil {
		t.Fatal(err)
	}
	if got, err = later.Image(digest); err != nil {
		t.Fatal(err)
	}
	same(t, got, digest)
	// Docker can load the archive.
	fromTar, err := tarball.ImageFromPath(filepath.Join(path, digest.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(fromTar); err != nil {
		t.Error(err)
	}
	if files, _ := filepath.Glob(path + "/.new-*"); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}

// Volumes that kaniko's warmers have filled are read: the archive with a
// manifest beside it, and the layout.
func TestKanikoForms(t *testing.T) {
	img, digest := randomImage(t)
	ref, err := name.NewTag("reg.example/a:1")
	if err != nil {
		t.Fatal(err)
	}
	for form, write := range map[string]func(dir string) error{
		"archive": func(dir string) error {
			raw, err := img.RawManifest()
			return errors.Join(err, tarball.WriteToFile(filepath.Join(dir, digest.String()), ref, img),
				os.WriteFile(filepath.Join(dir, digest.String()+".json"), raw, 0o600))
		},
		"layout": func(dir string) error {
			p, err := layout.Write(filepath.Join(dir, digest.String()), mutate.AppendManifests(emptyIndex{}, mutate.IndexAddendum{Add: img}))
			_ = p
			return err
		},
	} {
		dir := t.TempDir()
		if err := write(dir); err != nil {
			t.Fatal(form, err)
		}
		d := Open(dir, 24*time.Hour, time.Now)
		got, err := d.Image(digest)
		if err != nil {
			t.Fatal(form, err)
		}
		same(t, got, digest)
		if err := d.Verify(digest); err != nil {
			t.Error(form, err)
		}
		if err := d.Put(t.Context(), img, "a"); err != nil { // over what was there
			t.Fatal(form, err)
		}
		if got, err = d.Image(digest); err != nil {
			t.Fatal(form, err)
		}
		same(t, got, digest)
	}
}

type emptyIndex struct{}

func (emptyIndex) MediaType() (types.MediaType, error) { return types.OCIImageIndex, nil }
func (emptyIndex) Digest() (v1.Hash, error)            { return v1.Hash{}, nil }
func (emptyIndex) Size() (int64, error)                { return 0, nil }
func (emptyIndex) IndexManifest() (*v1.IndexManifest, error) {
	return &v1.IndexManifest{SchemaVersion: 2}, nil
}
func (emptyIndex) RawManifest() ([]byte, error)              { return []byte("{}"), nil }
func (emptyIndex) Image(v1.Hash) (v1.Image, error)           { return nil, errors.New("none") }
func (emptyIndex) ImageIndex(v1.Hash) (v1.ImageIndex, error) { return nil, errors.New("none") }

// What is not what its name says is never given out.
func TestDamaged(t *testing.T) {
	img, digest := randomImage(t)
	other, _ := randomImage(t)
	manifest, _ := other.RawManifest()
	config, _ := img.RawConfigFile()
	layers, _ := img.Layers()
	rc, err := layers[1].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	damage := func(part []byte) func(dir string) error {
		return func(dir string) error {
			path := filepath.Join(dir, digest.String())
			raw, err := os.ReadFile(path)
			at := bytes.Index(raw, part)
			if err != nil || at < 0 {
				return fmt.Errorf("not found: %w", err)
			}
			raw[at+len(part)/2] ^= 1
			return os.WriteFile(path, raw, 0o600)
		}
	}
	for what, tc := range map[string]struct {
		do      func(dir string) error
		opens   bool
		message string
	}{
		"manifest": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, digest.String()+".json"), manifest, 0o600)
		}, false, "another digest than its name says"},
		"no manifest": {func(dir string) error { return os.Remove(filepath.Join(dir, digest.String()+".json")) }, false, "no such file"},
		"config":      {damage(config), false, "read config: the content of"},
		"layer":       {damage(layer), true, "has the digest sha256:"},
		"cut":         {func(dir string) error { return os.Truncate(filepath.Join(dir, digest.String()), 3000) }, false, "read archive"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			d := Open(dir, 0, time.Now)
			if err := d.Put(t.Context(), img, "a"); err != nil {
				t.Fatal(err)
			}
			if err := tc.do(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Image(digest); (err == nil) != tc.opens || err != nil && errors.Is(err, ErrNotCached) {
				t.Errorf("Image: %v", err)
			}
			if err := d.Verify(digest); err == nil || !strings.Contains(err.Error(), tc.message) {
				t.Errorf("Verify: %v, want %q", err, tc.message)
			}
		})
	}
}

// failing is an image one of whose layers cannot be read.
type failing struct{ v1.Image }

func (f failing) Layers() ([]v1.Layer, error) {
	layers, err := f.Image.Layers()
	layers[2] = brokenLayer{layers[2]}
	return layers, err
}

type brokenLayer struct{ v1.Layer }

func (b brokenLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader("short"), iotestErr{})), nil
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errors.New("cable cut") }

// A put that fails leaves nothing that could be taken for an image.
func TestPutFails(t *testing.T) {
	img, digest := randomImage(t)
	dir := t.TempDir()
	d := Open(dir, 0, time.Now)
	err := d.Put(t.Context(), failing{img}, "a:1")
	if err == nil || !strings.Contains(err.Error(), "write a:1 to the cache of base images") || !strings.Contains(err.Error(), "cable cut") {
		t.Errorf("error = %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("told to stop"))
	if err := d.Put(ctx, img, "a:1"); err == nil || !strings.Contains(err.Error(), "told to stop") {
		t.Errorf("error = %v", err)
	}
	if _, err := d.Image(digest); !errors.Is(err, ErrNotCached) {
		t.Errorf("Image: %v", err)
	}
	if files, _ := filepath.Glob(dir + "/.new-*"); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}

// A name is recalled for its platform, as it was remembered last.
func TestRemember(t *testing.T) {
	d := Open(t.TempDir(), 0, at("2026-02-03"))
	amd, arm := v1.Platform{OS: "linux", Architecture: "amd64"}, v1.Platform{OS: "linux", Architecture: "arm64"}
	for _, hex := range []string{strings.Repeat("a", 64), strings.Repeat("b", 64)} {
		if err := d.Remember("debian", amd, v1.Hash{Algorithm: "sha256", Hex: hex}); err != nil {
			t.Fatal(err)
		}
	}
	digest, seen, ok := d.Recall("debian", amd)
	if !ok || digest.Hex != strings.Repeat("b", 64) || seen.Format(time.DateOnly) != "2026-02-03" {
		t.Errorf("%s %s %v", digest, seen, ok)
	}
	if _, _, ok := d.Recall("debian", arm); ok {
		t.Error("recalled for another platform")
	}
	if _, _, ok := d.Recall("debian:12", amd); ok {
		t.Error("recalled under another name")
	}
}

// FuzzArchive finds panics of the reader of archives.
func FuzzArchive(f *testing.F) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := errors.Join(entry(tw, "aa.tar.gz", 3, strings.NewReader("one")), entry(tw, "manifest.json", 2, strings.NewReader("[]")), tw.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		at, err := spans(bytes.NewReader(raw))
		if err != nil {
			return
		}
		for name, s := range at {
			if s.offset < 0 || s.size < 0 || s.offset > int64(len(raw)) {
				t.Errorf("%q is at %+v of %d bytes", name, s, len(raw))
			}
		}
	})
}
