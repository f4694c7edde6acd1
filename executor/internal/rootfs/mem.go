package rootfs

import (
	"bytes"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is an FS in memory. It needs no privilege to own a file as anybody or to
// hold a device, so it is what tests build on. It is safe for concurrent use.
type Mem struct {
	mu    sync.Mutex
	nodes map[string]*memNode
	next  uint64
}

type memNode struct {
	entry   Entry
	content []byte
	links   uint64
}

var _ FS = (*Mem)(nil)

// NewMem returns an FS that holds only its root, a directory of mode 0755.
func NewMem() *Mem {
	m := &Mem{nodes: map[string]*memNode{}}
	m.nodes["."] = &memNode{entry: Entry{Mode: fs.ModeDir | 0o755, Inode: m.inode()}, links: 1}
	return m
}

func (m *Mem) inode() Inode {
	m.next++
	return Inode{Dev: 1, Ino: m.next}
}

// locate follows the links in the components before the last.
func (m *Mem) locate(op, name string) (string, error) {
	real, err := ResolveParent(unlocked{m}, name)
	if err != nil {
		return "", err
	}
	if real == "." {
		return real, nil
	}
	p, ok := m.nodes[Parent(real)]
	if !ok {
		return "", &fs.PathError{Op: op, Path: name, Err: syscall.ENOENT}
	}
	if !p.entry.Mode.IsDir() {
		return "", &fs.PathError{Op: op, Path: name, Err: syscall.ENOTDIR}
	}
	return real, nil
}

// unlocked serves Resolve while the lock is held.
type unlocked struct{ *Mem }

func (u unlocked) Lstat(name string) (Entry, error) {
	n, ok := u.nodes[name]
	if !ok {
		return Entry{}, &fs.PathError{Op: "lstat", Path: name, Err: syscall.ENOENT}
	}
	return n.entry, nil
}

func (m *Mem) find(op, name string) (*memNode, error) {
	real, err := m.locate(op, name)
	if err != nil {
		return nil, err
	}
	n, ok := m.nodes[real]
	if !ok {
		return nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOENT}
	}
	return n, nil
}

// Lstat implements [FS].
func (m *Mem) Lstat(name string) (Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("lstat", name)
	if err != nil {
		return Entry{}, err
	}
	e := n.entry
	e.Name = name
	e.Nlink = n.links
	return e, nil
}

// Open implements [FS].
func (m *Mem) Open(name string) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("open", name)
	if err != nil {
		return nil, err
	}
	if !n.entry.Mode.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	return io.NopCloser(bytes.NewReader(n.content)), nil
}

// List implements [FS].
func (m *Mem) List(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	real, err := m.locate("list", name)
	if err != nil {
		return nil, err
	}
	n, ok := m.nodes[real]
	switch {
	case !ok:
		return nil, &fs.PathError{Op: "list", Path: name, Err: syscall.ENOENT}
	case !n.entry.Mode.IsDir():
		return nil, &fs.PathError{Op: "list", Path: name, Err: syscall.ENOTDIR}
	}
	var names []string
	for k := range m.nodes {
		if k != "." && Parent(k) == real {
			names = append(names, k[strings.LastIndexByte(k, '/')+1:])
		}
	}
	slices.Sort(names)
	return names, nil
}

// Put implements [FS].
func (m *Mem) Put(e Entry, content io.Reader) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	real, err := m.locate("put", e.Name)
	if err != nil {
		return err
	}
	var data []byte
	if content != nil {
		if data, err = io.ReadAll(content); err != nil {
			return &fs.PathError{Op: "put", Path: e.Name, Err: err}
		}
	}
	if e.Hard {
		return m.putHard(real, e)
	}
	old := m.nodes[real]
	if old != nil && old.entry.Mode.IsDir() && e.Mode.IsDir() {
		e.Inode = old.entry.Inode
		old.entry = e
		return nil
	}
	m.remove(real)
	if e.Inode = m.inode(); !e.Mode.IsRegular() {
		data = nil
	}
	e.Size = int64(len(data))
	e.Xattrs = cloneXattrs(e.Xattrs)
	m.nodes[real] = &memNode{entry: e, content: data, links: 1}
	return nil
}

func (m *Mem) putHard(real string, e Entry) error {
	target, err := m.find("link", e.Link)
	if err != nil {
		return err
	}
	if m.nodes[real] == target {
		return nil
	}
	m.remove(real)
	m.nodes[real] = target
	target.links++
	return nil
}

func cloneXattrs(x map[string]string) map[string]string {
	if len(x) == 0 {
		return nil
	}
	c := make(map[string]string, len(x))
	for k, v := range x {
		c[k] = v
	}
	return c
}

// Remove implements [FS].
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	real, err := m.locate("remove", name)
	if err != nil {
		return nil // what cannot be reached does not exist
	}
	if real == "." {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.EBUSY}
	}
	m.remove(real)
	return nil
}

func (m *Mem) remove(real string) {
	n, ok := m.nodes[real]
	if !ok {
		return
	}
	n.links--
	delete(m.nodes, real)
	for k := range m.nodes {
		if strings.HasPrefix(k, real+"/") {
			m.nodes[k].links--
			delete(m.nodes, k)
		}
	}
}
