package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// ApplyOptions say how a layer is applied. The zero value is usable.
type ApplyOptions struct {
	// Skip names what is left out with everything below it; nil is nothing.
	Skip func(name string) bool
	// Pinned names directories that must stay directories; whatever else
	// the layer has in their place is lost. nil is none.
	Pinned func(name string) bool
	// Learn, if set, is told of every file that was written.
	Learn func(name string, p snapshot.Print, xattrs map[string]string)
	// Lost, if set, is told of what could not be kept: device nodes and
	// attributes that this process may not make. The layer itself stays as
	// it is, so nothing is lost from the image.
	Lost func(name string, err error)
	// First says that nothing of an image is in the root yet, so that
	// whiteouts have nothing to hide.
	First bool
	// Index, if set, gets the layer's index, which is whole only if there is no
	// error.
	Index io.Writer
}

// Apply applies an uncompressed layer changeset to a root filesystem as
// image-spec, layer.md, "Applying Changesets" says: whiteouts and opaque
// whiteouts hide what lower layers brought and never what this one brings.
func Apply(ctx context.Context, fsys rootfs.FS, r io.Reader, opt ApplyOptions) error {
	return applyIndexed(ctx, fsys, r, opt, new(int))
}

// applyIndexed is Apply that says which entry is being put.
func applyIndexed(ctx context.Context, fsys rootfs.FS, r io.Reader, opt ApplyOptions, at *int) error {
	a := &applier{fsys: fsys, opt: opt, printer: snapshot.NewPrinter()}
	if opt.Index == nil {
		return a.apply(ctx, r, at)
	}
	var err error
	if a.index, err = newIndexWriter(opt.Index); err != nil {
		return err
	}
	return errors.Join(a.apply(ctx, r, at), a.index.close())
}

func (a *applier) apply(ctx context.Context, r io.Reader, at *int) error {
	opt := a.opt
	if !opt.First {
		a.added = newNameSet()
	}
	tr := tar.NewReader(r)
	for *at = 0; ; *at++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read layer: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			*at--
			continue
		}
		if err := a.header(h, tr); err != nil {
			return fmt.Errorf("apply layer: /%s: %w", rootfs.Clean(h.Name), err)
		}
	}
	return a.finish()
}

type applier struct {
	fsys    rootfs.FS
	opt     ApplyOptions
	added   *nameSet       // by this layer; nil in the first
	dirs    []rootfs.Entry // whose times are set in the end
	printer *snapshot.Printer
	index   *indexWriter // may be nil
}

// errPinned is what Lost gets for an entry in the place of a directory that
// must stay.
var errPinned = errors.New("something is mounted below this directory")

func (a *applier) lost(name string, err error) {
	if a.opt.Lost != nil {
		a.opt.Lost(name, err)
	}
}

func (a *applier) skip(name string) bool { return a.opt.Skip != nil && a.opt.Skip(name) }

func (a *applier) header(h *tar.Header, content io.Reader) error {
	e, err := entryOf(h, rootfs.Clean(h.Name))
	if err != nil {
		return err
	}
	if a.index == nil {
		return a.entry(e, func() error { return a.put(e, content) })
	}
	return a.index.beside(e, content, func(content io.Reader) error {
		return a.entry(e, func() error { return a.put(e, content) })
	})
}

// entry applies one entry, which put puts.
func (a *applier) entry(e rootfs.Entry, put func() error) error {
	name := e.Name
	if a.skip(name) {
		return nil
	}
	if isWhiteout(name) {
		return a.whiteout(rootfs.Parent(name), path.Base(name))
	}
	if e.Hard && a.skip(e.Link) {
		return nil
	}
	if !e.Mode.IsDir() && a.opt.Pinned != nil && a.opt.Pinned(name) {
		a.lost(name, errPinned)
		return nil
	}
	if err := put(); err != nil {
		return err
	}
	if a.added != nil {
		a.added.add(name)
	}
	if e.Mode.IsDir() {
		a.dirs = append(a.dirs, e)
	}
	return nil
}

// isWhiteout tells whether an entry stands for what is not there.
func isWhiteout(name string) bool { return strings.HasPrefix(path.Base(name), whiteoutPrefix) }

func (a *applier) whiteout(dir, base string) error {
	if a.added == nil {
		return nil
	}
	if base != opaqueMarker {
		target := rootfs.Join(dir, strings.TrimPrefix(base, whiteoutPrefix))
		if strings.HasPrefix(base, whiteoutPrefix+whiteoutPrefix) || a.added.has(target) {
			return nil
		}
		return a.remove(target)
	}
	names, err := a.fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		child := rootfs.Join(dir, n)
		if a.added.has(child) || a.skip(child) {
			// What of it is not this layer's goes all the same.
			if a.added.has(child) {
				if err := a.whiteoutBelow(child); err != nil {
					return err
				}
			}
			continue
		}
		if err := a.remove(child); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) remove(name string) error {
	if a.skip(name) || a.opt.Pinned != nil && a.opt.Pinned(name) {
		return nil
	}
	return a.fsys.Remove(name)
}

// whiteoutBelow hides what lower layers left in a directory that this layer
// has touched.
func (a *applier) whiteoutBelow(dir string) error {
	e, err := a.fsys.Lstat(dir)
	if err != nil || !e.Mode.IsDir() {
		return err
	}
	return a.whiteout(dir, opaqueMarker)
}

// put puts the entry and, should they be missing, the directories above it.
func (a *applier) put(e rootfs.Entry, content io.Reader) error {
	if !e.Mode.IsRegular() || e.Hard {
		content = nil
	}
	if content != nil {
		a.printer.Reset()
		content = io.TeeReader(content, a.printer)
	}
	err := a.belowParents(e.Name, func() error { return a.fsys.Put(e, content) })
	if err != nil || a.opt.Learn == nil {
		return err
	}
	switch {
	case e.Hard:
		// Its content and extended attributes went by under the file's first name.
		if p, perr := snapshot.PrintFile(a.fsys, e.Name); perr == nil {
			if now, err := a.fsys.Lstat(e.Name); err == nil {
				e.Xattrs = now.Xattrs
			}
			a.opt.Learn(e.Name, p, e.Xattrs)
		}
	case content != nil:
		a.opt.Learn(e.Name, a.printer.Print(), e.Xattrs)
	case e.Mode&fs.ModeSymlink != 0:
		a.opt.Learn(e.Name, snapshot.PrintString(e.Link), e.Xattrs)
	case e.Xattrs != nil:
		a.opt.Learn(e.Name, snapshot.Print{}, e.Xattrs)
	}
	return nil
}

// belowParents calls put, and once more with the directories above the name
// made, should they be missing. What cannot be kept is lost and no error.
func (a *applier) belowParents(name string, put func() error) error {
	err := put()
	if errors.Is(err, fs.ErrNotExist) {
		if perr := a.parents(rootfs.Parent(name)); perr != nil {
			return perr
		}
		err = put()
	}
	if errors.Is(err, rootfs.ErrNoDevice) || errors.Is(err, rootfs.ErrXattr) {
		a.lost(name, err)
		return nil
	}
	return err
}

func (a *applier) parents(dir string) error {
	if dir == "." {
		return nil
	}
	real, err := rootfs.Resolve(a.fsys, dir)
	if err != nil {
		return err
	}
	if _, err := a.fsys.Lstat(real); err == nil {
		return nil
	}
	if err := a.parents(rootfs.Parent(real)); err != nil {
		return err
	}
	return a.fsys.Put(rootfs.Entry{Name: real, Mode: fs.ModeDir | 0o755}, nil)
}

// finish gives directories their times, which writing into them has changed:
// the deepest first.
func (a *applier) finish() error {
	for _, e := range slices.Backward(a.dirs) {
		now, err := a.fsys.Lstat(e.Name)
		if err != nil || !now.Mode.IsDir() {
			continue
		}
		e.Xattrs = nil
		if err := a.fsys.Put(e, nil); err != nil {
			return fmt.Errorf("apply layer: /%s: %w", e.Name, err)
		}
	}
	return nil
}

// entryOf reads a header. Unknown types are errors: a file that is silently
// left out is worse.
func entryOf(h *tar.Header, name string) (rootfs.Entry, error) {
	e := rootfs.Entry{
		Name: name, Mode: fileMode(h.Mode), UID: h.Uid, GID: h.Gid, Size: h.Size, ModTime: h.ModTime,
		Link: h.Linkname, Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		e.Link = ""
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
	case tar.TypeSymlink:
		e.Mode |= fs.ModeSymlink
	case tar.TypeLink:
		e.Hard, e.Link = true, rootfs.Clean(h.Linkname)
	case tar.TypeFifo:
		e.Mode |= fs.ModeNamedPipe
	case tar.TypeChar:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
	case tar.TypeBlock:
		e.Mode |= fs.ModeDevice
	default:
		return e, fmt.Errorf("entry of unknown type %q", h.Typeflag)
	}
	for k, v := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(k, xattrPrefix); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[attr] = v
		}
	}
	return e, nil
}
