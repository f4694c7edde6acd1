package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// ApplySome applies a layer to a tree of which only some files will be read: what
// those hold is kept while the layer goes by, once, as what a tree is given is. What
// the others hold is read from the layer again should somebody ask, and kept in
// spool. read is the layer as it is read now.
func ApplySome(ctx context.Context, tree *rootfs.Tree, read, l v1.Layer, spool *rootfs.Spool, want func(name string) bool, opt ApplyOptions) error {
	s := &some{Tree: tree, want: want, from: &layerFiles{ctx: ctx, layer: l, spool: spool}, print: snapshot.NewPrinter(), buf: make([]byte, 128<<10)}
	err := unpack(ctx, read, nil, func(r io.Reader) error { return applyIndexed(ctx, s, r, opt, &s.at) })
	if err != nil {
		return fmt.Errorf("read files of layer%w", err)
	}
	return nil
}

// Below returns a function that tells whether a name is among paths, which may be
// patterns, or below one, or may be: links are not followed.
func Below(paths []string) func(name string) bool {
	var roots []string
	for _, p := range paths {
		roots = append(roots, Literal(p))
	}
	return func(name string) bool {
		for _, r := range roots {
			if r == "." || name == r || strings.HasPrefix(name, r+"/") {
				return true
			}
		}
		return false
	}
}

// Literal is the path that all that a pattern matches is at or below.
func Literal(pattern string) string {
	if i := strings.IndexAny(pattern, "*?[\\"); i >= 0 {
		pattern = pattern[:strings.LastIndexByte(pattern[:i], '/')+1]
	}
	return rootfs.Clean(pattern)
}

// some is a tree that keeps what some files hold.
type some struct {
	*rootfs.Tree
	want  func(name string) bool
	from  *layerFiles
	at    int // which entry of the layer is being put
	print *snapshot.Printer
	buf   []byte
}

// Put implements rootfs.FS.
func (s *some) Put(e rootfs.Entry, content io.Reader) error {
	if content == nil || !e.Mode.IsRegular() || e.Hard || e.Size == 0 || inlined(e.Name) || s.want(e.Name) {
		return s.Tree.Put(e, content)
	}
	// Put before it is read: should a directory be missing it is made and this is
	// called again.
	f := &layerFile{from: s.from, n: s.at}
	err := s.PutContent(e, f)
	if err != nil && !errors.Is(err, rootfs.ErrXattr) {
		return err
	}
	s.print.Reset()
	if _, err := io.CopyBuffer(writerOnly{s.print}, readerOnly{content}, s.buf); err != nil {
		return err
	}
	f.print = s.print.Print()
	return err
}
