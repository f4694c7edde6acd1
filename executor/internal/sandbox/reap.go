package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// leftoverDelay is how long output is read after the process of a RUN ended
// while something it started still holds the pipe.
const leftoverDelay = 100 * time.Millisecond

// becomeSubreaper makes this process the parent of everything that its
// children leave behind, so that nothing a RUN started survives it, not even
// what made a session of its own.
func becomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

// Undumpable hides this process' memory and environment from others of the
// same user, a RUN for one.
func Undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become undumpable: %w", err)
	}
	return nil
}

// reapLeftovers kills and reaps this process' children until there are none.
// The keeper of a RUN calls it, which has no others. Killing a parent gives us
// its children, so this goes round until nothing is left.
func reapLeftovers() error {
	for range 10_000 {
		pids, err := children(os.Getpid())
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for _, pid := range pids {
			var st unix.WaitStatus
			_ = retryEINTR(func() error { _, err := unix.Wait4(pid, &st, 0, nil); return err })
		}
	}
	return errors.New("processes that the RUN left behind multiply faster than they can be killed")
}

func retryEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// children returns the processes whose parent is pid.
func children(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes that the RUN left behind: %w", err)
	}
	var out []int
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything; what follows is fixed.
		rest := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			out = append(out, n)
		}
	}
	return out, nil
}
