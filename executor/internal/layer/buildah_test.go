package layer

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/e2e/need"
)

// The tables of zstd:chunked as Debian's buildah writes them give the index that the layer
// gives, files with holes among it.
func TestTablesOfBuildah(t *testing.T) {
	need.Root(t)
	buildah := need.Command(t, "buildah")
	dir := t.TempDir()
	files := filepath.Join(dir, "files")
	random := make([]byte, 300_000)
	r := rand.New(rand.NewPCG(3, 3)) //nolint:gosec // to be repeated
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	hole := append(bytes.Clone(random[:100_000]), make([]byte, 400_000)...)
	for name, body := range map[string][]byte{
		"etc/passwd": []byte("ann:x:1000:1001::/home/ann:\n"), "etc/group": []byte(strings.Repeat("staff:x:50:ann\n", 2000)), "empty": nil,
		"usr/lib/random": random, "usr/lib/hole": append(hole, random[:50_000]...), "usr/lib/zeros": make([]byte, 700_000), "usr/lib/päth": []byte("x"),
	} {
		path := filepath.Join(files, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(1_600_000_000, 123_456_789)); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Symlink("usr/lib", filepath.Join(files, "lib")), os.Link(filepath.Join(files, "empty"), filepath.Join(files, "hard")),
		os.Chown(filepath.Join(files, "usr"), 1<<24, 1<<25), os.Chmod(filepath.Join(files, "usr/lib/zeros"), 0o755|os.ModeSetuid),
		unix.Setxattr(filepath.Join(files, "usr/lib/random"), "user.k", []byte("a b\xff"), 0),
		os.WriteFile(filepath.Join(dir, "Containerfile"), []byte("FROM scratch\nCOPY files /\n"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "out")
	for _, args := range [][]string{
		{"bud", "--isolation", "chroot", "-f", filepath.Join(dir, "Containerfile"), "-t", "x", dir},
		{"push", "--compression-format", "zstd:chunked", "x", "oci:" + out},
	} {
		args = append([]string{"--storage-driver", "vfs", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run")}, args...)
		if said, err := exec.CommandContext(t.Context(), buildah, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
	}
	m := manifestOf(t, out)
	if len(m.Layers) != 1 {
		t.Fatalf("%d layers", len(m.Layers))
	}
	blob, err := os.ReadFile(filepath.Join(out, "blobs/sha256", m.Layers[0].Digest.Hex))
	if err != nil {
		t.Fatal(err)
	}
	l := listedLayer(t, blob, m.Layers[0].Annotations)
	sameIndexes(t, "buildah", l)
	if l.read == 0 || l.read > int64(len(blob))/8 {
		t.Errorf("%d of %d bytes were read", l.read, len(blob))
	}
}

// manifestOf reads the manifest of the one image in a layout.
func manifestOf(t *testing.T, layout string) v1.Manifest {
	t.Helper()
	var index v1.IndexManifest
	var m v1.Manifest
	raw, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil || len(index.Manifests) != 1 {
		t.Fatal(err, len(index.Manifests))
	}
	raw, err = os.ReadFile(filepath.Join(layout, "blobs/sha256", index.Manifests[0].Digest.Hex))
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}
