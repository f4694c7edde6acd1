package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// An index is what a layer says of its files: everything but what they hold,
// and of that a print. The files by which users are looked up are in it whole.
// It is a zstd stream of a line and of entries in the layer's order, in whose
// fields numbers are varints and strings have their length before them.

// IndexFormat is how indexes are written. One of another format is of no use.
const IndexFormat = "kiln layer index 1"

// indexMagic begins an index.
const indexMagic = IndexFormat + "\n"

// ErrIndex is wrapped by the error of an index that cannot be used.
var ErrIndex = errors.New("the layer's index cannot be used")

// Bounds of what an index can hold: those of the kernel, or what a tar reader
// would take.
const (
	maxIndexName  = 1 << 20
	maxIndexValue = 1 << 20
	maxInline     = 256 << 10
)

// inlined names the files whose content is part of an index.
func inlined(name string) bool { return name == "etc/passwd" || name == "etc/group" }

// indexEntry is a file of a layer.
type indexEntry struct {
	rootfs.Entry
	print  snapshot.Print
	inline []byte // what it holds, if that was kept
}

// WriteIndex reads a layer, verifies it, and writes its index.
func WriteIndex(ctx context.Context, l v1.Layer, dst io.Writer) error {
	w, err := newIndexWriter(dst)
	if err != nil {
		return err
	}
	if err := unpack(ctx, l, nil, func(r io.Reader) error { return w.layer(ctx, r) }); err != nil {
		return errors.Join(fmt.Errorf("read names of layer%w", err), w.close())
	}
	return w.close()
}

// The marks before entries.
const (
	indexEnd   = 0
	indexFile  = 1
	indexHard  = 2
	indexPlain = 4 // no link, no device, no attributes
)

type indexWriter struct {
	zip   *zstd.Encoder
	w     *bufio.Writer
	last  string
	print *snapshot.Printer
	buf   []byte
}

func newIndexWriter(dst io.Writer) (*indexWriter, error) {
	zip, err := zstd.NewWriter(dst, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(512<<10))
	if err != nil {
		return nil, fmt.Errorf("write layer index: %w", err)
	}
	w := &indexWriter{zip: zip, w: bufio.NewWriterSize(zip, 64<<10), print: snapshot.NewPrinter(), buf: make([]byte, 128<<10)}
	_, _ = w.w.WriteString(indexMagic)
	return w, nil
}

// close ends the index, which is whole only then.
func (w *indexWriter) close() error {
	w.number(indexEnd)
	if err := errors.Join(w.w.Flush(), w.zip.Close()); err != nil {
		return fmt.Errorf("write layer index: %w", err)
	}
	return nil
}

func (w *indexWriter) layer(ctx context.Context, r io.Reader) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		e := indexEntry{}
		if e.Entry, err = entryOf(h, rootfs.Clean(h.Name)); err != nil {
			return fmt.Errorf("/%s: %w", rootfs.Clean(h.Name), err)
		}
		if e.Mode.IsRegular() && !e.Hard {
			if err := w.content(&e, tr); err != nil {
				return err
			}
		}
		w.entry(e)
	}
}

// beside writes the entry of a file that read reads, wholly or not.
func (w *indexWriter) beside(e rootfs.Entry, content io.Reader, read func(io.Reader) error) error {
	x := indexEntry{Entry: e}
	if !e.Mode.IsRegular() || e.Hard {
		w.entry(x)
		return read(content)
	}
	w.print.Reset()
	n := &sized{r: content}
	var seen io.Writer = w.print
	var body bytes.Buffer
	if inlined(e.Name) && e.Size <= maxInline {
		seen = io.MultiWriter(w.print, &body)
	}
	tee := io.TeeReader(n, seen)
	if err := read(tee); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(writerOnly{io.Discard}, tee, w.buf); err != nil {
		return err
	}
	x.Size, x.print, x.inline = n.n, w.print.Print(), body.Bytes()
	w.entry(x)
	return nil
}

// sized counts what is read.
type sized struct {
	r io.Reader
	n int64
}

func (s *sized) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	return n, err
}

// content reads what a file holds. Its size is what there really is.
func (w *indexWriter) content(e *indexEntry, r io.Reader) error {
	w.print.Reset()
	if inlined(e.Name) && e.Size <= maxInline {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		e.inline, e.Size = body, int64(len(body))
		_, _ = w.print.Write(body)
		e.print = w.print.Print()
		return nil
	}
	n, err := io.CopyBuffer(writerOnly{w.print}, readerOnly{r}, w.buf)
	e.Size, e.print = n, w.print.Print()
	return err
}

func (w *indexWriter) number(n int64) {
	var b [binary.MaxVarintLen64]byte
	_, _ = w.w.Write(b[:binary.PutVarint(b[:], n)])
}

func (w *indexWriter) text(s string) {
	w.number(int64(len(s)))
	_, _ = w.w.WriteString(s)
}

// entry writes one entry; of its name what differs from the name before. An
// error stays with the writer.
func (w *indexWriter) entry(e indexEntry) {
	mark := int64(indexFile)
	if e.Hard {
		mark |= indexHard
	}
	if e.Link == "" && e.Major == 0 && e.Minor == 0 && len(e.Xattrs) == 0 {
		mark |= indexPlain
	}
	w.number(mark)
	same := 0
	for same < min(len(e.Name), len(w.last)) && e.Name[same] == w.last[same] {
		same++
	}
	w.number(int64(same))
	w.text(e.Name[same:])
	w.last = e.Name
	for _, n := range []int64{int64(e.Mode), int64(e.UID), int64(e.GID), e.ModTime.Unix(), int64(e.ModTime.Nanosecond())} {
		w.number(n)
	}
	if mark&indexPlain == 0 {
		w.text(e.Link)
		w.number(int64(e.Major))
		w.number(int64(e.Minor))
		w.number(int64(len(e.Xattrs)))
		names := make([]string, 0, len(e.Xattrs))
		for n := range e.Xattrs {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			w.text(n)
			w.text(e.Xattrs[n])
		}
	}
	if !e.Mode.IsRegular() || e.Hard {
		return
	}
	w.number(e.Size)
	for _, half := range e.print {
		_, _ = w.w.Write(binary.BigEndian.AppendUint64(nil, half))
	}
	if inlined(e.Name) {
		w.text(string(e.inline))
	}
}

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
