package step

import (
	"errors"
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
	var from plan.Source
	var choice plan.Copy
	switch op := op.(type) {
	case plan.Copy:
		choice, from = op, op.From
	case plan.Add:
		choice = plan.Copy{Placing: op.Placing, Paths: op.Paths}
	default:
		return fmt.Errorf("operation %T copies nothing", op)
	}
	in.From = nil
	if from.IsFiles() {
		src = Filter(src, in.Ignore)
	} else {
		in.From = src
	}
	found, err := choices(src, choice, in)
	if err != nil {
		return err
	}
	// Owners by name are looked up in the root, which is not read here.
	ch := changes{dropIDs: from.IsFiles()}
	if ch.mode, err = parseMode(choice.Chmod); err != nil {
		return err
	}
	for _, s := range found {
		r := reader{src: src, from: s, changes: ch, yield: yield, links: map[rootfs.Inode]string{}}
		err := r.read(s.entry)
		if errors.Is(err, errFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read /%s: %w", s.name, err)
		}
	}
	return nil
}

// reader yields what one source holds.
type reader struct {
	src     rootfs.FS
	from    selected
	changes changes
	yield   func(Read) bool
	links   map[rootfs.Inode]string
	above   []rootfs.Entry // directories not yielded yet that lead to where it is
}

// read yields e and what is wanted below it. errFound is the end of the walk.
func (r *reader) read(e rootfs.Entry) error {
	rel := nameBelow(r.from, e.Name)
	if e.Name != r.from.name && !r.from.choose.wants(rel) {
		if !e.Mode.IsDir() || !r.from.choose.enters(rel) {
			return nil
		}
		depth := len(r.above)
		r.above = append(r.above, e)
		err := r.below(e)
		r.above = r.above[:min(depth, len(r.above))]
		return err
	}
	for _, dir := range r.above {
		if err := r.one(dir); err != nil {
			return err
		}
	}
	r.above = nil
	if err := r.one(e); err != nil || !e.Mode.IsDir() {
		return err
	}
	return r.below(e)
}

func (r *reader) below(dir rootfs.Entry) error {
	names, err := r.src.List(dir.Name)
	if err != nil {
		return err
	}
	for _, n := range names {
		e, err := r.src.Lstat(rootfs.Join(dir.Name, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = r.read(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// one yields one file.
func (r *reader) one(e rootfs.Entry) error {
	read := Read{Path: e.Name, Entry: r.changes.apply(e, nameBelow(r.from, e.Name))}
	read.Entry.ModTime = time.Time{}
	if e.Mode&fs.ModeSocket != 0 {
		read.Path = ""
	}
	switch {
	case e.Name == r.from.name && e.Mode.IsDir():
		read.Entry = rootfs.Entry{Name: ".", Mode: fs.ModeDir}
	case e.Mode.IsRegular() && e.Nlink > 1 && e.Inode != (rootfs.Inode{}):
		first, ok := r.links[e.Inode]
		if ok {
			read.Entry = rootfs.Entry{Name: read.Entry.Name, Hard: true, Link: first}
			break
		}
		r.links[e.Inode] = read.Entry.Name
	}
	if !r.yield(read) {
		return errFound
	}
	return nil
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
