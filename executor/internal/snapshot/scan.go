package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

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
	links   map[uint64][]string
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
	var room room
	for {
		name, ok := s.next()
		if !ok {
			return
		}
		if err := s.directory(name, &room); err != nil {
			s.fail(fmt.Errorf("snapshot /%s: %w", strings.TrimPrefix(name, "."), err))
		}
		s.done()
	}
}

// room is what a worker uses for one directory after another.
type room struct {
	list    listing
	fresh   directory
	content content
}

// directory compares the children of one directory.
func (s *scan) directory(name string, room *room) error {
	fd, err := openDirectory(s.dirPath(name))
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	defer unix.Close(fd)
	trust, err := s.honest(fd, name)
	if err != nil {
		return err
	}
	if err := room.list.read(fd); err != nil {
		return err
	}
	s.index.mu.Lock()
	old := s.index.directory(name)
	old.sort()
	s.index.mu.Unlock()
	room.fresh.reset()
	watch, watched := int32(0), false
	if trust.opened {
		watch, watched = s.watcher.watch(s.dirPath(name))
	}
	cmp := &comparison{scan: s, dir: name, fd: fd, fresh: &room.fresh, old: old, trust: trust, watch: watch, watched: watched, content: &room.content}
	for i := range room.list.names {
		n := room.list.name(i)
		if s.leave.child(name, n) {
			continue
		}
		if err := cmp.child(n); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	cmp.rest(nil)
	cmp.fresh.sorted = true
	s.took(cmp)
	return nil
}

func openDirectory(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// took keeps what was found in a directory.
func (s *scan) took(cmp *comparison) {
	s.index.mu.Lock()
	if !cmp.fresh.same(cmp.old) {
		s.index.dirs[cmp.dir] = cmp.fresh.packed()
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
	for _, l := range cmp.linked {
		s.links[l.stat] = append(s.links[l.stat], l.name)
	}
	s.cond.Broadcast()
}

// honest tells of which files in a directory ctimes tell everything.
func (s *scan) honest(fd int, name string) (trust, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return trust{}, err
	}
	return s.devices.honest(s.ctx, uint32(st.Dev), s.dirPath(name)) //nolint:gosec // 12 and 20 bits
}
