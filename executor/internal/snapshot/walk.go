package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Walk finds changes by comparing the whole tree with an index of it. A file
// all of whose stat fields are equal, ctime included, is unchanged. One whose
// ctime moved while mode, owner, size and mtime stayed is a suspect and its
// content decides. Anything else changed. On a file system whose ctimes do not
// tell of every change all content decides.
type Walk struct {
	root    *rootfs.Dir
	skip    func(name string) bool
	index   *index
	ready   bool
	devices devices
}

// NewWalk returns a Walk over root that ignores every name for which skip
// reports true, with everything below it. Its index is empty until Baseline.
func NewWalk(root *rootfs.Dir, skip func(name string) bool) *Walk {
	if skip == nil {
		skip = func(string) bool { return false }
	}
	return &Walk{root: root, skip: skip, index: newIndex()}
}

// Learn tells the index what cannot be seen by lstat: the print of a file's
// content and its extended attributes, so that a suspect can be cleared later.
// Extraction and layer writing call it for what they read anyway.
func (w *Walk) Learn(name string, p Print, xattrs map[string]string) {
	hash := hashXattrs(xattrs)
	w.index.mu.Lock()
	defer w.index.mu.Unlock()
	w.index.setXattrs(name, hash)
	d := w.index.directory(rootfs.Parent(name))
	base := name[strings.LastIndexByte(name, '/')+1:]
	// Before the baseline names come by the thousand and are sorted once.
	if w.ready {
		if r := d.find(base); r != nil {
			r.sum = p.sum()
			return
		}
	}
	d.add(base, record{sum: p.sum()})
}

// Baseline records the tree as it is. Diff tells changes from then on. Calling
// it again when there is a baseline does nothing.
func (w *Walk) Baseline(ctx context.Context) error {
	if w.ready {
		return nil
	}
	_, err := w.scan(ctx)
	w.ready = err == nil
	return err
}

// Ready tells whether there is a baseline.
func (w *Walk) Ready() bool { return w.ready }

// Settle waits until a change made from now on gets a later ctime than every
// file of the index, so that a change cannot hide in the clock tick in which
// its file was indexed. It takes one tick of the filesystem's clock at most,
// and asks the filesystem, not the system clock, by touching a file in dir.
func (w *Walk) Settle(ctx context.Context, dir string) error {
	return tick(ctx, dir, w.index.latest)
}

// Diff returns what changed since Baseline or the last Diff, sorted by name,
// parents first. No process that may write to the tree may be alive.
func (w *Walk) Diff(ctx context.Context) ([]Change, error) {
	if !w.ready {
		return nil, errors.New("diff before the tree was indexed")
	}
	return w.scan(ctx)
}

// scan compares the tree with the index and brings the index up to date.
func (w *Walk) scan(ctx context.Context) ([]Change, error) {
	w.index.sharePrints()
	s := &scan{Walk: w, ctx: ctx, first: !w.ready, pending: []string{"."}, links: map[inode][]string{}, spare: &sync.Pool{New: func() any { return &directory{} }}}
	s.cond = sync.NewCond(&s.mu)
	var st unix.Stat_t
	if err := unix.Lstat(w.root.Path(), &st); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", w.root.Path(), err)
	}
	root := recordOf(&st)
	if !s.first && !w.index.root.sameMeta(&root) {
		s.changes = append(s.changes, Change{Name: "."})
	}
	w.index.root = root
	stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	defer stop()
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 8) {
		wg.Go(s.work)
	}
	wg.Wait()
	if s.err != nil {
		return nil, s.err
	}
	s.index.forget(s.gone)
	s.index.links = s.links
	sortChanges(s.changes)
	return s.changes, nil
}

// scan is one pass: directories are taken from a shared stack by workers.
type scan struct {
	*Walk
	ctx   context.Context //nolint:containedctx // a scan is one call
	first bool

	mu      sync.Mutex
	cond    *sync.Cond
	pending []string
	busy    int
	err     error
	changes []Change
	gone    []string // directories that are no more
	links   map[inode][]string
	spare   *sync.Pool // of directories to fill
}

func (s *scan) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.cond.Broadcast()
}

func (s *scan) next() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) == 0 && s.busy > 0 && s.err == nil {
		s.cond.Wait()
	}
	if len(s.pending) == 0 || s.err != nil {
		return "", false
	}
	last := len(s.pending) - 1
	name := s.pending[last]
	s.pending = s.pending[:last]
	s.busy++
	return name, true
}

func (s *scan) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.cond.Broadcast()
}

func (s *scan) work() {
	for {
		name, ok := s.next()
		if !ok {
			return
		}
		if err := s.directory(name); err != nil {
			s.fail(fmt.Errorf("snapshot /%s: %w", strings.TrimPrefix(name, "."), err))
		}
		s.done()
	}
}

// directory compares the children of one directory.
func (s *scan) directory(name string) error {
	fd, err := unix.Open(s.dirPath(name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	trust, err := s.honest(fd, name)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	s.index.mu.Lock()
	old := s.index.directory(name)
	old.sort()
	s.index.mu.Unlock()
	fresh, _ := s.spare.Get().(*directory)
	defer s.spare.Put(fresh)
	fresh.reset()
	cmp := &comparison{scan: s, dir: name, fd: fd, fresh: fresh, old: old, trust: trust}
	for _, n := range names {
		full := rootfs.Join(name, n)
		if s.skip(full) {
			continue
		}
		if err := cmp.child(n, full); err != nil {
			return err
		}
	}
	cmp.rest("")
	cmp.fresh.sorted = true
	s.index.mu.Lock()
	if !cmp.fresh.same(old) {
		s.index.dirs[name] = cmp.fresh.packed()
	}
	for n, h := range cmp.xattrs {
		s.index.setXattrs(n, h)
	}
	s.index.latest = max(s.index.latest, cmp.latest)
	s.index.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, cmp.changes...)
	s.pending = append(s.pending, cmp.below...)
	s.gone = append(s.gone, cmp.gone...)
	for i := range cmp.fresh.records {
		if r := &cmp.fresh.records[i]; r.linked {
			s.links[r.inode()] = append(s.links[r.inode()], rootfs.Join(name, cmp.fresh.name(r)))
		}
	}
	s.cond.Broadcast()
	return nil
}

// honest tells of which files in a directory ctimes tell everything.
func (s *scan) honest(fd int, name string) (trust, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return trust{}, err
	}
	return s.devices.honest(s.ctx, recordOf(&st).dev, s.dirPath(name))
}

// comparison merges a directory's sorted names with its records.
type comparison struct {
	*scan
	dir     string
	fd      int
	old     *directory
	at      int // next record of old
	fresh   *directory
	changes []Change
	below   []string
	gone    []string
	xattrs  map[string]uint64
	latest  int64
	trust   trust
}

// rest reports the records that stand before name, all of them for "", as
// deleted.
func (c *comparison) rest(name string) {
	for ; c.at < len(c.old.records); c.at++ {
		r := &c.old.records[c.at]
		if name != "" && string(c.old.bytes(r)) >= name {
			return
		}
		full := rootfs.Join(c.dir, c.old.name(r))
		if !r.seen || c.skip(full) {
			continue
		}
		c.changes = append(c.changes, Change{Name: full, Deleted: true})
		c.keepXattrs(full, 0)
		if r.mode&unix.S_IFMT == unix.S_IFDIR {
			c.gone = append(c.gone, full)
		}
	}
}

func (c *comparison) child(name, full string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(c.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	now := recordOf(&st)
	c.latest = max(c.latest, now.ctime)
	c.rest(name)
	var was *record
	if c.at < len(c.old.records) && string(c.old.bytes(&c.old.records[c.at])) == name {
		was = &c.old.records[c.at]
		c.at++
	}
	isDir := now.mode&unix.S_IFMT == unix.S_IFDIR
	if isDir {
		c.below = append(c.below, full)
	}
	changed, err := c.differs(full, was, &now)
	if err != nil {
		return err
	}
	if changed {
		c.changes = append(c.changes, Change{Name: full})
		if was != nil && was.seen && was.mode&unix.S_IFMT == unix.S_IFDIR && !isDir {
			c.gone = append(c.gone, full)
		}
	}
	c.fresh.add(name, now)
	return nil
}

// differs compares a file with its record and completes now.print. Where ctimes
// do not tell everything every file has a print in the end.
func (c *comparison) differs(full string, was, now *record) (bool, error) {
	doubted := now.mode&unix.S_IFMT == unix.S_IFREG && (!c.trust.honest || now.dev != c.trust.files)
	changed, err := c.told(full, was, now, doubted)
	if err != nil || !doubted || now.sum != 0 {
		return changed, err
	}
	p, err := PrintFile(c.root, full)
	now.sum = p.sum()
	return changed, err
}

// told is differs by what stat tells, and by content if that is doubted.
func (c *comparison) told(full string, was, now *record, doubted bool) (bool, error) {
	if c.first {
		if was != nil {
			now.sum = was.sum
		}
		return false, nil
	}
	switch {
	case was == nil || !was.seen:
		return true, c.noteXattrs(full)
	case was.sameStat(now) && doubted:
		return c.contentDiffers(full, was, now)
	case was.sameStat(now):
		now.sum = was.sum
		return false, nil
	case !was.sameMeta(now):
		return true, c.noteXattrs(full)
	}
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
	return c.contentDiffers(full, was, now)
}

// contentDiffers decides about a suspect by its content.
func (c *comparison) contentDiffers(full string, was, now *record) (bool, error) {
	switch now.mode & unix.S_IFMT {
	case unix.S_IFREG:
		p, err := PrintFile(c.root, full)
		if err != nil {
			return false, err
		}
		now.sum = p.sum()
	case unix.S_IFLNK:
		link, err := readlink(c.root, full)
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
