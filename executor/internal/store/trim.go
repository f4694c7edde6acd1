package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// item is something that can be removed.
type item struct {
	size   int64
	used   time.Time
	remove func() (removed bool)
}

// trim removes what was not used for longest until the rest is within the budget,
// and what killed processes left. What is in use stays. Whatever cannot be removed
// is left for the next.
func (s *Store) trim() {
	s.tidyNew()
	if s.opt.Size <= 0 {
		return
	}
	items := append(s.indexItems(), s.imageItems()...)
	var total int64
	for _, i := range items {
		total += i.size
	}
	slices.SortFunc(items, func(a, b item) int { return a.used.Compare(b.used) })
	for _, i := range items {
		if total <= s.opt.Size {
			return
		}
		if i.remove() {
			total -= i.size
		}
	}
}

func (s *Store) indexItems() []item {
	entries, err := os.ReadDir(s.indexes)
	if err != nil {
		return nil
	}
	var out []item
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			path := filepath.Join(s.indexes, e.Name())
			out = append(out, item{info.Size(), info.ModTime(), func() bool { return os.Remove(path) == nil }})
		}
	}
	return out
}

func (s *Store) imageItems() []item {
	images := filepath.Join(s.dir, "images")
	entries, err := os.ReadDir(images)
	if err != nil {
		return nil
	}
	var out []item
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(images, e.Name())
		i := item{remove: func() bool { return s.removeImage(e.Name()) }}
		if raw, err := os.ReadFile(filepath.Join(dir, "size")); err == nil {
			i.size, _ = strconv.ParseInt(string(raw), 10, 64)
		}
		if info, err := os.Stat(dir + ".lock"); err == nil {
			i.used = info.ModTime()
		}
		out = append(out, i)
	}
	return out
}

// removeImage removes an image that nobody uses.
func (s *Store) removeImage(key string) bool {
	dir := filepath.Join(s.dir, "images", key)
	lock, err := tryLock(dir+".lock", unix.LOCK_EX)
	if err != nil || lock == nil {
		return false
	}
	defer lock.Close()
	// Away first: half an image must not be found.
	away := filepath.Join(s.dir, "new", key)
	if err := errors.Join(os.RemoveAll(away), os.Rename(dir, away)); err != nil {
		return false
	}
	_ = os.Remove(lock.Name())
	return os.RemoveAll(away) == nil
}

// staleAfter is how old a file in new is that nobody writes any more.
const staleAfter = 24 * time.Hour

// tidyNew removes what killed processes left.
func (s *Store) tidyNew() {
	entries, err := os.ReadDir(filepath.Join(s.dir, "new"))
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, "new", e.Name())
		if strings.HasPrefix(e.Name(), "index-") {
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
				_ = os.Remove(path)
			}
			continue
		}
		// Who makes or removes an image has its lock.
		if lock, err := tryLock(filepath.Join(s.dir, "images", e.Name()+".lock"), unix.LOCK_EX); err == nil && lock != nil {
			_ = os.RemoveAll(path)
			_ = lock.Close()
		}
	}
}
