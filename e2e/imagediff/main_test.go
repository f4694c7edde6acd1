package main

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
)

// places puts an image into a registry, an image layout and a docker archive
// and returns their names.
func places(t *testing.T, img v1.Image) (reference, dir, archive string) {
	t.Helper()
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	reference = strings.TrimPrefix(server.URL, "http://") + "/some/app:tag"
	dir, archive = filepath.Join(t.TempDir(), "layout"), filepath.Join(t.TempDir(), "docker.tar")
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(archive, ref, img); err != nil {
		t.Fatal(err)
	}
	return reference, dir, archive
}

func imagediff(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, &out, &errs)
	return status, out.String(), errs.String()
}

func testImage(t *testing.T, user string) v1.Image {
	t.Helper()
	img, err := random.Image(64, 2)
	if err != nil {
		t.Fatal(err)
	}
	return as(t, img, user)
}

func as(t *testing.T, img v1.Image, user string) v1.Image {
	t.Helper()
	img, err := mutate.Config(img, v1.Config{User: user})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestPlaces proves that an image equals itself wherever it is kept.
func TestPlaces(t *testing.T) {
	reference, dir, archive := places(t, testImage(t, "me"))
	for _, other := range []string{reference, dir, archive} {
		if status, out, errs := imagediff(t, reference, other); status != 0 || out+errs != "" {
			t.Errorf("%s: status %d, output %q, errors %q", other, status, out, errs)
		}
	}
}

// TestDifferences proves the exit status and the output of unequal images.
func TestDifferences(t *testing.T) {
	img := testImage(t, "me")
	a, _, _ := places(t, img)
	b, _, _ := places(t, as(t, img, "you"))
	const want = `config config.User: "me" | "you"` + "\n"
	if status, out, errs := imagediff(t, a, b); status != exitDiffers || out != want || errs != "" {
		t.Errorf("status %d, output %q, errors %q", status, out, errs)
	}
	_, out, _ := imagediff(t, "--json", a, b)
	var d compare.Difference
	if err := json.Unmarshal([]byte(out), &d); err != nil || d.Where != "config.User" {
		t.Errorf("--json printed %q: %v", out, err)
	}
	rules := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(rules, []byte("config config.User * # a test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, out, _ := imagediff(t, "--allow", rules, a, b); status != 0 || out != "" {
		t.Errorf("--allow: status %d, output %q", status, out)
	}
	if status, _, errs := imagediff(t, "--allow", rules, a, a); status != exitTrouble || !strings.Contains(errs, "allowed nothing") {
		t.Errorf("idle rule: status %d, errors %q", status, errs)
	}
}

// TestDigestPicks proves that a layout of two images needs a digest.
func TestDigestPicks(t *testing.T) {
	one := testImage(t, "one")
	reference, dir, _ := places(t, one)
	if err := layout.Path(dir).AppendImage(testImage(t, "two")); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := imagediff(t, dir, dir); status != exitTrouble || !strings.Contains(errs, "DIR@DIGEST") {
		t.Errorf("no digest: status %d, errors %q", status, errs)
	}
	digest, err := one.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if status, out, errs := imagediff(t, dir+"@"+digest.String(), reference); status != 0 {
		t.Errorf("digest: status %d, output %q, errors %q", status, out, errs)
	}
}

// TestTrouble proves that what cannot be compared is neither equal nor unequal.
func TestTrouble(t *testing.T) {
	for _, args := range [][]string{
		{}, {"one"}, {"--nonsense", "a", "b"}, {"--platform", "a/b/c/d", "a", "b"},
		{"NOT A REFERENCE", "b"}, {"127.0.0.1:1/a", "127.0.0.1:1/a"}, {"--allow", "nowhere", "a", "b"},
		{t.TempDir(), "b"},
	} {
		if status, out, errs := imagediff(t, args...); status != exitTrouble || out != "" || errs == "" {
			t.Errorf("%q: status %d, output %q, errors %q", args, status, out, errs)
		}
	}
}
