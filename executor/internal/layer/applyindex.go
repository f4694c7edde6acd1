package layer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// ApplyIndex applies a layer to a tree by its index. What the layer's files
// hold is read from the layer if it is asked for, and kept in spool. After an
// ErrIndex some of the layer is applied; it can be applied again.
func ApplyIndex(ctx context.Context, tree *rootfs.Tree, index io.Reader, l v1.Layer, spool *rootfs.Spool, opt ApplyOptions) error {
	zr, err := zstd.NewReader(index, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIndex, err)
	}
	defer zr.Close()
	r := &indexReader{r: bufio.NewReaderSize(zr, 64<<10)}
	if err := r.magic(); err != nil {
		return fmt.Errorf("%w: %w", ErrIndex, err)
	}
	a := &applier{fsys: tree, opt: opt}
	if !opt.First {
		a.added = newNameSet()
	}
	from := &layerFiles{ctx: ctx, layer: l, spool: spool}
	for n := 0; ; n++ {
		e, ok, err := r.entry()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrIndex, err)
		}
		if !ok {
			return a.finish()
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		put := func() error { return tree.Put(e.Entry, nil) }
		if e.Mode.IsRegular() && !e.Hard {
			put = func() error { return tree.PutContent(e.Entry, contentOf(e, from, n)) }
		}
		err = a.entry(e.Entry, func() error { return a.belowParents(e.Name, put) })
		if err != nil {
			return fmt.Errorf("apply layer: /%s: %w", e.Name, err)
		}
	}
}

func contentOf(e indexEntry, from *layerFiles, n int) rootfs.Content {
	switch {
	case e.Size == 0:
		return nil
	case e.inline != nil:
		return inlineContent{e.inline, e.print}
	case e.print == snapshot.Print{}: // the index is of a Table
		return &listedFile{layerFile: layerFile{from: from, n: n}, name: e.Name, size: e.Size}
	}
	return &layerFile{from: from, n: n, print: e.print}
}

// inlineContent is what a small file holds.
type inlineContent struct {
	body  []byte
	print snapshot.Print
}

func (c inlineContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(c.body)), nil
}
func (c inlineContent) Print() [2]uint64 { return c.print }

type indexReader struct {
	r    *bufio.Reader
	last string
	err  error
}

var errIndex = errors.New("it is malformed")

func (r *indexReader) magic() error {
	got := make([]byte, len(indexMagic))
	if _, err := io.ReadFull(r.r, got); err != nil {
		return err
	}
	if string(got) != indexMagic {
		return errors.New("it is of another version")
	}
	return nil
}

// number reads a number from low to high. After an error everything is 0.
func (r *indexReader) number(low, high int64) int64 {
	if r.err != nil {
		return 0
	}
	n, err := binary.ReadVarint(r.r)
	if err == nil && (n < low || n > high) {
		err = errIndex
	}
	if err != nil {
		r.err = err
		return 0
	}
	return n
}

func (r *indexReader) text(most int64) string {
	b := make([]byte, r.number(0, most))
	if r.err != nil {
		return ""
	}
	_, r.err = io.ReadFull(r.r, b)
	return string(b)
}

func (r *indexReader) half() uint64 {
	var b [8]byte
	if r.err == nil {
		_, r.err = io.ReadFull(r.r, b[:])
	}
	return binary.BigEndian.Uint64(b[:])
}

const (
	most32 = 1<<32 - 1
	mostID = 1<<62 - 1
)

// entry reads the next entry; false at the end.
func (r *indexReader) entry() (e indexEntry, ok bool, err error) {
	mark := r.number(indexEnd, indexFile|indexHard|indexPlain)
	if r.err != nil || mark == indexEnd {
		return e, false, noEOF(r.err)
	}
	e.Hard = mark&indexHard != 0
	same := r.number(0, int64(len(r.last)))
	e.Name = r.last[:same] + r.text(maxIndexName)
	r.last = e.Name
	e.Mode = fs.FileMode(r.number(0, most32)) //nolint:gosec // bounded
	e.UID, e.GID = int(r.number(-mostID, mostID)), int(r.number(-mostID, mostID))
	sec := r.number(-mostID, mostID)
	e.ModTime = time.Unix(sec, r.number(0, 999_999_999))
	if mark&indexPlain == 0 {
		e.Link = r.text(maxIndexName)
		e.Major, e.Minor = uint32(r.number(0, most32)), uint32(r.number(0, most32)) //nolint:gosec // bounded
		for n := r.number(0, 1<<16); n > 0 && r.err == nil; n-- {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			name := r.text(maxIndexValue)
			e.Xattrs[name] = r.text(maxIndexValue)
		}
	}
	if e.Mode.IsRegular() && !e.Hard {
		e.Size = r.number(0, 1<<62)
		e.print = snapshot.Print{r.half(), r.half()}
		if inlined(e.Name) {
			if body := r.text(maxInline); body != "" {
				e.inline = []byte(body)
			}
		}
	}
	if r.err == nil && e.Name != rootfs.Clean(e.Name) || e.Mode&fs.ModeSymlink != 0 && strings.ContainsRune(e.Link, 0) {
		r.err = errIndex
	}
	return e, r.err == nil, noEOF(r.err)
}

// noEOF is the error of an index that ends too early.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
