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
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		at := ContextTime()
		if d.Type().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			at = at.Add(time.Duration(crc32.ChecksumIEEE(content)%timeSpan) * time.Second)
		}
		return os.Chtimes(path, at, at)
	})
}
