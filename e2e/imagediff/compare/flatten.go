package compare

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Flattener flattens images and knows the trees of some, so that the layers of
// a base image need not be read again for every image on top of it. The zero
// value knows none. Flatten may be called concurrently, Learn may not.
type Flattener struct{ known []*Tree }

// Learn flattens an image and keeps its tree.
func (f *Flattener) Learn(ctx context.Context, img v1.Image) error {
	t, err := f.Flatten(ctx, img)
	if err != nil {
		return err
	}
	f.known = append(f.known, t)
	return nil
}

// Flatten reads an image's layers and applies them in order. Whiteouts take
// away what lower layers brought, wherever in the layer they stand. The parent
// of a path is looked up as a process chrooted to the tree would: links are
// followed and stay inside. A missing parent is made as a directory 0755 0:0.
func (f *Flattener) Flatten(ctx context.Context, img v1.Image) (*Tree, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	ids := config.RootFS.DiffIDs
	if len(ids) != len(layers) {
		return nil, fmt.Errorf("the manifest has %d layers, the config %d", len(layers), len(ids))
	}
	blobs := make([]v1.Hash, len(layers))
	for i, l := range layers {
		if blobs[i], err = l.Digest(); err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	t := f.start(blobs, ids)
	for i := len(t.layers); i < len(layers); i++ {
		t.blobs, t.ids = append(t.blobs, blobs[i]), append(t.ids, ids[i])
		t.layers = append(t.layers, make(map[string]*File))
		if err := t.apply(ctx, i+1, layers[i], ids[i]); err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	return t, nil
}

// start returns a tree of as many of the lowest layers as are known.
func (f *Flattener) start(blobs, ids []v1.Hash) *Tree {
	none := &Tree{root: directory(0)}
	best := none
	for _, t := range f.known {
		if len(t.blobs) > len(best.blobs) && hasPrefix(blobs, t.blobs) && hasPrefix(ids, t.ids) {
			best = t
		}
	}
	t := best.clone()
	if best != none {
		t.base = best
	}
	return t
}

func hasPrefix(all, prefix []v1.Hash) bool {
	if len(prefix) > len(all) {
		return false
	}
	for i := range prefix {
		if all[i] != prefix[i] {
			return false
		}
	}
	return true
}

// clone copies a tree so that layers applied to the one do not change the
// other. Names of one file stay names of one file.
func (t *Tree) clone() *Tree {
	files := make(map[*File]*File)
	file := func(f *File) *File {
		if files[f] == nil {
			made := *f
			files[f] = &made
		}
		return files[f]
	}
	var dir func(n *node) *node
	dir = func(n *node) *node {
		made := &node{file: file(n.file), layer: n.layer}
		if n.children != nil {
			made.children = make(map[string]*node, len(n.children))
		}
		for name, child := range n.children {
			made.children[name] = dir(child)
		}
		return made
	}
	made := &Tree{root: dir(t.root), blobs: append([]v1.Hash(nil), t.blobs...), ids: append([]v1.Hash(nil), t.ids...)}
	for _, l := range t.layers {
		brought := make(map[string]*File, len(l))
		for p, f := range l {
			brought[p] = file(f)
		}
		made.layers = append(made.layers, brought)
	}
	return made
}
