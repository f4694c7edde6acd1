package step

import (
	"fmt"
	"io/fs"
	"iter"
	"time"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Read is one file that a copy reads.
type Read struct {
	// Path is where it is in the source: a regular file is opened there. It is
	// "" for a socket, which is copied as an empty file.
	Path string
	// Entry is what is copied: type, mode, owner by number, link, size and
	// extended attributes, without times. Its Name is relative to what was
	// named: "." for a named directory, of which only the contents are
	// copied, and the base name for a named file. With Hard it is another
	// name of the file that was given as Link before.
	Entry rootfs.Entry
}

// Reads goes through what a Copy or Add reads from src, in an order that
// depends on nothing but names: all that must be hashed to know whether the
// operation would give the same again. For an operation on the build context
// src is the unfiltered context; otherwise it is the stage or image that the
// copy is from. Downloads and a look-up of owners by name are not among it. The
// errors are those that Do would return.
func Reads(src rootfs.FS, op plan.Op, in Inputs) iter.Seq2[Read, error] {
	return func(yield func(Read, error) bool) {
		if err := eachRead(src, op, in, func(r Read) bool { return yield(r, nil) }); err != nil {
			yield(Read{}, err)
		}
	}
}

func eachRead(src rootfs.FS, op plan.Op, in Inputs, yield func(Read) bool) error {
	var paths []string
	var chmod string
	local := true
	switch op := op.(type) {
	case plan.Copy:
		paths, chmod, local = op.Paths, op.Chmod, op.From.IsContext()
	case plan.Add:
		paths, chmod = op.Paths, op.Chmod
	default:
		return fmt.Errorf("operation %T copies nothing", op)
	}
	in.From = nil
	if local {
		src = Filter(src, in.Ignore)
	} else {
		in.From = src
	}
	found, err := selectAll(src, paths, in)
	if err != nil {
		return err
	}
	// Owners by name are looked up in the root, which is not read here.
	ch := changes{dropIDs: local}
	if ch.mode, err = parseMode(chmod); err != nil {
		return err
	}
	for _, s := range found {
		more, err := readsOf(src, s, ch, yield)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// readsOf yields what one source holds and reports whether to go on.
func readsOf(src rootfs.FS, s selected, ch changes, yield func(Read) bool) (bool, error) {
	links := map[rootfs.Inode]string{}
	more := true
	err := rootfs.Walk(src, s.name, func(e rootfs.Entry) error {
		r := Read{Path: e.Name, Entry: ch.apply(e, nameBelow(s, e.Name))}
		r.Entry.ModTime = time.Time{}
		if e.Mode&fs.ModeSocket != 0 {
			r.Path = ""
		}
		switch {
		case e.Name == s.name && e.Mode.IsDir():
			r.Entry = rootfs.Entry{Name: ".", Mode: fs.ModeDir}
		case e.Mode.IsRegular() && e.Nlink > 1 && e.Inode != (rootfs.Inode{}):
			first, ok := links[e.Inode]
			if ok {
				r.Entry = rootfs.Entry{Name: r.Entry.Name, Hard: true, Link: first}
				break
			}
			links[e.Inode] = r.Entry.Name
		}
		if more = yield(r); !more {
			return errFound
		}
		return nil
	})
	if !more {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read /%s: %w", s.name, err)
	}
	return true, nil
}

// nameBelow is a name relative to what was named.
func nameBelow(s selected, name string) string {
	switch {
	case name != s.name && s.name == ".":
		return name
	case name != s.name:
		return name[len(s.name)+1:]
	case s.entry.Mode.IsDir():
		return "."
	}
	return s.base
}
