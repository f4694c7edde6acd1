// Package compare says in what two container images differ: their configs,
// their histories and the file trees that a container of each would see.
//
// Layers are read as streams. Of a file's content only its SHA-256 is kept, so
// memory grows with the number of paths and not with the size of an image.
//
// What is held to be equal though the bytes are not, and why:
//
//   - config: the time stamps "created" and "history[].created": two builds
//     never share them.
//   - config: "rootfs.diff_ids": they hash the tar headers, time stamps
//     included. How many layers there are is compared, and the trees are.
//   - config: a member that is null and one that is absent: JSON writers
//     differ in it and no reader tells them apart.
//   - tree: modification times, unless [Options.ModTimes] is set: what RUN
//     writes carries the time of the build.
//   - tree: the permission bits of symbolic links: Linux has none.
//   - tree: user and group names in tar headers: a container sees numbers.
//   - tree: order and compression of tar entries, and, unless
//     [Options.Layers] is set, in which layer a path came to be: a container
//     sees the sum.
package compare

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// Difference is one respect in which two images, A and B, differ.
type Difference struct {
	Part  string `json:"part"`  // "config", "history", "tree" or "layer"
	Where string `json:"where"` // member of the config, "[3]" of the history, an absolute path, "[3]/path" of a layer
	Field string `json:"field"` // what of it differs: "mode", "created_by"; "" if all of it
	A     string `json:"a"`     // readable value in A; "absent" if there is none
	B     string `json:"b"`     // the same in B
}

// absent stands for a value that one of the images does not have.
const absent = "absent"

// String returns the difference as one line: "tree /etc/passwd mode: 0644 | 0600".
func (d Difference) String() string {
	where := d.Part + " " + d.Where
	if d.Field != "" {
		where += " " + d.Field
	}
	return fmt.Sprintf("%s: %s | %s", where, d.A, d.B)
}

// Options says what to compare beyond what always is.
type Options struct {
	ModTimes bool // also compare modification times, to the second
	Layers   bool // also compare which files each layer brings, directories and whiteouts left out
}

// Images compares two images and returns what differs, the config first, then
// the history, then the trees by path, then the layers. Both are read in full,
// at the same time. An image whose layers are not what its config says, or
// whose layers cannot be applied, is an error.
func Images(ctx context.Context, a, b v1.Image, o Options) ([]Difference, error) {
	return new(Flattener).Images(ctx, a, b, o)
}

// Images is the function [Images] with what f knows.
func (f *Flattener) Images(ctx context.Context, a, b v1.Image, o Options) ([]Difference, error) {
	diffs, err := Configs(a, b)
	if err != nil {
		return nil, err
	}
	var trees [2]*Tree
	g, ctx := errgroup.WithContext(ctx)
	for i, img := range []v1.Image{a, b} {
		g.Go(func() (err error) {
			trees[i], err = f.Flatten(ctx, img)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return append(diffs, Trees(trees[0], trees[1], o)...), nil
}

// Trees compares two flattened trees and returns what differs, by path.
func Trees(a, b *Tree, o Options) []Difference {
	fa, fb := a.files(), b.files()
	var diffs []Difference
	for _, p := range paths(fa, fb) {
		x, y := fa[p], fb[p]
		switch {
		case x == nil:
			diffs = append(diffs, Difference{Part: partTree, Where: p, A: absent, B: y.String()})
		case y == nil:
			diffs = append(diffs, Difference{Part: partTree, Where: p, A: x.String(), B: absent})
		default:
			for _, d := range compareFiles(x, y, o) {
				d.Part, d.Where = partTree, p
				diffs = append(diffs, d)
			}
		}
	}
	diffs = append(diffs, compareLinks(fa, fb)...)
	slices.SortStableFunc(diffs, func(x, y Difference) int { return cmp.Compare(x.Where, y.Where) })
	if o.Layers {
		diffs = append(diffs, compareLayers(a.layers, b.layers)...)
	}
	return diffs
}

// compareLayers compares layer by layer which files each brings. Layers that
// only one of the images has are left out: their number is compared elsewhere.
func compareLayers(a, b []map[string]*File) []Difference {
	var diffs []Difference
	for i := range min(len(a), len(b)) {
		for _, p := range paths(a[i], b[i]) {
			x, y := a[i][p], b[i][p]
			if x != nil && y != nil {
				continue
			}
			d := Difference{Part: partLayer, Where: fmt.Sprintf("[%d]%s", i, p), A: absent, B: absent}
			if x != nil {
				d.A = x.String()
			} else {
				d.B = y.String()
			}
			diffs = append(diffs, d)
		}
	}
	return diffs
}

// The parts of an image that a Difference names.
const (
	partConfig  = "config"
	partHistory = "history"
	partTree    = "tree"
	partLayer   = "layer"
)

// paths returns the keys of both maps in ascending order, each once.
func paths(a, b map[string]*File) []string {
	all := make([]string, 0, max(len(a), len(b)))
	for p := range a {
		all = append(all, p)
	}
	for p := range b {
		if a[p] == nil {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return all
}
