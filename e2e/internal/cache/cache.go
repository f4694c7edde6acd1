// Package cache keeps what is slow to make and always comes out the same, for
// every clone and every run of one user: built programs, base images.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is a directory of entries. It is safe for several processes at once.
type Dir string

// Default returns the cache of the user that runs the program, outside any
// clone: $XDG_CACHE_HOME/kiln or ~/.cache/kiln.
func Default() (Dir, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w; set HOME or XDG_CACHE_HOME", err)
	}
	return Dir(filepath.Join(dir, "kiln")), nil
}

// Key hashes everything that an entry is made from.
func Key(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// Get returns the directory of the entry name-key. If there is none, make is
// called with an empty directory to fill, and its success makes the entry
// appear as a whole. Whoever asks meanwhile, in this process or another, waits.
// Entries of the same name with other keys are removed: they are out of date.
func (d Dir) Get(ctx context.Context, name, key string, make func(ctx context.Context, dir string) error) (string, error) {
	entry := filepath.Join(string(d), name+"-"+key)
	if _, err := os.Stat(entry); err == nil {
		return entry, nil
	}
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(string(d), name+".lock"))
	if err != nil {
		return "", fmt.Errorf("lock cache of %s: %w", name, err)
	}
	defer unlock()
	if _, err := os.Stat(entry); !errors.Is(err, fs.ErrNotExist) {
		return entry, err
	}
	if err := d.clear(name); err != nil {
		return "", fmt.Errorf("clear cache of %s: %w", name, err)
	}
	partial, err := os.MkdirTemp(string(d), name+".partial-")
	if err != nil {
		return "", fmt.Errorf("make cache of %s: %w", name, err)
	}
	if err := make(ctx, partial); err != nil {
		return "", errors.Join(err, os.RemoveAll(partial))
	}
	if err := errors.Join(os.Chmod(partial, 0o755), os.Rename(partial, entry)); err != nil {
		return "", fmt.Errorf("keep %s: %w", name, err)
	}
	return entry, nil
}

// clear removes entries of name and what a killed process left of one.
func (d Dir) clear(name string) error {
	var errs []error
	for _, pattern := range []string{name + "-*", name + ".partial-*"} {
		old, err := filepath.Glob(filepath.Join(string(d), pattern))
		errs = append(errs, err)
		for _, dir := range old {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// lock waits for an exclusive lock on a file, which ends with the process.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
