package main

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/kilnhook/kiln/e2e/bench/corpus"
	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/tools"
)

// recipe changes whenever a base image does but neither corpus nor gen.
const recipe = "1"

// bases makes the images that workloads build on. All have busybox and gen.
type bases struct {
	cache  cache.Dir
	module string // directory of Kiln's module
	sizes  sizes
	log    io.Writer
}

// image returns one of the base images: small, large, tree, node or go, or one of them
// as eStargz. The first call makes it and keeps it in the cache.
func (b bases) image(ctx context.Context, name string) (v1.Image, error) {
	if of, ok := strings.CutSuffix(name, asStargz); ok {
		return b.stargz(ctx, of)
	}
	layers, key, err := b.layers(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("make base image %s: %w", name, err)
	}
	for _, file := range []string{"corpus/corpus.go", "gen/main.go"} {
		source, err := os.ReadFile(filepath.Join(b.module, "e2e", "bench", file))
		if err != nil {
			return nil, fmt.Errorf("make base image %s: %w", name, err)
		}
		key += string(source)
	}
	entry, err := b.cache.Get(ctx, "bench-"+b.sizes.name+"-"+name, cache.Key(recipe, runtime.GOARCH, runtime.Version(), key),
		func(ctx context.Context, dir string) error {
			fmt.Fprintf(b.log, "making base image %s (once)\n", name)
			return b.write(ctx, dir, layers)
		})
	if err != nil {
		return nil, fmt.Errorf("make base image %s: %w", name, err)
	}
	return open(entry, name)
}

// open opens an image in the cache.
func open(entry, name string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(filepath.Join(entry, "image"))
	if err != nil {
		return nil, fmt.Errorf("open base image %s: %w", name, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("open base image %s: %w", name, err)
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// layerFunc writes the content of a layer.
type layerFunc func(*tree) error

// layers are those on top of busybox and gen, and what they depend on.
func (b bases) layers(ctx context.Context, name string) ([]layerFunc, string, error) {
	s := b.sizes
	files := func(to string, f corpus.Files) layerFunc {
		return func(t *tree) error {
			return f.Each(func(path string, content []byte) error { return t.file(to+"/"+path, 0o644, content) })
		}
	}
	switch name {
	case "small":
		return nil, "", nil
	case "large":
		// Of unequal size, as the layers of a language's image are.
		var layers []layerFunc
		for i, share := range []int64{1, 1, 2, 4} {
			layers = append(layers, files(fmt.Sprintf("usr/lib/base%d", i),
				corpus.Files{Count: s.files * int(share) / 8, Bytes: s.bytes * share / 8, Seed: uint64(i)}))
		}
		return layers, fmt.Sprint(s.files, s.bytes), nil
	case "tree":
		return []layerFunc{files("srv/tree", corpus.Files{Count: s.tree, Seed: 1})}, fmt.Sprint(s.tree), nil
	case "twig":
		return []layerFunc{files("srv/tree", corpus.Files{Count: s.tree / 100, Seed: 1})}, fmt.Sprint(s.tree), nil
	case "node":
		return []layerFunc{files("usr/lib/node", corpus.Files{Count: s.files / 5, Bytes: s.bytes / 4, Seed: 9})}, fmt.Sprint(s.files, s.bytes), nil
	case "go":
		out, err := process.Run(ctx, exec.CommandContext(ctx, "go", "env", "GOROOT"), nil)
		if err != nil {
			return nil, "", err
		}
		root := strings.TrimSpace(string(out))
		return []layerFunc{func(t *tree) error { return toolchain(t, root) }}, root, nil
	}
	return nil, "", fmt.Errorf("there is no such image")
}

// write makes an image and stores it as an OCI layout in dir/image.
func (b bases) write(ctx context.Context, dir string, layers []layerFunc) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w; run .ci/setup bench", err)
	}
	_, images, err := baseimage.Busybox(ctx, busybox)
	if err != nil {
		return err
	}
	gen := filepath.Join(dir, "gen")
	if err := tools.Build(ctx, gen, "./e2e/bench/gen"); err != nil {
		return err
	}
	layers = append([]layerFunc{func(t *tree) error {
		content, err := os.ReadFile(gen)
		if err != nil {
			return err
		}
		return t.file("bin/gen", 0o755, content)
	}}, layers...)
	img := images[0]
	for i, content := range layers {
		layer, err := writeLayer(filepath.Join(dir, fmt.Sprintf("layer%d.tar.gz", i)), content)
		if err != nil {
			return err
		}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: made()}, CreatedBy: "bench"}}); err != nil {
			return err
		}
	}
	if err := store(dir, img); err != nil {
		return err
	}
	return os.Remove(gen)
}

// store stores an image as an OCI layout in dir/image, and removes the layers of which
// it was made.
func store(dir string, img v1.Image) error {
	to, err := layout.Write(filepath.Join(dir, "image"), empty.Index)
	if err != nil {
		return err
	}
	if err := to.AppendImage(img); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "layer*.tar.gz"))
	for _, path := range old {
		if err == nil {
			err = os.Remove(path)
		}
	}
	return err
}

func writeLayer(path string, content layerFunc) (v1.Layer, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, 6)
	if err != nil {
		return nil, err
	}
	t := &tree{w: tar.NewWriter(z), dirs: map[string]bool{".": true}}
	if err := content(t); err != nil {
		return nil, err
	}
	for _, c := range []io.Closer{t.w, z, f} {
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	return tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
}

// made is the time of all files of base images.
func made() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// tree writes files to a layer, with the directories that they are in.
type tree struct {
	w    *tar.Writer
	dirs map[string]bool
}

func (t *tree) file(name string, mode int64, content []byte) error {
	if err := t.parents(path.Dir(name)); err != nil {
		return err
	}
	if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: made()}); err != nil {
		return err
	}
	_, err := t.w.Write(content)
	return err
}

func (t *tree) parents(dir string) error {
	if t.dirs[dir] {
		return nil
	}
	t.dirs[dir] = true
	if err := t.parents(path.Dir(dir)); err != nil {
		return err
	}
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: made()})
}

// toolchain adds what of a Go installation compiles programs.
func toolchain(t *tree, root string) error {
	for _, part := range []string{"bin", "pkg/include", "pkg/tool", "src", "lib/time", "go.env", "VERSION"} {
		err := filepath.WalkDir(filepath.Join(root, part), func(full string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "testdata" {
				return fs.SkipDir
			}
			if !d.Type().IsRegular() || strings.HasSuffix(full, "_test.go") {
				return nil
			}
			name, err := filepath.Rel(root, full)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			content, err := os.ReadFile(full)
			if err != nil {
				return err
			}
			return t.file("usr/local/go/"+name, int64(info.Mode().Perm()), content)
		})
		if err != nil {
			return fmt.Errorf("read the Go toolchain: %w", err)
		}
	}
	return nil
}
