package lab

import (
	"hash/crc32"
	"os"
	"path/filepath"
	"time"
)

// timeSpan is how many seconds lie between the times of files at most.
const timeSpan = 1_000_000

// ContextTime is the modification time of the directories of a context, so that
// nothing depends on when a test runs.
func ContextTime() time.Time { return time.Date(2025, 5, 5, 5, 5, 5, 0, time.UTC) }

// Settle sets the time of everything below a directory but symbolic links. That
// of a file depends on its content: BuildKit takes a file of a context for the
// one that it has of an earlier build if name, size and time are the same.
func Settle(dir string) error {
	return settle(dir, func(content []byte) time.Time {
		return ContextTime().Add(time.Duration(crc32.ChecksumIEEE(content)%timeSpan) * time.Second)
	})
}

// SettleAt sets the time of all of it to at.
func SettleAt(dir string, at time.Time) error {
	return settle(dir, func([]byte) time.Time { return at })
}

// settle sets the times of files to what of says of their content, and those of
// directories to what it says of no content.
func settle(dir string, of func(content []byte) time.Time) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		var content []byte
		if d.Type().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		at := of(content)
		return os.Chtimes(path, at, at)
	})
}
