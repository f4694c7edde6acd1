package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/executor/internal/image"
	layers "github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/progress"
)

// Annotations of an entry's manifest. They say everything, so that a look-up
// need not read the config as well.
const (
	annotationKey     = "dev.kilnhook.cache.key"
	annotationDiffID  = "dev.kilnhook.cache.diffid"
	annotationCreated = "dev.kilnhook.cache.created"
	annotationEmpty   = "dev.kilnhook.cache.empty"
	annotationHolds   = "dev.kilnhook.cache.contents" // progress.Contents of the layer as JSON
	annotationIndex   = "dev.kilnhook.cache.index"    // the format of the index of the first layer, which the second holds
)

// entryImage makes the image of an entry.
func entryImage(k Key, l v1.Layer, meta Meta, now time.Time) (v1.Image, error) {
	annotations := map[string]string{annotationKey: k.String(), annotationCreated: now.UTC().Format(time.RFC3339Nano)}
	if l == nil {
		// Some registries refuse images without layers: an archive without
		// files stands for none.
		annotations[annotationEmpty] = "true"
		l = static.NewLayer(make([]byte, 1024), types.OCIUncompressedLayer)
	}
	diffID, err := l.DiffID()
	if err != nil {
		return nil, err
	}
	annotations[annotationDiffID] = diffID.String()
	if c, ok := l.(interface{ Contents() *progress.Contents }); ok {
		if held := c.Contents(); held != nil {
			raw, err := json.Marshal(held)
			if err != nil {
				return nil, fmt.Errorf("describe layer: %w", err)
			}
			annotations[annotationHolds] = string(raw)
		}
	}
	made, history := []v1.Layer{l}, []v1.History{{CreatedBy: meta.CreatedBy}}
	if indexed, ok := l.(indexed); ok {
		index, err := packIndex(indexed)
		if err != nil {
			return nil, err
		}
		annotations[annotationIndex] = layers.IndexFormat
		made, history = append(made, index), append(history, v1.History{CreatedBy: "index"})
	}
	created := now.UTC()
	if meta.roster != "" {
		annotations[annotationRoster] = meta.roster
		created = time.Unix(0, 0).UTC() // config and layer are the same for all: a registry has them
	}
	if meta.Platform.OS == "" || meta.Platform.Architecture == "" {
		meta.Platform = v1.Platform{OS: "linux", Architecture: "unknown"}
	}
	return image.Assemble(image.Input{
		Platform:    meta.Platform,
		Layers:      made,
		History:     history,
		Created:     created,
		Annotations: annotations,
	})
}

// described is what a manifest says of an entry.
type described struct {
	layer   v1.Descriptor
	index   *v1.Descriptor // nil if there is none
	diffID  v1.Hash
	created time.Time
	empty   bool
	holds   *progress.Contents // nil if it does not say
}

// parseManifest reads the manifest of the entry for k.
func parseManifest(raw []byte, k Key) (described, error) {
	bad := func(format string, args ...any) (described, error) {
		return described{}, &badEntryError{why: "the entry is broken: " + fmt.Sprintf(format, args...)}
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return bad("its manifest is not valid JSON")
	}
	if key := m.Annotations[annotationKey]; key != k.String() {
		if key == "" {
			return described{}, &badEntryError{why: "what is there was not written by Kiln"}
		}
		return bad("it is the entry for another key")
	}
	d := described{empty: m.Annotations[annotationEmpty] == "true"}
	if d.created, err = time.Parse(time.RFC3339Nano, m.Annotations[annotationCreated]); err != nil {
		return bad("it does not say when it was made")
	}
	want := 1
	format := m.Annotations[annotationIndex]
	if format != "" {
		want = 2
	}
	if len(m.Layers) != want {
		return bad("it has %d layers", len(m.Layers))
	}
	for _, l := range m.Layers {
		if !l.MediaType.IsLayer() || l.Size < 0 || !isSHA256(l.Digest) {
			return bad("its layer is none")
		}
	}
	if d.layer = m.Layers[0]; format == layers.IndexFormat {
		d.index = &m.Layers[1]
	}
	if held := (&progress.Contents{}); json.Unmarshal([]byte(m.Annotations[annotationHolds]), held) == nil {
		held.Largest = held.Largest[:min(len(held.Largest), progress.MaxLargest)]
		d.holds = held
	}
	if d.diffID, err = v1.NewHash(m.Annotations[annotationDiffID]); err != nil || !isSHA256(d.diffID) {
		return bad("it has no diff id")
	}
	return d, nil
}

func isSHA256(h v1.Hash) bool {
	return h.Algorithm == "sha256" && len(h.Hex) == 64 && strings.Trim(h.Hex, "0123456789abcdef") == ""
}
