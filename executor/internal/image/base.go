package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/toc"
)

// addedComment marks the history entries that stand for base layers which the
// base's own history does not mention.
const addedComment = "layer of the base image without history"

// baseParts is what an image inherits from its base; the zero value is scratch.
type baseParts struct {
	layers  []part
	history []v1.History
	config  *v1.ConfigFile
	raw     []byte // of the config
}

func readBase(img v1.Image) (baseParts, error) {
	if img == nil {
		return baseParts{}, nil
	}
	fail := func(what string, err error) (baseParts, error) {
		return baseParts{}, fmt.Errorf("assemble image: read %s of the base image: %w", what, err)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return fail("config", err)
	}
	cf, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return fail("config", err)
	}
	m, err := img.Manifest()
	if err != nil {
		return fail("manifest", err)
	}
	layers, err := img.Layers()
	if err != nil {
		return fail("layers", err)
	}
	if len(layers) != len(m.Layers) || len(layers) != len(cf.RootFS.DiffIDs) {
		return baseParts{}, fmt.Errorf("assemble image: the base image is broken: its manifest has %d layers and its config %d diff ids",
			len(m.Layers), len(cf.RootFS.DiffIDs))
	}
	b := baseParts{config: cf, raw: raw, history: accountFor(cf.History, len(layers))}
	for i, l := range layers {
		desc := m.Layers[i]
		want := ociLayerType(desc.MediaType)
		p := part{layer: retype(l, desc.MediaType, want), diffID: cf.RootFS.DiffIDs[i]}
		p.desc = v1.Descriptor{MediaType: want, Size: desc.Size, Digest: desc.Digest, URLs: desc.URLs, Annotations: toc.Annotations(desc.Annotations)}
		b.layers = append(b.layers, p)
	}
	return b, nil
}

// accountFor returns a history in which exactly layers entries own a layer, as
// other tools expect. Surplus entries lose theirs, from the top; missing ones
// are added.
func accountFor(history []v1.History, layers int) []v1.History {
	out := make([]v1.History, 0, len(history)+layers)
	owned := 0
	for _, h := range history {
		if !h.EmptyLayer {
			if owned == layers {
				h.EmptyLayer = true
			} else {
				owned++
			}
		}
		out = append(out, h)
	}
	for ; owned < layers; owned++ {
		out = append(out, v1.History{Comment: addedComment})
	}
	return out
}

// fillPlatform completes the platform of cf from the base.
func (b baseParts) fillPlatform(cf *v1.ConfigFile) {
	if b.config == nil {
		return
	}
	if cf.OS == "" && cf.Architecture == "" {
		cf.OS, cf.Architecture, cf.Variant = b.config.OS, b.config.Architecture, b.config.Variant
	}
	if cf.OSVersion == "" {
		cf.OSVersion = b.config.OSVersion
	}
	if cf.OSFeatures == nil {
		cf.OSFeatures = b.config.OSFeatures
	}
}

// startInterval is the health check's start interval: the one asked for, or
// the base's if the health check is the base's.
func (b baseParts) startInterval(in Input) time.Duration {
	if in.StartInterval != 0 || b.config == nil || in.Config.Healthcheck == nil {
		return in.StartInterval
	}
	if !reflect.DeepEqual(in.Config.Healthcheck, b.config.Config.Healthcheck) {
		return 0
	}
	return startInterval(b.raw)
}

// StartInterval returns the start interval of the health check in an image
// config, which v1.HealthConfig has no field for; zero if there is none.
func StartInterval(img v1.Image) (time.Duration, error) {
	raw, err := img.RawConfigFile()
	if err != nil {
		return 0, fmt.Errorf("read image config: %w", err)
	}
	return startInterval(raw), nil
}

func startInterval(raw []byte) time.Duration {
	var cf struct {
		Config struct {
			Healthcheck struct{ StartInterval time.Duration }
		} `json:"config"`
	}
	if json.Unmarshal(raw, &cf) != nil {
		return 0
	}
	return cf.Config.Healthcheck.StartInterval
}
