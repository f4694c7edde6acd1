package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Refresh brings the index up to date for names that the caller itself
// changed, and the directories above them, without a look at anything else.
// Before Baseline it does nothing.
func (w *Walk) Refresh(names []string) error {
	if !w.ready {
		return nil
	}
	done := map[string]bool{}
	var gone []string
	var fresh []addition
	for _, name := range names {
		for n := name; !done[n]; n = rootfs.Parent(n) {
			done[n] = true
			if w.leave.skip(n) {
				continue
			}
			isDir, err := w.refresh(n, &fresh)
			if err != nil {
				return fmt.Errorf("index /%s: %w", n, err)
			}
			if !isDir {
				gone = append(gone, n)
			}
		}
	}
	for _, a := range fresh {
		a.dir.add([]byte(a.name), a.record)
	}
	w.index.forget(gone)
	return nil
}

// addition is a record that is put in last, so that a directory is sorted once.
type addition struct {
	dir    *directory
	name   string
	record record
}

func (w *Walk) refresh(name string, fresh *[]addition) (isDir bool, err error) {
	var st unix.Stat_t
	err = unix.Lstat(filepath.Join(w.root.Path(), name), &st)
	absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
	if err != nil && !absent {
		return false, err
	}
	var now status
	if !absent {
		now = w.index.status(&st)
	}
	if name == "." {
		w.index.root = now.record
		hash, err := xattrHash(w.root, name)
		w.index.setXattrs(name, hash)
		return now.dir, err
	}
	var hash uint64
	if !absent {
		if hash, err = xattrHash(w.root, name); err != nil {
			return false, err
		}
		if now.mode&unix.S_IFMT == unix.S_IFREG && !w.devices.trusted(now.dev) {
			p, err := PrintFile(w.root, name)
			if err != nil {
				return false, err
			}
			now.sum = p.sum()
		}
		w.index.latest = max(w.index.latest, now.ctime)
	}
	w.index.setXattrs(name, hash)
	d := w.index.directory(rootfs.Parent(name))
	base := name[strings.LastIndexByte(name, '/')+1:]
	if r := d.find(base); r != nil {
		off, n := r.nameOff, r.nameLen
		*r = now.record
		r.nameOff, r.nameLen = off, n
	} else if !absent {
		*fresh = append(*fresh, addition{d, base, now.record})
	}
	return now.dir, nil
}
