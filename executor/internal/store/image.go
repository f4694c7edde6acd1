package store

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
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An image is a directory images/<key> with the extracted files in root, and
// beside it <key>.lock, which is locked, shared, by all that use the image, and
// alone by who makes or removes it. When it was used last is the lock's mtime.

// Image returns a directory with the files of an image, which stays as it is
// until the store is closed. If there is none extract makes and fills one.
func (s *Store) Image(ctx context.Context, key string, extract func(dir string) error) (string, error) {
	key += "-" + s.owners
	dir := filepath.Join(s.dir, "images", key)
	for {
		lock, err := s.lock(ctx, key, unix.LOCK_SH)
		if err != nil {
			return "", err
		}
		if s.whole(dir) {
			now := s.opt.Now()
			_ = os.Chtimes(lock.Name(), now, now)
			s.mu.Lock()
			s.used = append(s.used, lock)
			s.mu.Unlock()
			return filepath.Join(dir, "root"), nil
		}
		_ = lock.Close()
		if lock, err = s.lock(ctx, key, unix.LOCK_EX); err != nil {
			return "", err
		}
		if !s.whole(dir) { // nobody else was faster
			err = s.extract(dir, filepath.Join(s.dir, "new", key), extract)
		}
		_ = lock.Close()
		if err != nil {
			return "", err
		}
	}
}

// extract makes an image beside its place, so that it appears as a whole.
func (s *Store) extract(dir, fresh string, extract func(dir string) error) error {
	for _, old := range []string{dir, fresh} { // of somebody who was killed
		if err := os.RemoveAll(old); err != nil {
			return fmt.Errorf("keep image: %w", err)
		}
	}
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return fmt.Errorf("keep image: %w", err)
	}
	root := filepath.Join(fresh, "root")
	if err := extract(root); err != nil {
		_ = os.RemoveAll(fresh)
		return err
	}
	size, err := usage(root)
	if err == nil {
		err = errors.Join(
			os.WriteFile(filepath.Join(fresh, "size"), []byte(strconv.FormatInt(size, 10)), 0o644),
			os.WriteFile(filepath.Join(fresh, "boot"), []byte(s.boot), 0o644),
			os.Rename(fresh, dir))
	}
	if err != nil {
		return fmt.Errorf("keep image: %w", err)
	}
	return nil
}

// whole tells whether an image is there and every byte of it: what was written
// before the machine crashed may not be.
func (s *Store) whole(dir string) bool {
	boot, err := os.ReadFile(filepath.Join(dir, "boot"))
	return err == nil && string(boot) == s.boot
}

// lockPoll is how often a lock that somebody else has is asked for.
const lockPoll = 50 * time.Millisecond

// lock locks an image. Closing the file gives up the lock.
func (s *Store) lock(ctx context.Context, key string, how int) (*os.File, error) {
	path := filepath.Join(s.dir, "images", key+".lock")
	for {
		f, err := tryLock(path, how)
		if err != nil {
			return nil, fmt.Errorf("lock image in store: %w", err)
		}
		if f != nil {
			return f, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// tryLock returns nil if somebody else has the lock.
func tryLock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	if err == nil {
		// It may have been removed while it was not locked.
		var mine, there os.FileInfo
		if mine, err = f.Stat(); err == nil {
			if there, err = os.Stat(path); err != nil || !os.SameFile(mine, there) {
				return nil, f.Close()
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// usage is the disk space that a tree takes, in bytes.
func usage(root string) (int64, error) {
	var total int64
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		total += st.Blocks * 512 / max(int64(st.Nlink), 1) //nolint:unconvert // narrower on some architectures
		return nil
	})
	return total, err
}

// ownerMap tells apart what is extracted by those whose ids mean something else.
func ownerMap() string {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return "unknown"
	}
	sum := sha256.Sum256([]byte(strings.Join(strings.Fields(string(ids)), " ")))
	return hex.EncodeToString(sum[:4])
}

// bootID is another one whenever the machine is started.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(id))
}
