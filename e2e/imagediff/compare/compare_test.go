package compare

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

var update = flag.Bool("update", false, "write the golden parts of testdata/*.txtar")

// TestGolden compares the two images of each file in testdata and wants the
// differences that the file lists. Its parts: a/config, a/1, a/2 …, the same
// for b, and diff; options stand in the comment.
func TestGolden(t *testing.T) {
	for _, file := range golden(t, "diff-*.txtar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive := readArchive(t, file)
			comment := string(archive.Comment)
			options := Options{ModTimes: strings.Contains(comment, "--mtime"), Layers: strings.Contains(comment, "--layers")}
			diffs, err := Images(t.Context(), imageOf(t, archive, "a"), imageOf(t, archive, "b"), options)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, d := range diffs {
				got.WriteString(d.String() + "\n")
			}
			check(t, file, archive, "diff", got.String())
		})
	}
}

// TestFlatten applies the layers of each file in testdata and wants the tree,
// or the error, that the file lists.
func TestFlatten(t *testing.T) {
	for _, file := range golden(t, "tree-*.txtar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive := readArchive(t, file)
			var got string
			tree, err := new(Flattener).Flatten(t.Context(), imageOf(t, archive, "a"))
			if err != nil {
				got = "error: " + err.Error() + "\n"
			} else {
				got = listing(tree)
			}
			check(t, file, archive, "tree", got)
		})
	}
}

// TestAllLayersAreChecked proves that content that is not what the config
// promises is an error and not a difference.
func TestAllLayersAreChecked(t *testing.T) {
	good := image(t, "", "file 0644 0:0 a x")
	other := image(t, "", "file 0644 0:0 a y")
	for name, img := range map[string]v1.Image{
		"wrong content":   crossed{good, other},
		"too many layers": crossed{good, image(t, "", "file 0644 0:0 a x", "file 0644 0:0 b x")},
	} {
		if _, err := new(Flattener).Flatten(t.Context(), img); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// crossed has the config of one image and the layers of another.
type crossed struct {
	v1.Image
	layers v1.Image
}

func (c crossed) Layers() ([]v1.Layer, error) { return c.layers.Layers() }

// TestLearn proves that an image on top of a known one flattens to the same tree
// as without that knowledge, that the known layers are not read again, and that
// the known tree is not changed by it.
func TestLearn(t *testing.T) {
	lower := []string{"file 0644 0:0 a x\nhard 0644 0:0 b -> a\ndir 0755 0:0 d\nfile 0644 0:0 d/f x", "file 0644 0:0 e x"}
	upper := "hard 0600 7:7 c -> a\nwh d/.wh..wh..opq\nfile 0644 0:0 e y"
	base := image(t, "", lower...)
	top := image(t, "", append(lower, upper)...)
	plain, err := new(Flattener).Flatten(t.Context(), top)
	if err != nil {
		t.Fatal(err)
	}
	var f Flattener
	if err := f.Learn(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := f.Flatten(t.Context(), unreadable{top, 2})
		if err != nil {
			t.Fatal(err)
		}
		if diffs := Trees(plain, got, Options{ModTimes: true, Layers: true}); len(diffs) != 0 {
			t.Errorf("trees differ: %v", diffs)
		}
	}
	if _, err := f.Flatten(t.Context(), unreadable{image(t, "", lower[1]), 1}); err == nil {
		t.Error("a layer that is not the known one was not read")
	}
}

// unreadable is an image whose first layers cannot be read.
type unreadable struct {
	v1.Image
	first int
}

func (u unreadable) Layers() ([]v1.Layer, error) {
	layers, err := u.Image.Layers()
	for i := range u.first {
		layers[i] = unreadableLayer{layers[i]}
	}
	return layers, err
}

type unreadableLayer struct{ v1.Layer }

func (unreadableLayer) Uncompressed() (io.ReadCloser, error) { return nil, errors.New("unreadable") }

// TestCancelled proves that a cancelled comparison ends with the reason.
func TestCancelled(t *testing.T) {
	ctx, cancel := contextWithCause(t)
	reason := errors.New("enough")
	cancel(reason)
	img := image(t, "", "file 0644 0:0 a x")
	if _, err := Images(ctx, img, img, Options{}); !errors.Is(err, reason) {
		t.Errorf("got %v, want %v", err, reason)
	}
}

func golden(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata/%s: %v", pattern, err)
	}
	return files
}

func readArchive(t *testing.T, file string) *txtar.Archive {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func imageOf(t *testing.T, archive *txtar.Archive, side string) v1.Image {
	t.Helper()
	var config string
	var layers []string
	for _, f := range archive.Files {
		switch rest, ok := strings.CutPrefix(f.Name, side+"/"); {
		case !ok:
		case rest == "config":
			config = string(f.Data)
		default:
			layers = append(layers, string(f.Data))
		}
	}
	return image(t, config, layers...)
}

func check(t *testing.T, file string, archive *txtar.Archive, part, got string) {
	t.Helper()
	for i, f := range archive.Files {
		if f.Name != part {
			continue
		}
		if *update {
			archive.Files[i].Data = []byte(got)
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		if string(f.Data) != got {
			t.Errorf("%s: got\n%swant\n%s", file, got, f.Data)
		}
		return
	}
	t.Fatalf("%s has no part %q", file, part)
}
