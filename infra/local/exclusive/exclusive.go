// Package exclusive keeps a second process away from a directory.
package exclusive

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked means that another process has the lock.
var ErrLocked = errors.New("locked by another process")

// Patience is how long Lock waits for a lock that another process has. A
// process that was killed while it started a child leaves its lock with the
// child until that has become another program, so that the next one may come
// too early by some milliseconds.
const Patience = time.Second

const poll = 10 * time.Millisecond

// Lock makes the file at path if it is not there and takes flock(2) on it, until
// the file is closed or the process ends. The error wraps ErrLocked if another
// process still has it after Patience.
func Lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for waited := time.Duration(0); ; waited += poll {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		case waited >= Patience:
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, ErrLocked), f.Close())
		}
		<-time.After(poll)
	}
}
