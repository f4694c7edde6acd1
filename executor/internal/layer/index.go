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
	"slices"

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
