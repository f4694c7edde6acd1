package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/stargz-snapshotter/estargz"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/e2e/internal/cache"
)

// asStargz ends the names of base images that are converted.
const asStargz = "-estargz"

// stargz returns a base image whose layers are eStargz, with the files that they have.
func (b bases) stargz(ctx context.Context, of string) (v1.Image, error) {
	img, err := b.image(ctx, of)
	if err != nil {
		return nil, err
	}
	name := of + asStargz
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("make base image %s: %w", name, err)
	}
	entry, err := b.cache.Get(ctx, "bench-"+b.sizes.name+"-"+name, cache.Key(recipe, "oci", digest.String()), func(_ context.Context, dir string) error {
		fmt.Fprintf(b.log, "making base image %s (once)\n", name)
		out, err := converted(dir, img)
		if err != nil {
			return err
		}
		return store(dir, out)
	})
	if err != nil {
		return nil, fmt.Errorf("make base image %s: %w", name, err)
	}
	return open(entry, name)
}

// converted makes the layers of an image eStargz, in files in dir.
func converted(dir string, img v1.Image) (v1.Image, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	out := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for i, l := range layers {
		add, err := convertedLayer(filepath.Join(dir, fmt.Sprintf("layer%d.tar.gz", i)), l)
		if err == nil {
			out, err = mutate.Append(out, add)
		}
		if err != nil {
			return nil, err
		}
	}
	same, err := out.ConfigFile()
	if err != nil {
		return nil, err
	}
	same = same.DeepCopy()
	same.Architecture, same.OS, same.Config, same.Created = config.Architecture, config.OS, config.Config, config.Created
	return mutate.ConfigFile(out, same)
}

func convertedLayer(path string, l v1.Layer) (mutate.Addendum, error) {
	plain, err := l.Uncompressed()
	if err != nil {
		return mutate.Addendum{}, err
	}
	defer plain.Close()
	f, err := os.Create(path)
	if err != nil {
		return mutate.Addendum{}, err
	}
	defer f.Close()
	const level = 6 // as the layers of the others are
	w := estargz.NewWriterLevel(f, level)
	if err := w.AppendTar(plain); err != nil {
		return mutate.Addendum{}, err
	}
	sum, err := w.Close()
	if err != nil {
		return mutate.Addendum{}, err
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // to its end it is verified
		return mutate.Addendum{}, err
	}
	stargz, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
	return mutate.Addendum{Layer: stargz, History: v1.History{Created: v1.Time{Time: made()}, CreatedBy: "bench"},
		Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: sum.String()}}, err
}
