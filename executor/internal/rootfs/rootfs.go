// Package rootfs is the seam between a build and the root filesystem that it
// builds: a small interface, the names it speaks of, and how a name that an
// image or a Dockerfile supplied is resolved without ever leaving the root.
//
// Names are slash separated and relative to the root: "usr/bin/env". The root
// itself is ".". A name never begins with a slash and never holds an empty, "."
// or ".." component; [Clean] makes one of anything.
package rootfs

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Entry is everything about a file except its content.
type Entry struct {
	Name     string            // clean name, "." for the root
	Mode     fs.FileMode       // type and permission bits, setuid, setgid and sticky included
	UID, GID int               // numeric owner
	Size     int64             // bytes; 0 unless regular
	ModTime  time.Time         // nanoseconds where the filesystem keeps them; the zero time leaves it to the filesystem
	Link     string            // target of a symbolic link, or, with Hard, the name this one is a hard link to
	Hard     bool              // the entry is another name of Link; Mode and the rest are those of Link
	Xattrs   map[string]string // extended attributes, security.capability included; nil if none
	Major    uint32            // of a device node
	Minor    uint32            // of a device node
	Inode    Inode             // identifies the file among the names of one FS; zero where unknown
	Nlink    uint64            // number of names of the file; 0 where unknown
}

// Inode identifies a file of one FS, so that two names of one file are known
// as such. Device and number both count: two filesystems may share numbers.
type Inode struct{ Dev, Ino uint64 }

// FS is a root filesystem. Every method acts on the name itself and never
// follows a symbolic link in its last component; links in the components
// before it are followed as a process chrooted to the root would. No call
// reaches a file outside the root. Errors are *fs.PathError wrapping
// fs.ErrNotExist, fs.ErrExist or a syscall.Errno.
type FS interface {
	// Lstat describes the file. Xattrs is filled in.
	Lstat(name string) (Entry, error)
	// Open opens a regular file for reading.
	Open(name string) (io.ReadCloser, error)
	// List returns the base names in a directory in ascending byte order.
	List(name string) ([]string, error)
	// Put makes e.Name exactly what e says, with content for a regular file
	// (e.Size is advisory). Missing parents are an error. An existing file
	// of another kind is replaced; an existing directory keeps its children
	// when e is a directory and is removed with them otherwise.
	Put(e Entry, content io.Reader) error
	// Remove removes the file and everything below it. Removing what does
	// not exist is no error.
	Remove(name string) error
}

// Clean turns any path into a name: it is made relative to the root and ".."
// components stop at the root, as they do for a chrooted process.
func Clean(p string) string {
	c := path.Clean("/" + p)
	if c == "/" {
		return "."
	}
	return c[1:]
}

// Join joins a name and a relative path and cleans the result.
func Join(name, elem string) string { return Clean(name + "/" + elem) }

// Parent returns the name of the directory that holds name; the root is its
// own parent.
func Parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return "."
}

// maxLinks is how many symbolic links Linux follows before ELOOP.
const maxLinks = 40

// ErrTooManyLinks is returned by Resolve for a chain or a loop of more than 40
// symbolic links.
var ErrTooManyLinks = errors.New("too many levels of symbolic links")

// Resolve follows the symbolic links of p, the last component included, as a
// process chrooted to fsys would, and returns the name of what it leads to.
// Components that do not exist are taken as they are, so the name of a file
// that is yet to be made can be resolved.
func Resolve(fsys FS, p string) (string, error) { return resolve(fsys, p, true) }

// ResolveParent is Resolve but leaves the last component of p as it is.
func ResolveParent(fsys FS, p string) (string, error) { return resolve(fsys, p, false) }

func resolve(fsys FS, p string, last bool) (string, error) {
	done := "."
	rest := p
	for links := 0; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch part {
		case "", ".":
			continue
		case "..":
			done = Parent(done)
			continue
		}
		next := Join(done, part)
		if !last && strings.Trim(rest, "/") == "" {
			done = next
			break
		}
		e, err := fsys.Lstat(next)
		if err != nil || e.Mode&fs.ModeSymlink == 0 {
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !isNotDir(err) {
				return "", err
			}
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: p, Err: ErrTooManyLinks}
		}
		if strings.HasPrefix(e.Link, "/") {
			done = "."
		}
		rest = e.Link + "/" + rest
	}
	return done, nil
}

// Walk calls fn for name and everything below it, parents before children and
// siblings in ascending byte order. An fs.SkipDir from fn skips a directory.
func Walk(fsys FS, name string, fn func(Entry) error) error {
	e, err := fsys.Lstat(name)
	if err != nil {
		return err
	}
	err = walk(fsys, e, fn)
	if errors.Is(err, fs.SkipDir) {
		return nil
	}
	return err
}

func walk(fsys FS, e Entry, fn func(Entry) error) error {
	if err := fn(e); err != nil || !e.Mode.IsDir() {
		return err
	}
	names, err := fsys.List(e.Name)
	if err != nil {
		return err
	}
	for _, n := range names {
		child, err := fsys.Lstat(Join(e.Name, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := walk(fsys, child, fn); err != nil && !errors.Is(err, fs.SkipDir) {
			return err
		}
	}
	return nil
}
