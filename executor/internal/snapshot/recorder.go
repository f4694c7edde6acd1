package snapshot

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"syscall"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Recorder is an FS that remembers what is put into it and removed from it, so
// that nobody has to look for it afterwards. It is not safe for concurrent use.
type Recorder struct {
	rootfs.FS
	before map[string]state
}

// state is what a name was before it was first touched.
type state struct {
	entry  rootfs.Entry
	exists bool
	print  Print // of the content where it may be needed
}

// NewRecorder returns a Recorder over fsys.
func NewRecorder(fsys rootfs.FS) *Recorder {
	return &Recorder{FS: fsys, before: map[string]state{}}
}

// Put implements rootfs.FS.
func (r *Recorder) Put(e rootfs.Entry, content io.Reader) error {
	if err := r.note(e.Name, &e); err != nil {
		return err
	}
	return r.FS.Put(e, content)
}

// Remove implements rootfs.FS.
func (r *Recorder) Remove(name string) error {
	if err := r.note(name, nil); err != nil {
		return err
	}
	return r.FS.Remove(name)
}

func (r *Recorder) note(name string, next *rootfs.Entry) error {
	real, err := rootfs.ResolveParent(r.FS, name)
	if err != nil {
		return err
	}
	if _, ok := r.before[real]; ok {
		return nil
	}
	e, err := r.FS.Lstat(real)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		r.before[real] = state{}
		return nil
	}
	if err != nil {
		return err
	}
	s := state{entry: e, exists: true}
	if p, known := knownPrint(r.FS, real); known {
		s.print = p
	} else if e.Mode.IsRegular() && next != nil && mayBeSame(e, *next) {
		if s.print, err = PrintFile(r.FS, real); err != nil {
			return err
		}
	}
	r.before[real] = s
	return nil
}

// Touched returns every name that was put or removed, in no order.
func (r *Recorder) Touched() []string {
	names := make([]string, 0, len(r.before))
	for n := range r.before {
		names = append(names, n)
	}
	return names
}

// Changes returns what is not as it was before the Recorder was made, sorted
// by name, parents first.
func (r *Recorder) Changes() ([]Change, error) {
	var changes []Change
	for name, was := range r.before {
		now, err := r.FS.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
			if was.exists {
				changes = append(changes, Change{Name: name, Deleted: true})
			}
			continue
		case err != nil:
			return nil, err
		case was.exists && sameEntry(was.entry, now) && maps.Equal(was.entry.Xattrs, now.Xattrs):
			same, err := r.sameContent(name, was, now)
			if err != nil {
				return nil, err
			}
			if same {
				continue
			}
		}
		changes = append(changes, Change{Name: name})
	}
	sortChanges(changes)
	return dropBelowDeleted(changes), nil
}

// mayBeSame tells whether a file that is put may turn out to be what is there.
// Its size is not known yet.
func mayBeSame(was, next rootfs.Entry) bool {
	next.Size = was.Size
	return sameEntry(was, next)
}

func (r *Recorder) sameContent(name string, was state, now rootfs.Entry) (bool, error) {
	if !now.Mode.IsRegular() {
		return true, nil
	}
	if was.print == (Print{}) {
		return false, nil // it was put with other metadata first
	}
	p, err := PrintFile(r.FS, name)
	return p == was.print, err
}

// sameEntry tells whether two entries are equal in what a layer records, but
// for extended attributes and content. The mtime of a directory does not count.
func sameEntry(a, b rootfs.Entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Link == b.Link &&
		a.Major == b.Major && a.Minor == b.Minor &&
		(a.Mode.IsDir() || (a.Size == b.Size && a.ModTime.Equal(b.ModTime)))
}

// dropBelowDeleted removes deletions that an earlier deletion of a directory
// above them implies. The changes are sorted.
func dropBelowDeleted(changes []Change) []Change {
	out := changes[:0]
	deleted := ""
	for _, c := range changes {
		if c.Deleted {
			if deleted != "" && isBelow(c.Name, deleted) {
				continue
			}
			deleted = c.Name
		}
		out = append(out, c)
	}
	return out
}

func isBelow(name, dir string) bool {
	return len(name) > len(dir) && name[:len(dir)] == dir && name[len(dir)] == '/'
}
