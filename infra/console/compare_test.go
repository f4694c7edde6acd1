package console

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/events"
)

// layerOf makes a layer of files; a nil content is a whiteout's.
func layerOf(t *testing.T, files ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)
}

func imageOf(t *testing.T, env string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Env: []string{"PATH=/bin", "MODE=" + env}, Labels: map[string]string{"l": evil + env}, Cmd: []string{"run", env}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// The files page has the paths that differ to whoever looks into the image, those first whose
// size has changed most: what was taken away of the base that both stand on too.
func TestFiles(t *testing.T) {
	images := map[string]v1.Image{}
	w, l := newWorld(t, func(c *Config) {
		c.Image = func(_ context.Context, repo, digest string) (v1.Image, error) { return images[repo+"@"+digest], nil }
	})
	older, was := buildOf(12, "web")
	add(t, l, older, was)
	req, res := buildOf(3, "web")
	add(t, l, req, res)
	if err := w.index.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	base := layerOf(t, "base=below", "etc/")
	images[older.Image+"@"+was.Digest] = imageOf(t, "a", base, layerOf(t, "app/same=1", "app/grew=1", "app/went=123", "app/moved/x=1"), layerOf(t, "app/late=x"))
	images[req.Image+"@"+res.Digest] = imageOf(t, "b", base, layerOf(t, "app/same=1", "app/grew=12345", "app/new=new", "app/late=x", "app/made=1", "app/moved/x=1"),
		layerOf(t, "app/.wh.made=", ".wh.base=", "app/moved/.wh..wh..opq="))
	var got []string
	for _, m := range regexp.MustCompile(`<th scope="row">(\w+)</th><td><code>(\S+)</code>.*<td class="num">([^<]*)</td></tr>`).FindAllStringSubmatch(w.get("/builds/"+req.BuildID+"/files"), -1) {
		got = append(got, strings.Join(m[1:], " "))
	}
	want := []string{"removed /base −5 B", "changed /app/grew &#43;4 B", "added /app/new &#43;3 B", "removed /app/went −3 B", "removed /app/moved/x −1 B"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Pages say how the configuration differs from that of the build before, and which
// files do.
// Layers of a build that has no image are those that its steps made.
func TestLayersOfFailed(t *testing.T) {
	steps := []step{{ID: "0.0", Name: "FROM a"}, {ID: "0.1", Name: "WORKDIR /srv"}}
	told := []layerRecord{{events.ProgressBlob{Digest: "sha256:1", Size: 7}, "0.0"}, {events.ProgressBlob{Digest: "sha256:2", Size: 3}, "0.1"}}
	got := layerViews(build{}, steps, told, earlier{})
	if len(got) != 2 || got[0].CreatedBy != "" || got[1].CreatedBy != "WORKDIR /srv" {
		t.Errorf("layers %+v", got)
	}
}

func TestCompare(t *testing.T) {
	images := map[string]v1.Image{}
	w, l := newWorld(t, func(c *Config) {
		c.Image = func(_ context.Context, repo, digest string) (v1.Image, error) {
			if img := images[repo+"@"+digest]; img != nil {
				return img, nil
			}
			return nil, fmt.Errorf("no image %s@%s", repo, digest)
		}
	})
	older, was := buildOf(12, "web")
	add(t, l, older, was)
	req, res := buildOf(3, "web")
	add(t, l, req, res)
	if err := w.index.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	has(t, "without images", w.get("/builds/"+req.BuildID), "could not be read from the registry")
	images[older.Image+"@"+was.Digest] = imageOf(t, "a", layerOf(t, "f=1"))
	images[req.Image+"@"+res.Digest] = imageOf(t, "b", layerOf(t, "f=12", evil+"=x"))
	body := w.get("/builds/" + req.BuildID)
	has(t, "the page", body, "env MODE", "label l", "[&#34;run&#34;, &#34;b&#34;]", "1 layer kept, 1 new, 1 gone", "/files\">Which files changed")
	files := w.get("/builds/" + req.BuildID + "/files")
	has(t, "the files", files, "2 paths differ", "/f<", "&lt;script&gt;", "&#43;1 B")
	base := "/builds/" + req.BuildID + "/layers/"
	digest, err := images[req.Image+"@"+res.Digest].Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := digest[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _ := w.do("GET", base+hash.String(), nil); status != 404 {
		t.Errorf("a layer that the ledger has not: %d", status)
	}
	contents, err := contentsOf(t.Context(), layerOf(t, "d/", "d/small=1", "d/large=12345", ".wh.gone="))
	if err != nil || contents.Files != 2 || contents.Removed != 1 || contents.Bytes != 6 || contents.Largest[0].Path != "d/large" || contents.Largest[1].Size != 1 {
		t.Errorf("%+v %v", contents, err)
	}
	if strings.Contains(body+files, evil) {
		t.Error("markup got through")
	}
	trends := w.get("/trends?trigger=web")
	has(t, "the trends", trends, "2 builds, 100 % of them a success", "latest 13.0s, median 22.0s", `<rect class="o-success"`, "60 %")
	if status, _, _ := w.do("GET", "/trends?trigger=none", nil); status != 404 {
		t.Errorf("a trigger that is not there: %d", status)
	}
	if status, _, _ := w.do("GET", "/builds/"+older.BuildID+"/files", nil); status != 404 {
		t.Errorf("a build without one before: %d", status)
	}
}
