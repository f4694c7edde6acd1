package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tree writes files below one directory and nowhere else. Names are slash
// separated, relative and clean.
type tree struct {
	root   *os.Root
	budget *budget
	buf    []byte

	dirName string   // of dir
	dir     *os.Root // where the last file went: files come sorted by directory
	dirFile *os.File // dir again, for what os.Root cannot do; nil until needed

	dirs []dirTimes // set at the end, as each new file changes them
}

type dirTimes struct {
	name    string
	mode    fs.FileMode
	modTime time.Time
}

// copyBuffer is large, so that files are written in few pieces.
const copyBuffer = 256 << 10

func newTree(dir string, b *budget) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &tree{root: root, budget: b, buf: make([]byte, copyBuffer)}, nil
}

// close sets the modes and times of directories and releases the tree. It
// does only the latter if the tree is given up.
func (t *tree) close(giveUp bool) error {
	t.leave()
	var err error
	if !giveUp {
		err = t.finishDirs()
	}
	return errors.Join(err, t.root.Close())
}

// finishDirs sets what was last said of each directory, children first, as a
// parent may end up without permission to enter it.
func (t *tree) finishDirs() error {
	last := make(map[string]dirTimes, len(t.dirs))
	for _, d := range t.dirs {
		last[d.name] = d
	}
	names := slices.SortedFunc(maps.Keys(last), func(a, b string) int { return strings.Compare(b, a) })
	for _, name := range names {
		if err := t.finishDir(last[name]); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) finishDir(d dirTimes) error {
	info, err := t.root.Lstat(d.name)
	if err != nil || !info.IsDir() {
		return nil //nolint:nilerr // replaced by a later entry
	}
	if err := t.root.Chmod(d.name, d.mode); err != nil {
		return err
	}
	return t.root.Chtimes(d.name, d.modTime, d.modTime)
}

// leave closes the directory that the last file went to.
func (t *tree) leave() {
	if t.dir != nil && t.dir != t.root {
		_ = t.dir.Close()
	}
	if t.dirFile != nil {
		_ = t.dirFile.Close()
	}
	t.dirName, t.dir, t.dirFile = "", nil, nil
}

// enter opens the directory that name lies in and returns the base of name.
// Directories that are missing are made, with the time modTime.
func (t *tree) enter(name string, modTime time.Time) (string, error) {
	parent, base := path.Split(name)
	parent = path.Clean(parent)
	if t.dir != nil && parent == t.dirName {
		return base, nil
	}
	t.leave()
	if parent == "." {
		t.dirName, t.dir = parent, t.root
		return base, nil
	}
	dir, err := t.root.OpenRoot(parent)
	if errors.Is(err, fs.ErrNotExist) {
		if err = t.imply(parent, modTime); err == nil {
			dir, err = t.root.OpenRoot(parent)
		}
	}
	if err != nil {
		return "", err
	}
	t.dirName, t.dir = parent, dir
	return base, nil
}

// imply makes the directory name and its missing parents, which have no
// entries of their own (yet).
func (t *tree) imply(name string, modTime time.Time) error {
	if parent := path.Dir(name); parent != "." {
		if err := t.imply(parent, modTime); err != nil {
			return err
		}
	}
	err := t.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t.dirs = append(t.dirs, dirTimes{name: name, mode: 0o755, modTime: modTime})
	return t.budget.entry()
}

// clear removes what stands in the way of a new entry.
func (t *tree) clear(name, base string) (string, error) {
	if err := t.dir.RemoveAll(base); err != nil {
		return "", err
	}
	t.leave() // the directory may have been reached through what is gone
	return t.enter(name, time.Time{})
}

// mkdir makes a directory. One that exists keeps its content.
func (t *tree) mkdir(name string, mode fs.FileMode, modTime time.Time) error {
	if err := t.budget.entry(); err != nil {
		return err
	}
	base, err := t.enter(name, modTime)
	if err != nil {
		return err
	}
	err = t.dir.Mkdir(base, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, statErr := t.dir.Lstat(base)
		if err = statErr; err == nil && !info.IsDir() {
			if base, err = t.clear(name, base); err == nil {
				err = t.dir.Mkdir(base, 0o700)
			}
		}
	}
	if err != nil {
		return err
	}
	t.dirs = append(t.dirs, dirTimes{name: name, mode: mode, modTime: modTime})
	return nil
}

// file makes a regular file, replacing what has its name.
func (t *tree) file(name string, mode fs.FileMode, modTime time.Time, content io.Reader) (err error) {
	if err := t.budget.entry(); err != nil {
		return err
	}
	base, err := t.enter(name, modTime)
	if err != nil {
		return err
	}
	const create = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := t.dir.OpenFile(base, create, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if base, err = t.clear(name, base); err == nil {
			f, err = t.dir.OpenFile(base, create, 0o600)
		}
	}
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err == nil {
			err = t.dir.Chtimes(base, modTime, modTime)
		}
	}()
	if err := t.fill(f, content); err != nil {
		return err
	}
	return f.Chmod(mode)
}

// fill copies content to f, within the budget.
func (t *tree) fill(f *os.File, content io.Reader) error {
	for {
		n, err := content.Read(t.buf)
		if n > 0 {
			if err := t.budget.take(n); err != nil {
				return err
			}
			if _, err := f.Write(t.buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// symlink makes a symbolic link, replacing what has its name. Where it leads
// is not judged: nothing is ever written through it to outside the tree.
func (t *tree) symlink(name, target string, modTime time.Time) error {
	return t.make(name, modTime, func(base string) error {
		if err := t.dir.Symlink(target, base); err != nil {
			return err
		}
		return t.linkTime(base, modTime)
	})
}

// link makes another name for the file target, replacing what has the name.
func (t *tree) link(name, target string, modTime time.Time) error {
	if name == target {
		return errors.New("is a hard link to itself")
	}
	if _, err := t.root.Lstat(target); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("is a hard link to %q, which is not there", target)
	}
	return t.make(name, modTime, func(string) error { return t.root.Link(target, name) })
}

func (t *tree) make(name string, modTime time.Time, do func(base string) error) error {
	if err := t.budget.entry(); err != nil {
		return err
	}
	base, err := t.enter(name, modTime)
	if err != nil {
		return err
	}
	err = do(base)
	if errors.Is(err, fs.ErrExist) {
		if base, err = t.clear(name, base); err == nil {
			err = do(base)
		}
	}
	return err
}

// linkTime sets the time of a symbolic link itself.
func (t *tree) linkTime(base string, modTime time.Time) error {
	if t.dirFile == nil {
		f, err := t.dir.Open(".")
		if err != nil {
			return err
		}
		t.dirFile = f
	}
	ts, err := unix.TimeToTimespec(modTime)
	if err != nil {
		return err
	}
	err = unix.UtimesNanoAt(int(t.dirFile.Fd()), base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &fs.PathError{Op: "utimensat", Path: base, Err: err}
	}
	return nil
}
