package ledger

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
)

// createTmp makes a new empty file in tmpDir.
func (t tree) createTmp() (*os.File, string, error) {
	name := path.Join(tmpDir, rand.Text())
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	return f, name, err
}

// sweepTmp removes what crashed processes left in tmpDir. A file is taken for
// left behind if it is much older than one made now: the filesystem's clock is
// the one that dated both.
func (t tree) sweepTmp() error {
	f, name, err := t.createTmp()
	if err != nil {
		return err
	}
	defer func() { _ = t.root.Remove(name) }()
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return err
	}
	entries, err := fs.ReadDir(t.root.FS(), tmpDir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || now.ModTime().Sub(info.ModTime()) < staleTmp {
			continue
		}
		err = t.root.Remove(path.Join(tmpDir, entry.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
