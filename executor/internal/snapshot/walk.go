package snapshot

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Walk finds changes by comparing the whole tree with an index of it. A file
// all of whose stat fields are equal, ctime included, is unchanged. One whose
// ctime moved while mode, owner, size and mtime stayed is a suspect and its
// content decides. Anything else changed. On a file system whose ctimes do not
// tell of every change content decides, except of files that nobody opened.
type Walk struct {
	root    *rootfs.Dir
	leave   leave
	index   *index
	ready   bool
	devices devices
	watcher *watcher // of directories whose files' ctimes do not tell everything
}

// NewWalk returns a Walk over root that ignores the names in leave, with everything
// below them. Its index is empty until Baseline.
func NewWalk(root *rootfs.Dir, leave []string) *Walk {
	return &Walk{root: root, leave: newLeave(leave), index: newIndex(), watcher: newWatcher()}
}

// Learn tells the index what cannot be seen by lstat: the print of a file's
// content and its extended attributes, so that a suspect can be cleared later.
// Extraction and layer writing call it for what they read anyway.
func (w *Walk) Learn(name string, p Print, xattrs map[string]string) {
	hash := hashXattrs(xattrs)
	w.index.mu.Lock()
	defer w.index.mu.Unlock()
	w.index.setXattrs(name, hash)
	w.index.learn(name, p.sum())
}

// Baseline records the tree as it is. Diff tells changes from then on. Calling
// it again when there is a baseline does nothing.
func (w *Walk) Baseline(ctx context.Context) error {
	if w.ready {
		return nil
	}
	w.index.learned.sort()
	if _, err := w.scan(ctx); err != nil {
		return err
	}
	w.ready, w.index.learned = true, nil // the records have it
	return nil
}

// Ready tells whether there is a baseline.
func (w *Walk) Ready() bool { return w.ready }

// Settle waits until a change made from now on gets a later ctime than every
// file of the index, so that a change cannot hide in the clock tick in which
// its file was indexed. It takes one tick of the filesystem's clock at most,
// and asks the filesystem, not the system clock, by touching a file in dir. It is
// called right before processes are started: files that they do not open from then
// on need not be read.
func (w *Walk) Settle(ctx context.Context, dir string) error {
	w.watcher.arm()
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
	w.watcher.collect()
	s := &scan{Walk: w, ctx: ctx, first: !w.ready, pending: []string{"."}, links: map[uint64][]string{}}
	s.cond = sync.NewCond(&s.mu)
	var st unix.Stat_t
	if err := unix.Lstat(w.root.Path(), &st); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", w.root.Path(), err)
	}
	if err := s.top(w.index.status(&st).record); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", w.root.Path(), err)
	}
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

// top compares the root itself.
func (s *scan) top(now record) error {
	was := s.index.root
	s.index.root = now
	if was.sameStat(&now) {
		return nil
	}
	hash, err := xattrHash(s.root, ".")
	if err != nil {
		return err
	}
	if !s.first && (!was.sameMeta(&now) || hash != s.index.xattrs["."]) {
		s.changes = append(s.changes, Change{Name: "."})
	}
	s.index.setXattrs(".", hash)
	return nil
}
