package workspace

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Sharing says what becomes of a cache directory that several use at once.
type Sharing string

// The ways of sharing: all at once, each its own, or one after another.
const (
	SharedCache  Sharing = "shared"
	PrivateCache Sharing = "private"
	LockedCache  Sharing = "locked"
)

// Caches are the directories of RUN --mount=type=cache, below one directory:
// <hash of the key>/<number>/data, with locks that several processes respect.
type Caches struct{ dir string }

// NewCaches returns the caches below dir, which is made when it is needed.
func NewCaches(dir string) *Caches { return &Caches{dir} }

// CacheSpec is one cache directory.
type CacheSpec struct {
	Key      string // tells it from others
	Sharing  Sharing
	Mode     fs.FileMode // of a new one
	UID, GID int         // likewise

	// Fill puts into a new one what it begins with; nil leaves it empty.
	Fill func(dst *rootfs.Dir) error
	// Wait is told when the cache is waited for; it may be nil.
	Wait func()
}

// lockPoll is how often a lock that somebody else has is asked for.
const lockPoll = 100 * time.Millisecond

// Open returns the path of a cache directory, which is the caller's to use, as
// far as its sharing says, until release.
func (c *Caches) Open(ctx context.Context, spec CacheSpec) (path string, release func() error, err error) {
	sum := sha256.Sum256([]byte(spec.Key))
	all := filepath.Join(c.dir, hex.EncodeToString(sum[:]))
	for n := 0; ; n++ {
		slot := filepath.Join(all, strconv.Itoa(n))
		if err := os.MkdirAll(slot, 0o700); err != nil {
			return "", nil, fmt.Errorf("make cache directory: %w", err)
		}
		lock, err := acquire(ctx, filepath.Join(slot, "lock"), spec)
		if errors.Is(err, errTaken) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		path = filepath.Join(slot, "data")
		if err := create(ctx, slot, spec); err != nil {
			return "", nil, errors.Join(err, lock.Close())
		}
		return path, lock.Close, nil
	}
}

// errTaken says that somebody else uses a cache that is not to be shared.
var errTaken = errors.New("the cache is in use")

// acquire locks a file as the sharing wants it. Closing it gives up the lock.
func acquire(ctx context.Context, path string, spec CacheSpec) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock cache directory: %w", err)
	}
	how := unix.LOCK_EX
	if spec.Sharing == SharedCache {
		how = unix.LOCK_SH
	}
	for told := false; ; {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock cache directory: %w", err), f.Close())
		case spec.Sharing == PrivateCache:
			return nil, errors.Join(errTaken, f.Close())
		}
		if !told && spec.Wait != nil {
			spec.Wait()
		}
		told = true
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(lockPoll):
		}
	}
}

// create makes the directory of a cache that is new, whole or not at all.
func create(ctx context.Context, slot string, spec CacheSpec) error {
	data := filepath.Join(slot, "data")
	one, err := acquire(ctx, filepath.Join(slot, "new"), CacheSpec{Sharing: LockedCache})
	if err != nil {
		return err
	}
	defer one.Close()
	if _, err := os.Lstat(data); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := filepath.Join(slot, "fresh")
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("make cache directory: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("make cache directory: %w", err)
	}
	dst, err := rootfs.OpenDir(fresh)
	if err != nil {
		return err
	}
	err = dst.Put(rootfs.Entry{Name: ".", Mode: fs.ModeDir | spec.Mode.Perm(), UID: spec.UID, GID: spec.GID}, nil)
	if err == nil && spec.Fill != nil {
		err = spec.Fill(dst)
	}
	if err := errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("fill cache directory: %w", err)
	}
	return os.Rename(fresh, data)
}
