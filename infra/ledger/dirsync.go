package ledger

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"
)

// maxKnown is how many directories are remembered as durable.
const maxKnown = 10_000

// dirSync puts entries of directories on disk. Of those that wait for the same
// directory one does it for all: a journal takes as long for one as for many.
type dirSync struct {
	root *os.Root

	mu     sync.Mutex
	rounds map[string]*rounds
	known  map[string]birth // directories whose own entries are durable
}

// birth tells a directory from another that had its name before, or its number.
type birth struct {
	ino   uint64
	btime unix.StatxTimestamp
}

// rounds are the synchronisations of one directory: one that runs, and one that
// begins after it.
type rounds struct {
	running sync.Mutex
	next    *round
	users   int
}

type round struct {
	done chan struct{}
	err  error
}

func newDirSync(root *os.Root) *dirSync {
	return &dirSync{root: root, rounds: map[string]*rounds{}, known: map[string]birth{}}
}

// upTo makes an entry of a directory durable, and the entries of the directories
// above it that are not known to be.
func (s *dirSync) upTo(dir string) error {
	if err := s.sync(dir); err != nil || dir == "." {
		return err
	}
	b, ok := s.born(dir)
	if ok && s.isKnown(dir, b) {
		return nil
	}
	if err := s.upTo(path.Dir(dir)); err != nil {
		return err
	}
	if ok {
		s.know(dir, b)
	}
	return nil
}

// born says which directory has the name now; false if the filesystem does not
// tell.
func (s *dirSync) born(dir string) (birth, bool) {
	f, err := s.root.Open(dir)
	if err != nil {
		return birth{}, false
	}
	defer f.Close()
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return birth{}, false
	}
	return birth{ino: st.Ino, btime: st.Btime}, true
}

func (s *dirSync) isKnown(dir string, b birth) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	have, ok := s.known[dir]
	return ok && have == b
}

func (s *dirSync) know(dir string, b birth) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[dir] = b
}

// sync puts the entries of a directory on disk: those that were there when it
// was called.
func (s *dirSync) sync(dir string) error {
	s.mu.Lock()
	r := s.rounds[dir]
	if r == nil {
		r = &rounds{}
		s.rounds[dir] = r
	}
	r.users++
	mine, leads := r.next, r.next == nil
	if leads {
		mine = &round{done: make(chan struct{})}
		r.next = mine
	}
	s.mu.Unlock()
	if leads {
		r.running.Lock()
		s.mu.Lock()
		r.next = nil // who comes from here on needs another
		s.mu.Unlock()
		mine.err = s.now(dir)
		r.running.Unlock()
		close(mine.done)
	}
	<-mine.done
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.users--; r.users == 0 {
		delete(s.rounds, dir)
	}
	return mine.err
}

// now synchronises a directory. One that is gone has no entries.
func (s *dirSync) now(dir string) error {
	f, err := s.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
