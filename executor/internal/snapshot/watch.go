package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher tells which files were opened. Where ctimes do not tell of a store into a
// mapping, a file that nobody opened has not been stored to and need not be read: no
// mapping is made without a descriptor, and the executor's do not reach the processes of
// a RUN. Who opened a file, and what for, does not matter: it is read then.
//
// Directories are watched, by inode, for IN_OPEN (inotify(7)). A watcher speaks for files
// that have one name only, since another may be in a directory that nobody watches, and
// that are in a directory which was watched before processes ran and still is.
type watcher struct {
	file *os.File // nil: there is no inotify
	fd   int
	seed maphash.Seed

	mu     sync.Mutex
	armed  map[int32]bool      // directories that were watched before processes ran
	fresh  map[int32]bool      // directories that are watched since
	opened map[uint64]struct{} // hashes of what was opened; of one too many a file is read in vain
	lost   bool                // there were more events than the kernel keeps
}

// newWatcher returns a watcher, which watches nothing where there is no inotify.
func newWatcher() *watcher {
	w := &watcher{seed: maphash.MakeSeed(), armed: map[int32]bool{}, fresh: map[int32]bool{}, opened: map[uint64]struct{}{}}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		w.file, w.fd = os.NewFile(uintptr(fd), "inotify"), fd // closed with the watcher
	}
	return w
}

// watch watches a directory from now on and returns the name that the kernel has for it:
// the same one if it is watched already. Where there is no room for it, it is not watched.
func (w *watcher) watch(dir string) (id int32, ok bool) {
	if w.file == nil {
		return 0, false
	}
	n, err := unix.InotifyAddWatch(w.fd, dir, unix.IN_OPEN|unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW)
	runtime.KeepAlive(w)
	if err != nil {
		return 0, false
	}
	id = int32(n) //nolint:gosec // an int of C
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.armed[id] {
		w.fresh[id] = true
	}
	return id, true
}

// arm forgets what was opened so far. Processes may run from now on.
func (w *watcher) arm() {
	w.collect()
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.opened)
	for id := range w.fresh {
		w.armed[id] = true
	}
	clear(w.fresh)
	w.lost = false
}

// collect takes notice of what was opened up to now.
func (w *watcher) collect() {
	if w.file == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	buf := make([]byte, watchRoom)
	for {
		n, err := unix.Read(w.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil || n <= 0:
			w.lost = true
			return
		}
		w.events(buf[:n])
	}
}

// watchRoom is how many bytes of events are read at once.
const watchRoom = 64 << 10

// events are as the kernel gives them: struct inotify_event and a name.
func (w *watcher) events(raw []byte) {
	for len(raw) >= unix.SizeofInotifyEvent {
		id := int32(binary.NativeEndian.Uint32(raw)) //nolint:gosec // an int of C
		mask, size := binary.NativeEndian.Uint32(raw[4:]), binary.NativeEndian.Uint32(raw[12:])
		raw = raw[unix.SizeofInotifyEvent:]
		if uint64(size) > uint64(len(raw)) {
			break
		}
		name, _, _ := bytes.Cut(raw[:size], []byte{0})
		raw = raw[size:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			w.lost = true
		case mask&(unix.IN_IGNORED|unix.IN_UNMOUNT) != 0:
			delete(w.armed, id)
			delete(w.fresh, id)
		case len(name) > 0:
			w.opened[w.hash(id, string(name))] = struct{}{}
		}
	}
	if len(raw) > 0 {
		w.lost = true
	}
}

func (w *watcher) hash(id int32, name string) uint64 {
	var h maphash.Hash
	h.SetSeed(w.seed)
	_, _ = h.Write(binary.NativeEndian.AppendUint32(nil, uint32(id))) //nolint:gosec // as it came
	_, _ = h.WriteString(name)
	return h.Sum64()
}

// unopened tells whether it is certain that nobody opened a file since arm, by that name in
// a directory. What was opened since the last collect is not known.
func (w *watcher) unopened(id int32, name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost || !w.armed[id] {
		return false
	}
	_, was := w.opened[w.hash(id, name)]
	return !was
}

// probeWatch measures whether a directory's watch tells of files in it that are opened.
func probeWatch(dir string, file *os.File) (bool, error) {
	w := newWatcher()
	id, ok := w.watch(dir)
	if !ok {
		return false, nil
	}
	defer w.file.Close()
	name := filepath.Base(file.Name())
	w.arm()
	before := w.unopened(id, name)
	again, err := os.OpenFile(file.Name(), os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("probe file system: %w", err)
	}
	w.collect()
	return before && !w.unopened(id, name), again.Close()
}
