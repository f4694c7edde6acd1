// Package image makes images out of parts: config, manifest and history are
// computed in one step from a base image and the layers on top of it, without
// reading a layer. It also writes images to disk, as an OCI image layout or as
// the archive that "docker load" reads.
//
// Images made here have the media types of the OCI image specification
// whatever the base image has; the bytes of base layers are never touched.
package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Input is what an image is made of. The zero value is an empty image but for
// Platform, which needs an OS and an architecture.
type Input struct {
	// Base is the image that the new layers lie on; nil is scratch.
	Base v1.Image
	// Platform of the new image. OS and Architecture may be left out if Base
	// is set; OSVersion and OSFeatures are those of Base if left out.
	Platform v1.Platform
	// Config is the complete runtime config, not an addition to the base's.
	Config v1.Config
	// StartInterval of the health check, which v1.HealthConfig has no field
	// for. Zero keeps the base's as long as the health check is the base's.
	StartInterval time.Duration
	// History holds the entries of the new steps, in order. An entry has
	// EmptyLayer set or owns the next of Layers. A zero Created becomes
	// Input.Created.
	History []v1.History
	// Layers are the new layers, bottom first. Their digests must be known:
	// a streaming layer must have been read to its end.
	Layers []v1.Layer
	// Created is the time in the config.
	Created time.Time
	// Author is the author in the config.
	Author string
	// Annotations of the manifest. Those of the base are not inherited, but for what its
	// layers' say of their tables of contents.
	Annotations map[string]string
	// DockerTypes gives config, manifest and layers Docker's media types.
	DockerTypes bool
	// Labels are added to Config.Labels and win over them.
	Labels map[string]string
}

// Assemble makes an image. It reads the base's manifest and config but no
// layer. It is an error if the history does not account for every layer, if a
// layer's digest is not known yet or if the platform is incomplete.
func Assemble(in Input) (v1.Image, error) {
	base, err := readBase(in.Base)
	if err != nil {
		return nil, err
	}
	added, err := describeLayers(in.Layers)
	if err != nil {
		return nil, err
	}
	if owned := owning(in.History); owned != len(in.Layers) {
		return nil, fmt.Errorf("assemble image: %d history entries have a layer but there are %d layers", owned, len(in.Layers))
	}
	raw, err := rawConfig(in, base, added)
	if err != nil {
		return nil, err
	}
	parts := append(base.layers, added...)
	if in.DockerTypes {
		if len(in.Annotations) > 0 {
			return nil, errors.New("assemble image: an image with Docker's media types has no annotations")
		}
		for i, p := range parts {
			mt := dockerLayerType(p.desc.MediaType)
			parts[i].layer, parts[i].desc.MediaType = retype(p.layer, p.desc.MediaType, mt), mt
			parts[i].desc.Annotations = nil // Docker's manifests have none
		}
		return newAssembled(parts, raw, nil, types.DockerManifestSchema2, types.DockerConfigJSON)
	}
	return newAssembled(parts, raw, in.Annotations, types.OCIManifestSchema1, types.OCIConfigJSON)
}

// owning counts the history entries that own a layer.
func owning(history []v1.History) int {
	n := 0
	for _, h := range history {
		if !h.EmptyLayer {
			n++
		}
	}
	return n
}

// part is a layer with everything that config and manifest say of it.
type part struct {
	layer  v1.Layer
	desc   v1.Descriptor
	diffID v1.Hash
}

func describeLayers(layers []v1.Layer) ([]part, error) {
	parts := make([]part, 0, len(layers))
	for i, l := range layers {
		p, err := describeLayer(l)
		if errors.Is(err, stream.ErrNotComputed) {
			return nil, fmt.Errorf("assemble image: new layer %d has not been written or uploaded yet: %w", i+1, err)
		}
		if err != nil {
			return nil, fmt.Errorf("assemble image: describe new layer %d: %w", i+1, err)
		}
		parts = append(parts, p)
	}
	return parts, nil
}

func describeLayer(l v1.Layer) (part, error) {
	digest, err := l.Digest()
	if err != nil {
		return part{}, err
	}
	diffID, err := l.DiffID()
	if err != nil {
		return part{}, err
	}
	size, err := l.Size()
	if err != nil {
		return part{}, err
	}
	mt, err := l.MediaType()
	if err != nil {
		return part{}, err
	}
	want := ociLayerType(mt)
	return part{
		layer:  retype(l, mt, want),
		desc:   v1.Descriptor{MediaType: want, Size: size, Digest: digest},
		diffID: diffID,
	}, nil
}

// rawConfig is the JSON of the image's config.
func rawConfig(in Input, base baseParts, added []part) ([]byte, error) {
	cf := v1.ConfigFile{
		OS:           in.Platform.OS,
		Architecture: in.Platform.Architecture,
		Variant:      in.Platform.Variant,
		OSVersion:    in.Platform.OSVersion,
		OSFeatures:   in.Platform.OSFeatures,
		Author:       in.Author,
		Created:      v1.Time{Time: in.Created},
		Config:       in.Config,
		History:      base.history,
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: make([]v1.Hash, 0, len(base.layers)+len(added))},
	}
	base.fillPlatform(&cf)
	if cf.OS == "" || cf.Architecture == "" {
		return nil, fmt.Errorf("assemble image: platform %q is incomplete: an OS and an architecture are needed", in.Platform.String())
	}
	if len(in.Labels) > 0 {
		cf.Config.Labels = maps.Clone(in.Config.Labels)
		if cf.Config.Labels == nil {
			cf.Config.Labels = make(map[string]string, len(in.Labels))
		}
		maps.Copy(cf.Config.Labels, in.Labels)
	}
	for _, h := range in.History {
		if h.Created.IsZero() {
			h.Created = cf.Created
		}
		cf.History = append(cf.History, h)
	}
	for _, parts := range [][]part{base.layers, added} {
		for _, p := range parts {
			cf.RootFS.DiffIDs = append(cf.RootFS.DiffIDs, p.diffID)
		}
	}
	raw, err := json.Marshal(newConfigFile(cf, base.startInterval(in)))
	if err != nil {
		return nil, fmt.Errorf("assemble image: encode config: %w", err)
	}
	return raw, nil
}

// configFile is v1.ConfigFile with the one field that it lacks,
// Healthcheck.StartInterval. The outer fields shadow the embedded ones.
type configFile struct {
	v1.ConfigFile
	Config config `json:"config"`
}

type config struct {
	v1.Config
	Healthcheck *healthcheck `json:"Healthcheck,omitempty"`
}

type healthcheck struct {
	v1.HealthConfig
	StartInterval time.Duration `json:",omitempty"`
}

func newConfigFile(cf v1.ConfigFile, startInterval time.Duration) configFile {
	out := configFile{ConfigFile: cf, Config: config{Config: cf.Config}}
	if h := cf.Config.Healthcheck; h != nil {
		out.Config.Healthcheck = &healthcheck{HealthConfig: *h, StartInterval: startInterval}
	}
	return out
}

// assembled is an image whose manifest and config are bytes in memory.
type assembled struct {
	layers      []v1.Layer
	byDigest    map[v1.Hash]v1.Layer
	byDiffID    map[v1.Hash]v1.Layer
	manifest    *v1.Manifest
	rawManifest []byte
	rawConfig   []byte
	digest      v1.Hash
}

var _ v1.Image = (*assembled)(nil)

func newAssembled(parts []part, raw []byte, annotations map[string]string, manifest, config types.MediaType) (*assembled, error) {
	configDigest, configSize, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("assemble image: hash config: %w", err)
	}
	img := &assembled{
		byDigest:  make(map[v1.Hash]v1.Layer, len(parts)),
		byDiffID:  make(map[v1.Hash]v1.Layer, len(parts)),
		rawConfig: raw,
		manifest: &v1.Manifest{
			SchemaVersion: 2,
			MediaType:     manifest,
			Config:        v1.Descriptor{MediaType: config, Size: configSize, Digest: configDigest},
			Layers:        make([]v1.Descriptor, 0, len(parts)),
			Annotations:   maps.Clone(annotations),
		},
	}
	for _, p := range parts {
		img.layers = append(img.layers, p.layer)
		img.byDigest[p.desc.Digest] = p.layer
		img.byDiffID[p.diffID] = p.layer
		img.manifest.Layers = append(img.manifest.Layers, p.desc)
	}
	if img.rawManifest, err = json.Marshal(img.manifest); err != nil {
		return nil, fmt.Errorf("assemble image: encode manifest: %w", err)
	}
	if img.digest, _, err = v1.SHA256(bytes.NewReader(img.rawManifest)); err != nil {
		return nil, fmt.Errorf("assemble image: hash manifest: %w", err)
	}
	return img, nil
}

func (a *assembled) Layers() ([]v1.Layer, error) { return append([]v1.Layer(nil), a.layers...), nil }

func (a *assembled) MediaType() (types.MediaType, error) { return a.manifest.MediaType, nil }

func (a *assembled) Size() (int64, error) { return int64(len(a.rawManifest)), nil }

func (a *assembled) ConfigName() (v1.Hash, error) { return a.manifest.Config.Digest, nil }

func (a *assembled) ConfigFile() (*v1.ConfigFile, error) {
	return v1.ParseConfigFile(bytes.NewReader(a.rawConfig))
}

func (a *assembled) RawConfigFile() ([]byte, error) { return bytes.Clone(a.rawConfig), nil }

func (a *assembled) Digest() (v1.Hash, error) { return a.digest, nil }

func (a *assembled) Manifest() (*v1.Manifest, error) { return a.manifest.DeepCopy(), nil }

func (a *assembled) RawManifest() ([]byte, error) { return bytes.Clone(a.rawManifest), nil }

func (a *assembled) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	if h == a.manifest.Config.Digest {
		return &configLayer{hash: h, content: a.rawConfig, mediaType: a.manifest.Config.MediaType}, nil
	}
	return find(a.byDigest, h)
}

func (a *assembled) LayerByDiffID(h v1.Hash) (v1.Layer, error) { return find(a.byDiffID, h) }

func find(m map[v1.Hash]v1.Layer, h v1.Hash) (v1.Layer, error) {
	if l, ok := m[h]; ok {
		return l, nil
	}
	return nil, fmt.Errorf("image has no layer %s", h)
}
