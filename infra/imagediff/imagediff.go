// Package imagediff says in what two images differ: their configuration, their
// layers and, path by path, their files.
package imagediff

import (
	"context"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Options of a comparison.
type Options struct {
	// MaxBytes is how many compressed bytes of layers are read at most; 0 is
	// 2 GiB.
	MaxBytes int64
	// MaxFiles is how many entries of layers are read at most; 0 is 2 million.
	MaxFiles int
	// Told, if set, is told how many compressed bytes the layers have that were
	// read or are being read.
	Told func(bytes int64)
}

// TooLargeError means that images are larger than Options allow.
type TooLargeError struct{ what string }

func (e *TooLargeError) Error() string { return "the images are too large to be compared: " + e.what }

// Diff is in what two images differ.
type Diff struct {
	Config []Setting `json:"config"`
	Layers []Layer   `json:"layers"`
	Files  []Change  `json:"files"` // by path
	Size   Sizes     `json:"size"`  // of config and layers, compressed bytes
	Read   int64     `json:"read"`  // compressed bytes of layers that were read for it
}

// Same reports whether nothing differs that a container would see.
func (d Diff) Same() bool { return len(d.Config) == 0 && len(d.Files) == 0 }

// Sizes are those of two images.
type Sizes struct {
	Was int64 `json:"was"`
	Is  int64 `json:"is"`
}

// Layer is a layer that only one of the images has, or both at the same place.
type Layer struct {
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	CreatedBy string `json:"createdBy,omitempty"`
	In        string `json:"in"` // InBoth, OnlyWas or OnlyIs
}

// Where a layer is.
const (
	InBoth  = "both"
	OnlyWas = "first"
	OnlyIs  = "second"
)

// Images compares two images. Layers that both stand on are read only if what lies
// above them cannot be understood without them.
func Images(ctx context.Context, was, is v1.Image, opt Options) (Diff, error) {
	if opt.MaxBytes == 0 {
		opt.MaxBytes = 2 << 30
	}
	if opt.MaxFiles == 0 {
		opt.MaxFiles = 2_000_000
	}
	var d Diff
	old, err := open(was)
	if err != nil {
		return d, fmt.Errorf("read the first image: %w", err)
	}
	cur, err := open(is)
	if err != nil {
		return d, fmt.Errorf("read the second image: %w", err)
	}
	if d.Config, err = settings(old.config, cur.config); err != nil {
		return d, err
	}
	d.Size = Sizes{old.size, cur.size}
	shared := 0
	for shared < min(len(old.infos), len(cur.infos)) && old.infos[shared].Digest == cur.infos[shared].Digest {
		shared++
	}
	d.Layers = pair(old.infos, cur.infos, shared)
	r := &reader{opt: opt}
	d.Files, err = r.compare(ctx, old.layers, cur.layers, shared)
	d.Read = r.bytes
	return d, err
}

// pair lists layers: those that both stand on, then those of one and those of the
// other.
func pair(old, cur []Layer, shared int) []Layer {
	out := make([]Layer, 0, len(old)+len(cur)-shared)
	add := func(layers []Layer, in string) {
		for _, l := range layers {
			l.In = in
			out = append(out, l)
		}
	}
	add(cur[:shared], InBoth)
	add(old[shared:], OnlyWas)
	add(cur[shared:], OnlyIs)
	return out
}

// opened is an image whose manifest and config were read.
type opened struct {
	config *v1.ConfigFile
	layers []v1.Layer
	infos  []Layer
	size   int64
}

func open(img v1.Image) (o opened, err error) {
	if o.config, err = img.ConfigFile(); err != nil {
		return o, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return o, err
	}
	if o.layers, err = img.Layers(); err != nil {
		return o, err
	}
	if len(o.layers) != len(manifest.Layers) {
		return o, fmt.Errorf("it has %d layers and names %d", len(o.layers), len(manifest.Layers))
	}
	o.size = manifest.Config.Size
	var made []string
	for _, h := range o.config.History {
		if !h.EmptyLayer {
			made = append(made, h.CreatedBy)
		}
	}
	for i, l := range manifest.Layers {
		info := Layer{Digest: l.Digest.String(), Size: l.Size}
		if len(made) == len(manifest.Layers) {
			info.CreatedBy = made[i]
		}
		o.infos = append(o.infos, info)
		o.size += l.Size
	}
	return o, nil
}

// compare says in which paths two stacks of layers differ whose first layers are the
// same.
func (r *reader) compare(ctx context.Context, old, cur []v1.Layer, shared int) ([]Change, error) {
	before, err := r.stack(ctx, old[shared:])
	if err != nil {
		return nil, err
	}
	after, err := r.stack(ctx, cur[shared:])
	if err != nil {
		return nil, err
	}
	base := newStack()
	if shared > 0 && (!before.alone(after) || !after.alone(before)) {
		if base, err = r.stack(ctx, cur[:shared]); err != nil {
			return nil, err
		}
	}
	var out []Change
	for _, path := range paths(base, before, after) {
		was, is := before.over(base, path), after.over(base, path)
		if c, differs := change(path, was, is); differs {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return comparePaths(a.Path, b.Path) })
	return out, nil
}
