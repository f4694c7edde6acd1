package compare

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Tree is what a container of an image sees: its layers applied in order.
type Tree struct {
	root   *node
	base   *Tree              // the known image that it was started from; nil if none
	layers []map[string]*File // what each layer brought, by absolute path; no directories, no whiteouts
	blobs  []v1.Hash          // digests of the layers
	ids    []v1.Hash          // diff ids of the layers
}

// node is one name in a tree.
type node struct {
	file     *File
	children map[string]*node // of a directory
	layer    int              // that last wrote this name
}

// The names that a layer marks removals with, see
// https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md#whiteouts
const (
	whiteoutPrefix = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
	auxPrefix      = ".wh..wh." // aufs bookkeeping, never a file of the image
)

// maxLinks is how many symbolic links Linux follows before ELOOP.
const maxLinks = 40

func directory(layer int) *node {
	f := &File{Type: Directory, Mode: 0o755, ModTime: time.Unix(0, 0)}
	return &node{file: f, children: make(map[string]*node), layer: layer}
}

// apply adds a layer and checks that its content is what the config says.
func (t *Tree) apply(ctx context.Context, number int, l v1.Layer, diffID v1.Hash) (err error) {
	stream, err := l.Uncompressed()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	sum := sha256.New()
	whole := io.TeeReader(stream, sum)
	archive := tar.NewReader(whole)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if err := t.add(number, h, archive); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, whole); err != nil {
		return fmt.Errorf("read what follows the tar: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != diffID.Hex {
		return fmt.Errorf("its content is sha256:%s, the config says %s", got, diffID)
	}
	return nil
}

// add applies one tar entry.
func (t *Tree) add(layer int, h *tar.Header, content io.Reader) error {
	dir, base := path.Split(path.Clean("/" + h.Name))
	if base == "" {
		return t.addRoot(layer, h)
	}
	if h.Typeflag == tar.TypeXGlobalHeader || strings.Contains(dir, "/"+auxPrefix) {
		return nil
	}
	if name, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		t.whiteout(layer, dir, base, name)
		return nil
	}
	parent, err := t.parent(layer, dir)
	if err != nil {
		return err
	}
	f, err := t.file(h, content)
	if err != nil {
		return err
	}
	parent.put(base, f, layer)
	if f.Type != Directory {
		t.layers[layer-1][dir+base] = f
	}
	return nil
}

// file makes what an entry describes, or finds it if that is a hard link.
func (t *Tree) file(h *tar.Header, content io.Reader) (*File, error) {
	if h.Typeflag == tar.TypeLink {
		return t.linked(h)
	}
	f, err := newFile(h)
	if err != nil || f.Type != Regular {
		return f, err
	}
	if f.SHA256, err = digest(content); err != nil {
		return nil, fmt.Errorf("read content: %w", err)
	}
	return f, nil
}

func (t *Tree) addRoot(layer int, h *tar.Header) error {
	f, err := newFile(h)
	if err != nil {
		return err
	}
	if f.Type != Directory {
		return fmt.Errorf("the root is a %s", f.Type)
	}
	t.root.file, t.root.layer = f, layer
	return nil
}

func digest(content io.Reader) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// put makes base name f. A directory that stays a directory keeps its children.
func (n *node) put(base string, f *File, layer int) {
	old := n.children[base]
	if f.Type == Directory && old != nil && old.file.Type == Directory {
		old.file, old.layer = f, layer
		return
	}
	made := &node{file: f, layer: layer}
	if f.Type == Directory {
		made.children = make(map[string]*node)
	}
	n.children[base] = made
}

// linked returns the file that a hard link names, which may stand in this layer
// or in a lower one.
func (t *Tree) linked(h *tar.Header) (*File, error) {
	dir, name := path.Split(path.Clean("/" + h.Linkname))
	holder := t.lookup(dir)
	if holder == nil || holder.children[name] == nil {
		return nil, fmt.Errorf("hard link to %q, which is not there", h.Linkname)
	}
	f := holder.children[name].file
	if f.Type == Directory {
		return nil, fmt.Errorf("hard link to %q, which is a directory", h.Linkname)
	}
	if f.Type != Symlink {
		f.relink(h)
	}
	return f, nil
}

// whiteout takes away what lower layers brought: name in dir or, for an opaque
// whiteout, everything in dir. What this layer itself wrote stays.
func (t *Tree) whiteout(layer int, dir, base, name string) {
	parent := t.lookup(dir)
	switch {
	case parent == nil:
	case base == opaqueWhiteout:
		for child := range parent.children {
			parent.drop(child, layer)
		}
	case strings.HasPrefix(base, auxPrefix):
	default:
		parent.drop(name, layer)
	}
}

// drop removes a child and all below it except what the layer itself wrote.
func (n *node) drop(name string, layer int) {
	child := n.children[name]
	if child == nil {
		return
	}
	for grandchild := range child.children {
		child.drop(grandchild, layer)
	}
	if child.layer < layer && len(child.children) == 0 {
		delete(n.children, name)
	}
}

// lookup returns the directory that dir leads to, or nil.
func (t *Tree) lookup(dir string) *node {
	n, err := t.walk(dir, func(*node, string) *node { return nil })
	if err != nil {
		return nil
	}
	return n
}

// parent returns the directory that dir leads to and makes what is missing.
func (t *Tree) parent(layer int, dir string) (*node, error) {
	return t.walk(dir, func(n *node, name string) *node {
		made := directory(layer)
		n.children[name] = made
		return made
	})
}

// walk follows dir from the root, through symbolic links as chroot would. What
// is missing is made by missing; its nil ends the walk.
func (t *Tree) walk(dir string, missing func(in *node, name string) *node) (*node, error) {
	trail := []*node{t.root}
	rest := strings.Split(dir, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		here := trail[len(trail)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		next := here.children[name]
		if next == nil {
			next = missing(here, name)
		}
		switch {
		case next == nil:
			return nil, fmt.Errorf("no directory %q", dir)
		case next.file.Type == Directory:
			trail = append(trail, next)
		case next.file.Type != Symlink:
			return nil, fmt.Errorf("its parent %q is a %s", name, next.file.Type)
		default:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("too many symbolic links in %q", dir)
			}
			if strings.HasPrefix(next.file.Target, "/") {
				trail = trail[:1]
			}
			rest = append(strings.Split(next.file.Target, "/"), rest...)
		}
	}
	return trail[len(trail)-1], nil
}

// files returns every file by its absolute path, the root as "/".
func (t *Tree) files() map[string]*File {
	all := map[string]*File{"/": t.root.file}
	var visit func(prefix string, n *node)
	visit = func(prefix string, n *node) {
		for name, child := range n.children {
			p := prefix + "/" + name
			all[p] = child.file
			visit(p, child)
		}
	}
	visit("", t.root)
	return all
}
