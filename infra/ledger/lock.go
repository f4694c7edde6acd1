package ledger

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// flock takes or releases a lock on a file as flock(2) does, and waits for it.
// The kernel releases it when the process dies.
func flock(file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// writers keeps the processes that write to a directory apart: one at a time,
// and in turn. Whoever waits holds the turn, so that a process that writes
// without a pause lets others in between.
type writers struct {
	turn, work *os.File
}

func (w writers) lock() error {
	if err := flock(w.turn, unix.LOCK_EX); err != nil {
		return err
	}
	err := flock(w.work, unix.LOCK_EX)
	return errors.Join(err, flock(w.turn, unix.LOCK_UN))
}

func (w writers) unlock() error { return flock(w.work, unix.LOCK_UN) }
