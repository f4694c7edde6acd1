package step

import (
	"io"
	"io/fs"
	"syscall"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// linked is a root as an operation sees it whose layer depends on nothing that
// was there before: it holds only what the operation put into it. What is put
// takes the place of what the root has of that name. A directory keeps its
// children, but no owner, mode or attribute.
type linked struct {
	root  rootfs.FS
	made  map[string]map[string]bool // directories that were put, with the names in them
	wrote func(name string)
}

func newLinked(root rootfs.FS, wrote func(name string)) *linked {
	if wrote == nil {
		wrote = func(string) {}
	}
	return &linked{root: root, made: map[string]map[string]bool{".": {}}, wrote: wrote}
}

func (l *linked) has(name string) bool {
	return name == "." || l.made[rootfs.Parent(name)][base(name)]
}

func base(name string) string {
	if parent := rootfs.Parent(name); parent != "." {
		return name[len(parent)+1:]
	}
	return name
}

func notThere(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: syscall.ENOENT}
}

// Lstat implements rootfs.FS.
func (l *linked) Lstat(name string) (rootfs.Entry, error) {
	if !l.has(name) {
		return rootfs.Entry{}, notThere("lstat", name)
	}
	return l.root.Lstat(name)
}

// Open implements rootfs.FS.
func (l *linked) Open(name string) (io.ReadCloser, error) {
	if !l.has(name) {
		return nil, notThere("open", name)
	}
	return l.root.Open(name)
}

// List implements rootfs.FS.
func (l *linked) List(name string) ([]string, error) {
	all, err := l.root.List(name)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range all {
		if l.made[name][n] {
			out = append(out, n)
		}
	}
	return out, nil
}

// Put implements rootfs.FS.
func (l *linked) Put(e rootfs.Entry, content io.Reader) error {
	if e.Name != "." && l.made[rootfs.Parent(e.Name)] == nil {
		return notThere("put", rootfs.Parent(e.Name))
	}
	if err := l.root.Put(e, content); err != nil {
		return err
	}
	if e.Name == "." {
		return nil
	}
	if !l.has(e.Name) {
		l.wrote(e.Name)
	}
	l.made[rootfs.Parent(e.Name)][base(e.Name)] = true
	switch {
	case !e.Mode.IsDir() || e.Hard:
		delete(l.made, e.Name)
	case l.made[e.Name] == nil:
		l.made[e.Name] = map[string]bool{}
	}
	return nil
}

// Remove implements rootfs.FS.
func (l *linked) Remove(name string) error {
	if !l.has(name) || name == "." {
		return nil
	}
	delete(l.made[rootfs.Parent(name)], base(name))
	delete(l.made, name)
	return l.root.Remove(name)
}
