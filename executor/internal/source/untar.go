package source

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"
)

// untar unpacks the tar archive in r into t, which is at dir.
func untar(r *tail, t *tree, dir string) error {
	tr := tar.NewReader(r)
	last := ""
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if r.zeros < tarBlock {
				return fmt.Errorf("%w: the end-of-archive marker is missing%s", ErrTruncated, after(last))
			}
			return nil
		}
		if err != nil {
			return badTar(err, last)
		}
		if h.Typeflag == tar.TypeXGlobalHeader { // what "git archive" puts first
			continue
		}
		last = h.Name
		if err := putEntry(t, h, tr); err != nil {
			return badEntry(err, h.Name, dir)
		}
	}
}

// after says where in the archive something happened.
func after(last string) string {
	if last == "" {
		return " at its beginning"
	}
	return fmt.Sprintf(" after entry %q", last)
}

func badTar(err error, last string) error {
	var read *readError
	switch {
	case errors.As(err, &read):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w%s", ErrTruncated, after(last))
	}
	if last == "" {
		return fmt.Errorf("%w: %w", ErrNotArchive, err)
	}
	return fmt.Errorf("corrupt tar archive%s: %w", after(last), err)
}

// badEntry says which entry could not be unpacked and why.
func badEntry(err error, name, dir string) error {
	var limit *LimitError
	var read *readError
	var refused *entryError
	switch {
	case errors.As(err, &limit), errors.As(err, &read), errors.As(err, &refused):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w in entry %q", ErrTruncated, name)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("tar entry %q: %w", name, writeFailed(dir, err))
	}
	return fmt.Errorf("tar entry %q: %w", name, err)
}

// writeFailed says which directory could not be written to.
func writeFailed(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("unpack to %s: %w: make room there or use another directory", dir, err)
	}
	return fmt.Errorf("unpack to %s: %w", dir, err)
}

// entryError refuses an entry.
type entryError struct{ name, why string }

func (e *entryError) Error() string {
	return fmt.Sprintf("tar entry %q is not allowed: %s", e.name, e.why)
}

// entryName makes the name of an entry, or the target of its hard link, clean
// and relative.
func entryName(entry, name string) (string, error) {
	if strings.HasPrefix(name, "/") {
		return "", &entryError{entry, "has an absolute path"}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", &entryError{entry, "references parent directory"}
		}
	}
	if strings.ContainsRune(name, 0) {
		return "", &entryError{entry, "has a NUL byte in its name"}
	}
	return path.Clean(name), nil
}

// putEntry makes what h describes.
func putEntry(t *tree, h *tar.Header, content io.Reader) error {
	name, err := entryName(h.Name, h.Name)
	if err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	if name == "." {
		if h.Typeflag == tar.TypeDir { // the root itself; it is there already
			return nil
		}
		return &entryError{h.Name, "has no name"}
	}
	perm := mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return t.file(name, perm, h.ModTime, content)
	case tar.TypeDir:
		return t.mkdir(name, perm, h.ModTime)
	case tar.TypeSymlink:
		return t.symlink(name, h.Linkname, h.ModTime)
	case tar.TypeLink:
		target, err := entryName(h.Name, h.Linkname)
		if err != nil {
			return err
		}
		return t.link(name, target, h.ModTime)
	case tar.TypeChar, tar.TypeBlock:
		return &entryError{h.Name, "a device node cannot be part of a build context"}
	case tar.TypeFifo:
		return &entryError{h.Name, "a named pipe cannot be part of a build context"}
	}
	return &entryError{h.Name, fmt.Sprintf("entries of type %q are unknown", h.Typeflag)}
}
