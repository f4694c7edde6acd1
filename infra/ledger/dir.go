package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tmpDir  = ".tmp"  // values on their way to a key
	lockDir = ".lock" // one file a shard of keys, locked by whoever replaces or deletes

	staleTmp = time.Hour // age at which a file in tmpDir belongs to nobody any more
)

// Dir is a store in a directory: a file for each key. A value is durable and
// complete when a call returns; after a crash, or seen by another process, a
// key has its old value or its new one and never a part. Any number of
// goroutines and processes of one machine may use a directory at once; on a
// network filesystem it is only as good as that filesystem's locks and links.
type Dir struct {
	root  *os.Root
	locks *locks
	dirs  *dirSync
}

// OpenDir opens the store in a directory and makes the directory if it is not
// there. Close it when done.
func OpenDir(dir string) (*Dir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make ledger directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open ledger directory: %w", err)
	}
	d := &Dir{root: root, locks: newLocks(root), dirs: newDirSync(root)}
	if err := d.prepare(); err != nil {
		root.Close()
		return nil, fmt.Errorf("open ledger %s: %w", dir, err)
	}
	return d, nil
}

// prepare makes the store's own directories and tidies them.
func (d *Dir) prepare() error {
	for _, name := range []string{tmpDir, lockDir} {
		if err := d.mkdirAll(name); err != nil {
			return err
		}
	}
	if err := d.dirs.sync("."); err != nil {
		return err
	}
	return d.sweepTmp()
}

// Close releases the directory. No other method may be running.
func (d *Dir) Close() error { return d.root.Close() }

// Get returns the value of a key and its version. The error wraps
// fs.ErrNotExist if there is none.
func (d *Dir) Get(ctx context.Context, key string) (data []byte, version string, err error) {
	if err := check(ctx, key, nil); err != nil {
		return nil, "", err
	}
	data, err = d.read(key)
	if err != nil {
		return nil, "", fmt.Errorf("read ledger key %s: %w", key, err)
	}
	return data, versionOf(data), nil
}

// Create gives a value to a key that has none and returns the version. The
// error wraps fs.ErrExist if the key has a value; of several that create at
// once exactly one succeeds.
func (d *Dir) Create(ctx context.Context, key string, data []byte) (version string, err error) {
	if err := check(ctx, key, data); err != nil {
		return "", err
	}
	tmp, err := d.writeTmp(data)
	if err != nil {
		return "", fmt.Errorf("create ledger key %s: %w", key, err)
	}
	defer func() { _ = d.root.Remove(tmp) }()
	if err := d.link(tmp, key); err != nil {
		return "", fmt.Errorf("create ledger key %s: %w", key, err)
	}
	return versionOf(data), nil
}

// Swap replaces the value of a key if its version is still the given one, and
// returns the new version; the error wraps ErrConflict if it is not. The
// version "" says that the key must have no value.
func (d *Dir) Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error) {
	if version == "" {
		newVersion, err = d.Create(ctx, key, data)
		if errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("swap ledger key %s: %w", key, ErrConflict)
		}
		return newVersion, err
	}
	if err := check(ctx, key, data); err != nil {
		return "", err
	}
	err = d.locks.with(ctx, key, func() error { return d.replace(key, version, data) })
	if err != nil {
		return "", fmt.Errorf("swap ledger key %s: %w", key, err)
	}
	return versionOf(data), nil
}

// Delete removes a key and its value. To delete what is not there is no error.
func (d *Dir) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key, nil); err != nil {
		return err
	}
	err := d.locks.with(ctx, key, func() error { return d.remove(key) })
	if err != nil {
		return fmt.Errorf("delete ledger key %s: %w", key, err)
	}
	return nil
}

// check refuses a call whose context is over, or whose key or value is not
// allowed.
func check(ctx context.Context, key string, data []byte) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := CheckValue(key, data); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// read returns the content of a key's file. A directory is no value.
func (d *Dir) read(key string) ([]byte, error) {
	f, err := d.root.Open(key)
	if err != nil {
		return nil, notThere(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, notThere(err)
	}
	return data, nil
}

// notThere turns the errors for a directory where a value is looked for, and
// for a value where a directory is, into fs.ErrNotExist.
func notThere(err error) error {
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR) {
		return fs.ErrNotExist
	}
	return err
}

// replace puts data in the place of the value with the given version. The
// caller holds the key's lock.
func (d *Dir) replace(key, version string, data []byte) error {
	old, err := d.read(key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrConflict
	case err != nil:
		return err
	case versionOf(old) != version:
		return ErrConflict
	}
	tmp, err := d.writeTmp(data)
	if err != nil {
		return err
	}
	if err := d.root.Rename(tmp, key); err != nil {
		_ = d.root.Remove(tmp)
		return err
	}
	return d.dirs.sync(path.Dir(key))
}

// remove deletes a key's file, and the directories that it leaves empty. The
// caller holds the key's lock.
func (d *Dir) remove(key string) error {
	if info, err := d.root.Lstat(key); err == nil && info.IsDir() {
		return nil
	}
	if err := gone(d.root.Remove(key)); err != nil {
		return err
	}
	dir := path.Dir(key)
	for dir != "." {
		if d.root.Remove(dir) != nil {
			break // not empty, or already gone
		}
		dir = path.Dir(dir)
	}
	return d.dirs.sync(dir)
}

// gone makes the absence of what is removed no error.
func gone(err error) error {
	if err == nil || errors.Is(notThere(err), fs.ErrNotExist) {
		return nil
	}
	return err
}

// writeTmp writes data to a new file in tmpDir and returns its name.
func (d *Dir) writeTmp(data []byte) (name string, err error) {
	f, name, err := d.createTmp()
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = d.root.Remove(name)
		return "", err
	}
	return name, nil
}

// link gives the file tmp the name of a key that must have none, making the
// directories in between. That the key exists is certain only when every
// directory above it is on disk, so they are synchronised whoever made them,
// and also when somebody else was first.
func (d *Dir) link(tmp, key string) error {
	const attempts = 100 // a concurrent delete may remove the directory just made
	var err error
	for range attempts {
		if err = d.mkdirAll(path.Dir(key)); err != nil {
			return err
		}
		err = d.root.Link(tmp, key)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if syncErr := d.dirs.upTo(path.Dir(key)); syncErr != nil {
		return syncErr
	}
	return err
}

// mkdirAll makes a directory and its parents. Others may make and delete the
// same ones at the same time.
func (d *Dir) mkdirAll(dir string) error {
	if dir == "." {
		return nil
	}
	err := d.root.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.mkdirAll(path.Dir(dir)); err != nil {
			return err
		}
		err = d.root.Mkdir(dir, 0o700)
	}
	if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// isOwn reports whether a name in the store's directory is not a key's.
func isOwn(name string) bool { return strings.HasPrefix(name, ".") }
