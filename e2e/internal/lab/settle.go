package lab

import (
	"os"
	"path/filepath"
	"time"
)

// ContextTime is the modification time of every file of a context, so that
// nothing depends on when a test runs.
func ContextTime() time.Time { return time.Date(2025, 5, 5, 5, 5, 5, 0, time.UTC) }

// Settle sets the time of everything below a directory but symbolic links.
func Settle(dir string) error { return SettleAt(dir, ContextTime()) }

// SettleAt sets it to at.
func SettleAt(dir string, at time.Time) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(path, at, at)
	})
}
