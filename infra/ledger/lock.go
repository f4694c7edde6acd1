package ledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// shards is the number of locks that keys are spread over.
const shards = 64

// locks keep replacements and deletions of a key apart: goroutines by a
// channel, processes by a lock on a file, which the kernel releases when its
// process dies.
type locks struct {
	root  *os.Root
	local [shards]chan struct{} // holds one token while nobody has the lock
}

func newLocks(root *os.Root) *locks {
	l := &locks{root: root}
	for i := range l.local {
		l.local[i] = make(chan struct{}, 1)
		l.local[i] <- struct{}{}
	}
	return l
}

// with runs f while it holds the lock of a key's shard, or returns the reason
// why the context ended first.
func (l *locks) with(ctx context.Context, key string, f func() error) error {
	sum := sha256.Sum256([]byte(key))
	shard := int(sum[0]) % shards
	select {
	case <-l.local[shard]:
	case <-ctx.Done():
		return fmt.Errorf("wait for lock %02x: %w", shard, context.Cause(ctx))
	}
	defer func() { l.local[shard] <- struct{}{} }()

	file, err := l.root.OpenFile(path.Join(lockDir, fmt.Sprintf("%02x", shard)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open lock %02x: %w", shard, err)
	}
	defer file.Close() // releases the lock
	if err := flock(ctx, file); err != nil {
		return fmt.Errorf("wait for lock %02x: %w", shard, err)
	}
	return f()
}

// flock locks a file against other processes. It asks again and again rather
// than block in the kernel, so that it can stop when the context does.
func flock(ctx context.Context, file *os.File) error {
	const longest = 20 * time.Millisecond
	wait := 100 * time.Microsecond
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		wait = min(2*wait, longest)
	}
}
