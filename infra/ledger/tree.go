package ledger

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// tree is where values are read: a file for each key. What is in it need not be
// on disk; the journal is.
type tree struct{ root *os.Root }

// read returns the content of a key's file. A directory is no value.
func (t tree) read(key string) ([]byte, error) {
	f, err := t.root.Open(key)
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

// has reports whether a key has a value, or is the beginning of one that has.
// The error matches unix.ENOTDIR if a value stands where the key needs a
// directory.
func (t tree) has(key string) (bool, error) {
	_, err := t.root.Lstat(key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// notThere turns the errors for a directory where a value is looked for, and
// for a value where a directory is, into fs.ErrNotExist.
func notThere(err error) error {
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR) {
		return fs.ErrNotExist
	}
	return err
}

// apply makes a key what an entry says. Readers see the old value or the new.
func (t tree) apply(e entry) error {
	if e.deleted {
		return t.remove(e.key)
	}
	tmp, err := t.writeTmp(e.data)
	if err != nil {
		return err
	}
	err = t.root.Rename(tmp, e.key)
	if errors.Is(err, fs.ErrNotExist) {
		if err = t.root.MkdirAll(path.Dir(e.key), 0o700); err == nil {
			err = t.root.Rename(tmp, e.key)
		}
	}
	if err != nil {
		_ = t.root.Remove(tmp)
	}
	return err
}

// is reports whether a key is what an entry says already.
func (t tree) is(e entry) (bool, error) {
	data, err := t.read(e.key)
	if errors.Is(err, fs.ErrNotExist) {
		return e.deleted, nil
	}
	return err == nil && !e.deleted && bytes.Equal(data, e.data), err
}

// remove deletes a key's file, and the directories that it leaves empty.
func (t tree) remove(key string) error {
	if info, err := t.root.Lstat(key); err == nil && info.IsDir() {
		return nil
	}
	err := t.root.Remove(key)
	if errors.Is(notThere(err), fs.ErrNotExist) {
		err = nil
	}
	dir := path.Dir(key)
	for err == nil && dir != "." && t.root.Remove(dir) == nil { // until one is not empty
		dir = path.Dir(dir)
	}
	return err
}

// writeTmp writes data to a new file in tmpDir and returns its name.
func (t tree) writeTmp(data []byte) (name string, err error) {
	f, name, err := t.createTmp()
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		_ = t.root.Remove(name)
		return "", err
	}
	return name, nil
}
