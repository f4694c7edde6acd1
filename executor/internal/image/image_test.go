package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func created() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC) }

func linux() v1.Platform { return v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"} }

// baseImage is a base with n layers and Docker's media types.
func baseImage(t testing.TB, n int64) v1.Image {
	t.Helper()
	img, err := random.Image(300, n)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	cf.Config.Env = []string{"FROM=base"}
	img, err = mutate.ConfigFile(img, cf)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func newLayer(t testing.TB) v1.Layer {
	t.Helper()
	l, err := random.Layer(200, types.DockerLayer)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What a base says of its layers' tables of contents holds in the image as well, and
// nothing else that it says of layers.
func TestTablesOfContentsAreKept(t *testing.T) {
	const table, other = "containerd.io/snapshot/stargz/toc.digest", "org.example.other"
	base, err := mutate.Append(baseImage(t, 1), mutate.Addendum{Layer: newLayer(t), Annotations: map[string]string{table: "sha256:x", other: "y"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, docker := range []bool{false, true} {
		img, err := Assemble(Input{Base: base, Platform: linux(), Layers: []v1.Layer{newLayer(t)}, History: []v1.History{{}}, DockerTypes: docker})
		if err != nil {
			t.Fatal(err)
		}
		m, _ := img.Manifest()
		var got []map[string]string
		for _, d := range m.Layers {
			got = append(got, d.Annotations)
		}
		want := []map[string]string{nil, {table: "sha256:x"}, nil}
		if docker {
			want[1] = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("Docker's types %t: %v", docker, got)
		}
	}
}

// An image on a base holds the base's layers and history, then its own, and
// is a valid image.
func TestAssembleOnBase(t *testing.T) {
	base := baseImage(t, 2)
	img, err := Assemble(Input{
		Base: base, Platform: linux(), Created: created(), Author: "me",
		Config:      v1.Config{Cmd: []string{"sh"}, StopSignal: "SIGINT", OnBuild: []string{"RUN x"}, Shell: []string{"/bin/bash", "-c"}, ArgsEscaped: true, Labels: map[string]string{"a": "1", "b": "1"}},
		Layers:      []v1.Layer{newLayer(t), newLayer(t)},
		History:     []v1.History{{CreatedBy: "RUN a"}, {CreatedBy: "ENV b", EmptyLayer: true}, {CreatedBy: "COPY c", Created: v1.Time{Time: created().Add(time.Hour)}}},
		Labels:      map[string]string{"b": "2"},
		Annotations: map[string]string{"k": "v"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Fatal(err)
	}
	m, _ := img.Manifest()
	if m.MediaType != types.OCIManifestSchema1 || m.Config.MediaType != types.OCIConfigJSON || m.Annotations["k"] != "v" {
		t.Errorf("manifest = %+v", m)
	}
	baseLayers, _ := base.Layers()
	for i, d := range m.Layers {
		if d.MediaType != types.OCILayer {
			t.Errorf("layer %d has type %s", i, d.MediaType)
		}
		if i < len(baseLayers) {
			if want, _ := baseLayers[i].Digest(); d.Digest != want {
				t.Errorf("base layer %d was rewritten", i)
			}
		}
	}
	cf, _ := img.ConfigFile()
	if cf.OS != "linux" || cf.Architecture != "arm64" || cf.Variant != "v8" || cf.Author != "me" || !cf.Created.Equal(created()) {
		t.Errorf("config = %+v", cf)
	}
	if cf.Config.Env != nil || cf.Config.StopSignal != "SIGINT" || !cf.Config.ArgsEscaped || len(cf.Config.OnBuild) != 1 || len(cf.Config.Shell) != 2 {
		t.Errorf("runtime config = %+v", cf.Config)
	}
	if cf.Config.Labels["a"] != "1" || cf.Config.Labels["b"] != "2" {
		t.Errorf("labels = %v", cf.Config.Labels)
	}
	var by []string
	for _, h := range cf.History[2:] {
		by = append(by, h.CreatedBy)
	}
	if want := []string{"RUN a", "ENV b", "COPY c"}; !slices.Equal(by, want) {
		t.Errorf("history = %v, want %v", by, want)
	}
	if !cf.History[2].Created.Equal(created()) || !cf.History[4].Created.Equal(created().Add(time.Hour)) {
		t.Errorf("history times = %v", cf.History)
	}
}

// An image on scratch may be empty and is a valid image all the same.
func TestAssembleScratch(t *testing.T) {
	img, err := Assemble(Input{Platform: linux()})
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Fatal(err)
	}
	raw, _ := img.RawManifest()
	if !bytes.Contains(raw, []byte(`"layers":[]`)) {
		t.Errorf("manifest has no empty list of layers: %s", raw)
	}
	cfg, _ := img.RawConfigFile()
	if !bytes.Contains(cfg, []byte(`"diff_ids":[]`)) {
		t.Errorf("config has no empty list of diff ids: %s", cfg)
	}
}

// What does not fit together is refused with a message that says what.
func TestAssembleRefuses(t *testing.T) {
	streaming := stream.NewLayer(io.NopCloser(strings.NewReader("")))
	for name, tc := range map[string]struct {
		in   Input
		want string
	}{
		"history without layer": {Input{Platform: linux(), History: []v1.History{{CreatedBy: "RUN"}}}, "1 history entries have a layer but there are 0 layers"},
		"layer without history": {Input{Platform: linux(), Layers: []v1.Layer{newLayer(t)}}, "0 history entries have a layer but there are 1 layers"},
		"no platform":           {Input{}, "an OS and an architecture are needed"},
		"unread stream":         {Input{Platform: linux(), Layers: []v1.Layer{streaming}, History: []v1.History{{}}}, "new layer 1 has not been written or uploaded yet"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Assemble(tc.in)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want %q", err, tc.want)
			}
		})
	}
	_, err := Assemble(Input{Platform: linux(), Layers: []v1.Layer{streaming}, History: []v1.History{{}}})
	if !errors.Is(err, stream.ErrNotComputed) {
		t.Errorf("error %v is not stream.ErrNotComputed", err)
	}
}

// A base whose history misses layers or has too many is put right, so that the
// history of the result accounts for every layer.
func TestAssembleRepairsBaseHistory(t *testing.T) {
	for name, history := range map[string][]v1.History{
		"none":     nil,
		"too few":  {{CreatedBy: "one"}},
		"too many": {{CreatedBy: "1"}, {CreatedBy: "2"}, {CreatedBy: "3"}, {CreatedBy: "4"}},
	} {
		t.Run(name, func(t *testing.T) {
			base := baseImage(t, 2)
			cf, _ := base.ConfigFile()
			cf = cf.DeepCopy()
			cf.History = history
			base, err := mutate.ConfigFile(base, cf)
			if err != nil {
				t.Fatal(err)
			}
			img, err := Assemble(Input{Base: base, Layers: []v1.Layer{newLayer(t)}, History: []v1.History{{CreatedBy: "mine"}}})
			if err != nil {
				t.Fatal(err)
			}
			got, _ := img.ConfigFile()
			if n := owning(got.History); n != 3 {
				t.Errorf("%d entries own a layer, want 3: %+v", n, got.History)
			}
			if last := got.History[len(got.History)-1]; last.CreatedBy != "mine" || last.EmptyLayer {
				t.Errorf("last entry = %+v", last)
			}
		})
	}
}

// Platform fields that are left out come from the base.
func TestAssemblePlatformFromBase(t *testing.T) {
	base := baseImage(t, 1)
	cf, _ := base.ConfigFile()
	cf = cf.DeepCopy()
	cf.OS, cf.OSVersion, cf.OSFeatures = "windows", "10.0.1", []string{"win32k"}
	base, err := mutate.ConfigFile(base, cf)
	if err != nil {
		t.Fatal(err)
	}
	img, err := Assemble(Input{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := img.ConfigFile()
	if got.OS != "windows" || got.Architecture != "amd64" || got.OSVersion != "10.0.1" || !slices.Equal(got.OSFeatures, []string{"win32k"}) {
		t.Errorf("platform = %+v", got.Platform())
	}
}

// The health check keeps its start interval, from the input or from a base
// whose health check is unchanged; a new health check has none.
func TestAssembleStartInterval(t *testing.T) {
	check := func() *v1.HealthConfig { return &v1.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Second} }
	base, err := Assemble(Input{Platform: linux(), Config: v1.Config{Healthcheck: check()}, StartInterval: 7 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		in   Input
		want time.Duration
	}{
		"inherited": {Input{Base: base, Config: v1.Config{Healthcheck: check()}}, 7 * time.Second},
		"replaced":  {Input{Base: base, Config: v1.Config{Healthcheck: &v1.HealthConfig{Test: []string{"NONE"}}}}, 0},
		"given":     {Input{Base: base, Config: v1.Config{Healthcheck: check()}, StartInterval: time.Second}, time.Second},
		"gone":      {Input{Base: base}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := Assemble(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := StartInterval(img); err != nil || got != tc.want {
				t.Errorf("start interval = %v, %v, want %v", got, err, tc.want)
			}
			if err := validate.Image(img); err != nil {
				t.Error(err)
			}
		})
	}
	raw, _ := base.RawConfigFile()
	var doc struct {
		Config struct{ Healthcheck map[string]any } `json:"config"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil || doc.Config.Healthcheck["StartInterval"] != float64(7*time.Second) || doc.Config.Healthcheck["Interval"] != float64(time.Second) {
		t.Errorf("healthcheck in JSON = %v, %v", doc.Config.Healthcheck, err)
	}
}

// Every media type of Docker's becomes OCI's; others stay.
func TestLayerTypes(t *testing.T) {
	for have, want := range map[types.MediaType]types.MediaType{
		types.DockerLayer:             types.OCILayer,
		types.DockerUncompressedLayer: types.OCIUncompressedLayer,
		types.DockerForeignLayer:      types.OCIRestrictedLayer,
		dockerZstdLayer:               types.OCILayerZStd,
		types.OCILayerZStd:            types.OCILayerZStd,
		"application/x-other":         "application/x-other",
	} {
		l := static.NewLayer([]byte("x"), have)
		img, err := Assemble(Input{Platform: linux(), Layers: []v1.Layer{l}, History: []v1.History{{}}})
		if err != nil {
			t.Fatal(err)
		}
		ls, _ := img.Layers()
		if got, _ := ls[0].MediaType(); got != want {
			t.Errorf("%s became %s, want %s", have, got, want)
		}
		if u, ok := ls[0].(interface{ Unwrap() v1.Layer }); have != want && (!ok || u.Unwrap() != l) {
			t.Errorf("%s: the layer itself cannot be reached", have)
		}
	}
}

// Equal input gives equal bytes, and images on images work.
func TestAssembleIsDeterministic(t *testing.T) {
	l := newLayer(t)
	build := func() v1.Hash {
		first, err := Assemble(Input{Platform: linux(), Layers: []v1.Layer{l}, History: []v1.History{{}}, Config: v1.Config{Labels: map[string]string{"z": "1", "a": "2"}}})
		if err != nil {
			t.Fatal(err)
		}
		second, err := Assemble(Input{Base: first, Layers: []v1.Layer{l}, History: []v1.History{{}}, Annotations: map[string]string{"z": "1", "a": "2"}})
		if err != nil {
			t.Fatal(err)
		}
		d, _ := second.Digest()
		return d
	}
	if a, b := build(), build(); a != b {
		t.Errorf("%s != %s", a, b)
	}
}

// A layer or config of the image is found by digest and by diff id.
func TestLayerLookUp(t *testing.T) {
	img, err := Assemble(Input{Base: baseImage(t, 1), Layers: []v1.Layer{newLayer(t)}, History: []v1.History{{}}})
	if err != nil {
		t.Fatal(err)
	}
	name, _ := img.ConfigName()
	c, err := img.LayerByDigest(name)
	if err != nil {
		t.Fatal(err)
	}
	if mt, _ := c.MediaType(); mt != types.OCIConfigJSON {
		t.Errorf("config has type %s", mt)
	}
	if err := validate.Layer(c, validate.Fast); err != nil {
		t.Error(err)
	}
	if _, err := img.LayerByDigest(v1.Hash{}); err == nil {
		t.Error("found a layer without a digest")
	}
	if _, err := img.LayerByDiffID(v1.Hash{}); err == nil {
		t.Error("found a layer without a diff id")
	}
}

// A base that contradicts itself is refused.
func TestAssembleBrokenBase(t *testing.T) {
	base := baseImage(t, 2)
	cf, _ := base.ConfigFile()
	cf = cf.DeepCopy()
	cf.RootFS.DiffIDs = cf.RootFS.DiffIDs[:1]
	base, err := mutate.ConfigFile(base, cf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Assemble(Input{Base: base}); err == nil || !strings.Contains(err.Error(), "2 layers and its config 1 diff ids") {
		t.Errorf("error = %v", err)
	}
	if _, err := Assemble(Input{Base: empty.Image, Platform: linux()}); err != nil {
		t.Errorf("empty base: %v", err)
	}
}

func BenchmarkAssemble(b *testing.B) {
	in := Input{Base: baseImage(b, 5)}
	for i := range 100 {
		in.Layers = append(in.Layers, newLayer(b))
		in.History = append(in.History, v1.History{CreatedBy: fmt.Sprint("RUN ", i)})
	}
	for b.Loop() {
		if _, err := Assemble(in); err != nil {
			b.Fatal(err)
		}
	}
}
