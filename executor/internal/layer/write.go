// Package layer turns changes of a root filesystem into an OCI layer in one
// pass, and applies a layer to a root filesystem.
package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// WriteOptions say how Write makes a layer. The zero value is usable.
type WriteOptions struct {
	// Learn, if set, is told of every file that was read.
	Learn func(name string, p snapshot.Print, xattrs map[string]string)
	// Clamp, if not zero, is the latest mtime that is written; a later one
	// becomes it (SOURCE_DATE_EPOCH).
	Clamp time.Time

	index    *indexWriter       // of what is written; may be nil
	contents *progress.Contents // counts what is written; may be nil
}

// whiteoutPrefix marks a deleted file, and opaqueMarker a directory of which
// nothing below shows through (image-spec, layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	xattrPrefix    = "SCHILY.xattr."
)

// Write writes the changes, which are sorted by name, as an uncompressed layer
// changeset. The directories above a change are written too, as they are.
// Sockets are left out: no archive can hold one. Headers are deterministic:
// no user or group names, whole seconds, no access or change times.
func Write(ctx context.Context, dst io.Writer, fsys rootfs.FS, changes []snapshot.Change, opt WriteOptions) error {
	w := &writer{
		tw: tar.NewWriter(dst), fsys: fsys, opt: opt,
		dirs: map[string]bool{".": true}, inodes: map[rootfs.Inode]string{}, prints: map[string]snapshot.Print{},
		printer: snapshot.NewPrinter(), buf: make([]byte, 128<<10),
	}
	for _, c := range changes {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := w.change(c); err != nil {
			return fmt.Errorf("write layer: /%s: %w", c.Name, err)
		}
	}
	if err := w.tw.Close(); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	return nil
}

type writer struct {
	tw      *tar.Writer
	fsys    rootfs.FS
	opt     WriteOptions
	dirs    map[string]bool // directories that have a header
	inodes  map[rootfs.Inode]string
	prints  map[string]snapshot.Print // of files that may have further names, by the first
	printer *snapshot.Printer
	buf     []byte
}

func (w *writer) change(c snapshot.Change) error {
	if c.Name == "." {
		delete(w.dirs, ".")
		return w.parents(".")
	}
	if err := w.parents(rootfs.Parent(c.Name)); err != nil {
		return err
	}
	if c.Deleted {
		h := &tar.Header{
			Typeflag: tar.TypeReg,
			Name:     path.Join(rootfs.Parent(c.Name), whiteoutPrefix+path.Base(c.Name)),
			Format:   tar.FormatPAX,
		}
		w.indexed(h, emptyPrint(), nil)
		if w.opt.contents != nil {
			w.opt.contents.Removed++
		}
		return w.tw.WriteHeader(h)
	}
	if w.dirs[c.Name] {
		return nil
	}
	e, err := w.fsys.Lstat(c.Name)
	if err != nil {
		return err
	}
	return w.entry(e)
}

// parents writes the headers of the directories that lead to dir and dir's own.
func (w *writer) parents(dir string) error {
	if w.dirs[dir] {
		return nil
	}
	if dir != "." {
		if err := w.parents(rootfs.Parent(dir)); err != nil {
			return err
		}
	}
	e, err := w.fsys.Lstat(dir)
	if err != nil {
		return err
	}
	return w.entry(e)
}

func (w *writer) entry(e rootfs.Entry) error {
	if e.Mode&fs.ModeSocket != 0 {
		return nil
	}
	h := header(e, w.opt.Clamp)
	if e.Mode.IsDir() {
		w.dirs[e.Name] = true
		w.indexed(h, snapshot.Print{}, nil)
		return w.tw.WriteHeader(h)
	}
	if e.Nlink > 1 && e.Inode != (rootfs.Inode{}) {
		if first, ok := w.inodes[e.Inode]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			w.count(h)
			w.learn(e, w.prints[first])
			w.indexed(h, snapshot.Print{}, nil)
			return w.tw.WriteHeader(h)
		}
		w.inodes[e.Inode] = e.Name
	}
	w.count(h)
	if err := w.tw.WriteHeader(h); err != nil {
		return err
	}
	if e.Mode.IsRegular() {
		return w.content(e, h)
	}
	if e.Mode&fs.ModeSymlink != 0 {
		w.learn(e, snapshot.PrintString(e.Link))
	}
	w.indexed(h, snapshot.Print{}, nil)
	return nil
}

// count counts what is not a directory. A further name of a file has no bytes.
func (w *writer) count(h *tar.Header) {
	c := w.opt.contents
	switch {
	case c == nil:
	case h.Typeflag == tar.TypeReg && h.Size > 0:
		c.Add(h.Name, h.Size)
	default:
		c.Files++
	}
}

// indexed writes into the index what the layer has.
func (w *writer) indexed(h *tar.Header, p snapshot.Print, inline []byte) {
	if w.opt.index == nil {
		return
	}
	e, err := entryOf(h, rootfs.Clean(h.Name))
	if err != nil {
		return // of a type that header does not make
	}
	if e.ModTime.IsZero() {
		e.ModTime = time.Unix(0, 0) // as an archive has it
	}
	w.opt.index.entry(indexEntry{Entry: e, print: p, inline: inline})
}

func (w *writer) learn(e rootfs.Entry, p snapshot.Print) {
	if w.opt.Learn == nil {
		return
	}
	if e.Nlink > 1 {
		w.prints[e.Name] = p
	}
	w.opt.Learn(e.Name, p, e.Xattrs)
}

func (w *writer) content(e rootfs.Entry, h *tar.Header) error {
	if e.Size == 0 {
		w.learn(e, emptyPrint())
		w.indexed(h, emptyPrint(), nil)
		return nil
	}
	f, err := w.fsys.Open(e.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	w.printer.Reset()
	var inline *bytes.Buffer
	dst := []io.Writer{w.tw}
	if w.opt.Learn != nil || w.opt.index != nil {
		dst = append(dst, w.printer)
	}
	if w.opt.index != nil && inlined(e.Name) && e.Size <= maxInline {
		inline = &bytes.Buffer{}
		dst = append(dst, inline)
	}
	n, err := io.CopyBuffer(writerOnly{io.MultiWriter(dst...)}, readerOnly{io.LimitReader(f, e.Size)}, w.buf)
	if err != nil {
		return err
	}
	if n != e.Size {
		return fmt.Errorf("the file shrank from %d to %d bytes while it was read: something is still writing to it", e.Size, n)
	}
	w.learn(e, w.printer.Print())
	if inline != nil {
		w.indexed(h, w.printer.Print(), inline.Bytes())
	} else {
		w.indexed(h, w.printer.Print(), nil)
	}
	return nil
}

func emptyPrint() snapshot.Print { return snapshot.PrintString("") }

// writerOnly and readerOnly hide the methods that make io.Copy allocate a
// buffer of its own.
type writerOnly struct{ io.Writer }
type readerOnly struct{ io.Reader }

func header(e rootfs.Entry, clamp time.Time) *tar.Header {
	mtime := e.ModTime.Truncate(time.Second)
	if !clamp.IsZero() && mtime.After(clamp) {
		mtime = clamp
	}
	h := &tar.Header{
		Name: e.Name, Mode: int64(unixMode(e.Mode)), Uid: e.UID, Gid: e.GID,
		ModTime: mtime, Format: tar.FormatPAX,
	}
	switch {
	case e.Mode.IsDir():
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case e.Mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case e.Mode&fs.ModeNamedPipe != 0:
		h.Typeflag = tar.TypeFifo
	case e.Mode&fs.ModeDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(e.Major), int64(e.Minor)
		if e.Mode&fs.ModeCharDevice != 0 {
			h.Typeflag = tar.TypeChar
		}
	default:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	}
	for name, v := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+name] = v
	}
	return h
}

// unixMode returns the permission bits as the tar header has them.
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		u |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		u |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		u |= 0o1000
	}
	return u
}

func fileMode(u int64) fs.FileMode {
	m := fs.FileMode(u & 0o777)
	if u&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if u&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if u&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}
