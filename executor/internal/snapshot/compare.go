package snapshot

import (
	"bytes"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// comparison merges a directory's sorted names with its records.
type comparison struct {
	*scan
	dir     string
	fd      int
	old     *directory
	at      int // next record of old
	fresh   *directory
	content *content
	changes []Change
	below   []string
	gone    []string
	linked  []link
	xattrs  map[string]uint64
	latest  int64
	trust   trust
	watch   int32 // what the watcher calls the directory, if that is watched
	watched bool
}

// link is a name of a file that has several.
type link struct {
	stat uint64
	name string
}

// subject is a file that is compared. Its full name is made when it is asked for,
// which it is of few.
type subject struct {
	parent, name string
	status
}

func (s *subject) full() string { return rootfs.Join(s.parent, s.name) }

// rest reports the records that stand before name, all of them for nil, as
// deleted.
func (c *comparison) rest(name []byte) {
	for ; c.at < len(c.old.records); c.at++ {
		r := &c.old.records[c.at]
		if name != nil && bytes.Compare(c.old.bytes(r), name) >= 0 {
			return
		}
		if !r.seen() || c.leave.child(c.dir, c.old.bytes(r)) {
			continue
		}
		full := rootfs.Join(c.dir, c.old.name(r))
		c.changes = append(c.changes, Change{Name: full, Deleted: true})
		c.keepXattrs(full, 0)
		if r.dir {
			c.gone = append(c.gone, full)
		}
	}
}

func (c *comparison) child(name []byte) error {
	var st unix.Stat_t
	now := subject{parent: c.dir, name: string(name)}
	if err := unix.Fstatat(c.fd, now.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	now.status = c.index.status(&st)
	c.latest = max(c.latest, now.ctime)
	c.rest(name)
	var was *record
	if c.at < len(c.old.records) && bytes.Equal(c.old.bytes(&c.old.records[c.at]), name) {
		was = &c.old.records[c.at]
		c.at++
	}
	if now.dir {
		c.below = append(c.below, now.full())
	}
	if now.linked {
		c.linked = append(c.linked, link{now.stat, now.full()})
	}
	changed, err := c.differs(was, &now)
	if err != nil {
		return err
	}
	if changed {
		c.changes = append(c.changes, Change{Name: now.full()})
		if was != nil && was.seen() && was.dir && !now.dir {
			c.gone = append(c.gone, now.full())
		}
	}
	c.fresh.add(name, now.record)
	return nil
}

// differs compares a file with its record and completes now.sum. Where ctimes
// do not tell everything every file has one in the end.
func (c *comparison) differs(was *record, now *subject) (bool, error) {
	doubted := now.mode&unix.S_IFMT == unix.S_IFREG && (!c.trust.honest || now.dev != c.trust.files)
	changed, err := c.told(was, now, doubted)
	if err != nil || !doubted || now.sum != 0 {
		return changed, err
	}
	p, err := c.content.print(c.fd, now.name, now.size)
	now.sum = p.sum()
	return changed, err
}

// told is differs by what stat tells, and by content if that is doubted.
func (c *comparison) told(was *record, now *subject, doubted bool) (bool, error) {
	if c.first {
		now.sum = c.index.learned.sumOf(c.dir, now.name)
		return false, nil
	}
	switch {
	case was == nil || !was.seen():
		return true, c.noteXattrs(now.full())
	case was.sameStat(&now.record) && doubted && !c.untouched(now):
		return c.contentDiffers(was, now)
	case was.sameStat(&now.record):
		now.sum = was.sum
		return false, nil
	case !was.sameMeta(&now.record):
		return true, c.noteXattrs(now.full())
	}
	full := now.full()
	hash, err := xattrHash(c.root, full)
	if err != nil {
		return false, err
	}
	c.index.mu.Lock()
	before := c.index.xattrs[full]
	c.index.mu.Unlock()
	c.keepXattrs(full, hash)
	if hash != before {
		return true, nil
	}
	return c.contentDiffers(was, now)
}

// untouched tells whether it is certain that nobody opened a file.
func (c *comparison) untouched(now *subject) bool {
	return c.watched && !now.linked && c.watcher.unopened(c.watch, now.name)
}

// contentDiffers decides about a suspect by its content.
func (c *comparison) contentDiffers(was *record, now *subject) (bool, error) {
	switch now.mode & unix.S_IFMT {
	case unix.S_IFREG:
		p, err := c.content.print(c.fd, now.name, now.size)
		if err != nil {
			return false, err
		}
		now.sum = p.sum()
	case unix.S_IFLNK:
		link, err := readlink(c.root, now.full())
		if err != nil {
			return false, err
		}
		now.sum = PrintString(link).sum()
	default:
		return false, nil
	}
	return now.sum != was.sum, nil
}

// noteXattrs records the hash of a file's extended attributes.
func (c *comparison) noteXattrs(full string) error {
	hash, err := xattrHash(c.root, full)
	if err != nil {
		return err
	}
	c.keepXattrs(full, hash)
	return nil
}

func (c *comparison) keepXattrs(full string, hash uint64) {
	c.index.mu.Lock()
	known := c.index.xattrs[full]
	c.index.mu.Unlock()
	if known == hash {
		return
	}
	if c.xattrs == nil {
		c.xattrs = map[string]uint64{}
	}
	c.xattrs[full] = hash
}
