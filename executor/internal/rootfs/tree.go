package rootfs

import (
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Content is what a regular file of a [Tree] holds.
type Content interface {
	// Open reads it from its beginning. It may be called as often as needed.
	Open() (io.ReadCloser, error)
	// Print is a digest of it, the zero value if that is not known.
	Print() [2]uint64
}

// Tree is an FS of which only names and metadata are held, in memory, as
// compactly as they can be changed. What files hold lies elsewhere. It behaves
// as a directory on disk does: what is made, replaced or removed moves the
// mtime of the directory above. Nobody needs privileges to own a file in it.
//
// It is safe for concurrent use.
type Tree struct {
	keep func(io.Reader) (Content, int64, error)
	now  func() time.Time

	mu   sync.Mutex
	root *treeNode
	next uint64 // inode number given last
}

var _ FS = (*Tree)(nil)

// treeNode is a file, under one or several names.
type treeNode struct {
	children map[string]*treeNode // of a directory; nil while there are none
	content  Content              // of a regular file; nil if it is empty
	more     *treeMore            // nil for most
	size     int64
	sec      int64 // mtime
	ino      uint64
	uid, gid int
	mode     fs.FileMode
	nsec     int32
	links    uint32
}

// treeMore is what few files have.
type treeMore struct {
	link         string
	xattrs       map[string]string
	major, minor uint32
}

// NewTree returns a Tree that holds only its root, a directory of mode 0755.
// keep stores what is put into a file and returns its size; now is the time
// that the filesystem would give.
func NewTree(keep func(io.Reader) (Content, int64, error), now func() time.Time) *Tree {
	t := &Tree{keep: keep, now: now}
	t.root = t.node(Entry{Mode: fs.ModeDir | 0o755}, now())
	return t
}

// Clone returns a copy that changes independently. What files hold is shared.
func (t *Tree) Clone() *Tree {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &Tree{keep: t.keep, now: t.now, next: t.next}
	c.root = cloneNode(t.root, map[*treeNode]*treeNode{})
	return c
}

// cloneNode copies a node and what is below. seen has those of several names.
func cloneNode(n *treeNode, seen map[*treeNode]*treeNode) *treeNode {
	if c := seen[n]; c != nil {
		return c
	}
	c := *n
	if n.links > 1 {
		seen[n] = &c
	}
	if n.children != nil {
		c.children = make(map[string]*treeNode, len(n.children))
		for name, child := range n.children {
			c.children[name] = cloneNode(child, seen)
		}
	}
	return &c
}

func (t *Tree) node(e Entry, now time.Time) *treeNode {
	t.next++
	n := &treeNode{ino: t.next, links: 1}
	n.set(e)
	if e.ModTime.IsZero() {
		n.setTime(now)
	}
	return n
}

// set gives a node the metadata of an entry, as [Dir] does: attributes that it
// does not name stay, and so does the time if it has none.
func (n *treeNode) set(e Entry) {
	n.mode, n.uid, n.gid = e.Mode, e.UID, e.GID
	if e.Mode&fs.ModeSymlink != 0 {
		n.mode = fs.ModeSymlink | fs.ModePerm // a link has no mode of its own
	}
	if !e.ModTime.IsZero() {
		n.setTime(e.ModTime)
	}
	var xattrs map[string]string
	if n.more != nil {
		xattrs = n.more.xattrs
	}
	for name, v := range e.Xattrs {
		if !keepXattr(name) || refuseXattr(e.Mode, name) {
			continue
		}
		next := make(map[string]string, len(xattrs)+1) // shared with clones
		for k, old := range xattrs {
			next[k] = old
		}
		next[name] = v
		xattrs = next
	}
	if e.Link != "" || len(xattrs) > 0 || e.Major != 0 || e.Minor != 0 {
		n.more = &treeMore{link: e.Link, xattrs: xattrs, major: e.Major, minor: e.Minor}
	}
}

func (n *treeNode) setTime(m time.Time) {
	n.sec, n.nsec = m.Unix(), int32(m.Nanosecond()) //nolint:gosec // below 1e9
}

// refuseXattr tells whether no filesystem takes the attribute: those of users
// are for files and directories only (xattr(7)), and a name has a namespace.
func refuseXattr(mode fs.FileMode, name string) bool {
	if strings.HasPrefix(name, "user.") {
		return !mode.IsRegular() && !mode.IsDir()
	}
	return !strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, "security.") && !strings.HasPrefix(name, "system.posix_acl_")
}

func (n *treeNode) entry(name string) Entry {
	e := Entry{
		Name: name, Mode: n.mode, UID: n.uid, GID: n.gid, Size: n.size, ModTime: time.Unix(n.sec, int64(n.nsec)),
		Inode: Inode{Dev: 1, Ino: n.ino}, Nlink: uint64(n.links),
	}
	if n.more != nil {
		e.Link, e.Xattrs, e.Major, e.Minor = n.more.link, cloneXattrs(n.more.xattrs), n.more.major, n.more.minor
	}
	return e
}

// place is where a name is: the directory and the name in it.
type place struct {
	dir  *treeNode
	base string
}

// locate follows the links in the components of name before the last.
func (t *Tree) locate(op, name string) (place, error) {
	fail := func(err error) (place, error) { return place{}, &fs.PathError{Op: op, Path: name, Err: err} }
	parent, base := Parent(name), name
	if parent != "." {
		base = name[len(parent)+1:]
	}
	if len(base) > 255 || len(name) > 4095 {
		return fail(syscall.ENAMETOOLONG)
	}
	path := append(make([]*treeNode, 0, 16), t.root)
	for rest, links := parent, 0; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch part {
		case "", ".":
			continue
		case "..":
			path = path[:max(len(path)-1, 1)]
			continue
		}
		n := path[len(path)-1].children[part]
		switch {
		case n == nil:
			return fail(syscall.ENOENT)
		case n.mode&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return fail(syscall.ELOOP)
			}
			if strings.HasPrefix(n.more.link, "/") {
				path = path[:1]
			}
			rest = n.more.link + "/" + rest
		case !n.mode.IsDir():
			return fail(syscall.ENOTDIR)
		default:
			path = append(path, n)
		}
	}
	return place{path[len(path)-1], base}, nil
}

func (t *Tree) find(op, name string) (*treeNode, error) {
	if name == "." {
		return t.root, nil
	}
	p, err := t.locate(op, name)
	if err != nil {
		return nil, err
	}
	if n := p.dir.children[p.base]; n != nil {
		return n, nil
	}
	return nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOENT}
}

// Lstat implements [FS].
func (t *Tree) Lstat(name string) (Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.find("lstat", name)
	if err != nil {
		return Entry{}, err
	}
	return n.entry(name), nil
}

// Open implements [FS].
func (t *Tree) Open(name string) (io.ReadCloser, error) {
	c, err := t.Content(name)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return c.Open()
}

// Content is what a regular file holds, whatever becomes of the file; nil if it
// is empty.
func (t *Tree) Content(name string) (Content, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.find("open", name)
	if err == nil && !n.mode.IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	if err != nil {
		return nil, err
	}
	return n.content, nil
}

// Print is a digest of what a regular file holds, if that is known without
// reading it.
func (t *Tree) Print(name string) (print [2]uint64, ok bool) {
	c, err := t.Content(name)
	if err != nil || c == nil {
		return print, false
	}
	print = c.Print()
	return print, print != [2]uint64{}
}

// List implements [FS].
func (t *Tree) List(name string) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.find("list", name)
	if err == nil && !n.mode.IsDir() {
		err = &fs.PathError{Op: "list", Path: name, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(n.children))
	for k := range n.children {
		names = append(names, k)
	}
	slices.Sort(names)
	return names, nil
}

// Put implements [FS]. An attribute that no filesystem takes is an [ErrXattr],
// as with [Dir].
func (t *Tree) Put(e Entry, content io.Reader) error {
	if !e.Mode.IsRegular() || e.Hard || content == nil {
		return t.put(e, nil, 0)
	}
	// The parents first: who called may make them and come again.
	t.mu.Lock()
	_, err := t.locate("put", e.Name)
	t.mu.Unlock()
	if err != nil {
		return err
	}
	c, size, err := t.keep(content)
	if err != nil {
		return &fs.PathError{Op: "put", Path: e.Name, Err: err}
	}
	return t.put(e, c, size)
}

// PutContent is Put for a regular file whose content, of e.Size bytes, lies
// somewhere already.
func (t *Tree) PutContent(e Entry, content Content) error { return t.put(e, content, e.Size) }

func (t *Tree) put(e Entry, content Content, size int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.Name == "." {
		if !e.Mode.IsDir() {
			return &fs.PathError{Op: "put", Path: e.Name, Err: syscall.EISDIR}
		}
		t.root.set(e)
		return nil
	}
	p, err := t.locate("put", e.Name)
	if err != nil {
		return err
	}
	old := p.dir.children[p.base]
	var n *treeNode
	switch {
	case e.Hard:
		if n, err = t.find("link", e.Link); err == nil && n.mode.IsDir() {
			err = &fs.PathError{Op: "link", Path: e.Link, Err: syscall.EPERM}
		}
		if err != nil || n == old {
			return err
		}
		n.links++
	case e.Mode.IsDir() && old != nil && old.mode.IsDir():
		old.set(e)
		return refused(e)
	default:
		n = t.node(e, t.now())
		if e.Mode.IsRegular() {
			n.content, n.size = content, size
		}
	}
	drop(old)
	if p.dir.children == nil {
		p.dir.children = map[string]*treeNode{}
	}
	p.dir.children[p.base] = n
	p.dir.setTime(t.now())
	return refused(e)
}

// refused is the error for attributes that were not kept.
func refused(e Entry) error {
	for name := range e.Xattrs {
		if !e.Hard && refuseXattr(e.Mode, name) {
			return &fs.PathError{Op: "put", Path: e.Name, Err: ErrXattr}
		}
	}
	return nil
}

// drop takes one name from a file, and from all below it.
func drop(n *treeNode) {
	if n == nil {
		return
	}
	n.links--
	for _, child := range n.children {
		drop(child)
	}
}

// Remove implements [FS].
func (t *Tree) Remove(name string) error {
	if name == "." {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.EBUSY}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.locate("remove", name)
	if err != nil || p.dir.children[p.base] == nil {
		return nil // what cannot be reached does not exist
	}
	drop(p.dir.children[p.base])
	delete(p.dir.children, p.base)
	p.dir.setTime(t.now())
	return nil
}
