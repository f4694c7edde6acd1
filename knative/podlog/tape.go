package podlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// tape is the log of one executor in a file, which one goroutine writes and any
// number read. The file has no name: it goes with the process.
type tape struct {
	id, platform, dir string
	whole             string // id of the build that it is of, or of a part of
	selector          string // of its pods

	mu      sync.Mutex
	file    *os.File // nil before the first byte and after the last reader
	size    int64
	known   bool          // there is a pod, even if it has said nothing
	over    bool          // nothing more comes
	err     error         // why nothing more comes, though it is not whole
	wanted  bool          // it is to be read though nobody asks for it
	inStore bool          // it is there
	readers int           // that are at it
	used    time.Time     // when it was last asked for
	changed chan struct{} // closed when something of the above has changed
	decided chan struct{} // closed when the outcome of the build is known
	poked   chan struct{} // has one when there is a reason to look at the pods now
}

func newTape(id, platform, dir string, now time.Time) *tape {
	return &tape{id: id, platform: platform, dir: dir, used: now, changed: make(chan struct{}), decided: make(chan struct{}), poked: make(chan struct{}, 1)}
}

// tell wakes those that wait for a change. The caller holds mu.
func (t *tape) tell() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *tape) touch(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used = now
}

// keep says that the tape is to be put into the ledger whether or not somebody reads it,
// and with decided that the outcome of its build is known.
func (t *tape) keep(decided bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wanted = true
	if decided {
		t.decide()
	}
	t.tell()
	t.poke()
}

// poke gives the one who writes the tape a reason to look at the pods.
func (t *tape) poke() {
	select {
	case t.poked <- struct{}{}:
	default:
	}
}

// isRead reports whether somebody reads the tape now.
func (t *tape) isRead() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.readers > 0
}

// length is how many bytes there are.
func (t *tape) length() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.size
}

// decide notes that the outcome is known. The caller holds mu.
func (t *tape) decide() {
	select {
	case <-t.decided:
	default:
		close(t.decided)
	}
}

func (t *tape) isDecided() bool {
	select {
	case <-t.decided:
		return true
	default:
		return false
	}
}

// append writes whole lines.
func (t *tape) append(lines []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		f, err := os.CreateTemp(t.dir, "log-")
		if err != nil {
			return fmt.Errorf("open log in the spool: %w", err)
		}
		if err := os.Remove(f.Name()); err != nil {
			return errors.Join(fmt.Errorf("open log in the spool: %w", err), f.Close())
		}
		t.file = f
	}
	n, err := t.file.WriteAt(lines, t.size)
	if err != nil {
		return fmt.Errorf("write log in the spool: %w", err) // what was written of it is written again
	}
	t.size += int64(n)
	t.tell()
	return nil
}

// end says that the tape is whole.
func (t *tape) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	t.tell()
}

// fail ends a tape that is not whole.
func (t *tape) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over, t.err = true, err
	t.tell()
	if t.readers == 0 {
		t.close()
	}
}

// close gives up the file. The caller holds mu.
func (t *tape) close() {
	if t.file != nil {
		_ = t.file.Close() // nothing in it is to last
		t.file = nil
	}
}

// begin says that there is a pod.
func (t *tape) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.known {
		t.known = true
		t.tell()
	}
}

func (t *tape) isWanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wanted
}

func (t *tape) unstored() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.inStore
}

func (t *tape) stored() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inStore = true
}

// unused reports whether nobody has wanted the tape for some time.
func (t *tape) unused(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.wanted && t.readers == 0 && now.Sub(t.used) > idle
}

// spare reports whether the tape can be forgotten.
func (t *tape) spare(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over && t.readers == 0 && now.Sub(t.used) > idle && t.inStore
}

// remove gives up the tape's file.
func (t *tape) remove() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.close()
}

// copyFrom fills a new tape.
func (t *tape) copyFrom(r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := t.append(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyTo writes out the whole tape.
func (t *tape) copyTo(w io.Writer) error {
	t.mu.Lock()
	f, size := t.file, t.size
	t.mu.Unlock()
	if f == nil {
		return nil
	}
	_, err := io.Copy(w, io.NewSectionReader(f, 0, size))
	return err
}

// read emits whole lines from offset on and returns how long the tape is. With follow
// it waits until nothing more comes; whole says that nothing will. The error wraps
// fs.ErrNotExist if there is no log.
func (t *tape) read(ctx context.Context, now func() time.Time, offset int64, follow bool, emit func([]byte) error) (size int64, whole bool, err error) {
	t.mu.Lock()
	t.readers++
	t.mu.Unlock()
	t.poke()
	defer func() {
		t.mu.Lock()
		t.readers--
		t.used = now()
		if t.readers == 0 && t.err != nil {
			t.close()
		}
		t.mu.Unlock()
	}()
	buf := make([]byte, 64<<10)
	for {
		t.mu.Lock()
		f, end, known, over, failed, changed := t.file, t.size, t.known, t.over, t.err, t.changed
		t.mu.Unlock()
		if offset < end && f != nil {
			if offset, err = buildlog.CopyLines(io.NewSectionReader(f, 0, end), offset, &buf, emit); err != nil {
				return end, false, fmt.Errorf("read log of build %s: %w", t.id, err)
			}
		}
		switch {
		case over && failed != nil:
			return end, false, fmt.Errorf("read log of build %s: %w", t.id, failed)
		case over:
			return end, true, nil
		case !follow && known:
			return end, false, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return end, false, context.Cause(ctx)
		}
	}
}
