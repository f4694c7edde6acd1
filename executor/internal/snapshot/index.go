package snapshot

import (
	"bytes"
	"cmp"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Print is a 128-bit digest of a file's content or of a link's target. The
// zero Print is unknown. It finds accidents, not adversaries: the only one who
// could forge a collision is the build that the layer belongs to.
type Print [2]uint64

// sum is what a record has of a Print: half of it, which is as good as all of it to
// tell what a file holds from what the same file held before.
func (p Print) sum() uint64 {
	if p == (Print{}) {
		return 0
	}
	return max(p[0]^p[1], 1)
}

// record is what the index keeps of a file. There are as many as files: it holds 64
// bytes and no pointers.
type record struct {
	ino          uint64
	ctime, mtime int64  // nanoseconds
	size         int64  // of a device which device it is
	sum          uint64 // of the Print of its content; 0: not known
	mode         uint32
	uid, gid     uint32
	dev          uint32 // as the kernel has them (makedev(3))
	nameOff      uint32
	nameLen      uint8 // at most 255 (NAME_MAX)
	seen         bool  // stat fields are filled in
	linked       bool  // the file has several names
}

// inode tells one file from another.
type inode struct {
	dev uint32
	ino uint64
}

func (r *record) inode() inode { return inode{r.dev, r.ino} }

// directory holds the records of one directory's children, sorted by name, the
// names in one string.
type directory struct {
	names   []byte
	records []record
	sorted  bool
}

func (d *directory) name(r *record) string { return string(d.bytes(r)) }

// bytes is the name without a copy of it.
func (d *directory) bytes(r *record) []byte { return d.names[r.nameOff : r.nameOff+uint32(r.nameLen)] }

func (d *directory) add(name string, r record) {
	r.nameOff = uint32(len(d.names))
	r.nameLen = uint8(len(name)) //nolint:gosec // NAME_MAX
	d.names = append(d.names, name...)
	d.records = append(d.records, r)
	d.sorted = false
}

// same tells whether nothing differs, names and their places included.
func (d *directory) same(o *directory) bool {
	return bytes.Equal(d.names, o.names) && slices.Equal(d.records, o.records)
}

// reset empties the directory, to be filled again.
func (d *directory) reset() { d.names, d.records, d.sorted = d.names[:0], d.records[:0], false }

// packed is a copy that takes no more memory than it must.
func (d *directory) packed() *directory {
	out := &directory{names: make([]byte, len(d.names)), records: make([]record, len(d.records)), sorted: d.sorted}
	copy(out.names, d.names)
	copy(out.records, d.records)
	return out
}

// sort orders the records by name; of two with one name the later stays.
func (d *directory) sort() {
	if d.sorted {
		return
	}
	slices.SortStableFunc(d.records, func(a, b record) int { return cmp.Compare(d.name(&a), d.name(&b)) })
	out := d.records[:0]
	for i := range d.records {
		if i+1 < len(d.records) && d.name(&d.records[i]) == d.name(&d.records[i+1]) {
			continue
		}
		out = append(out, d.records[i])
	}
	d.records, d.sorted = out, true
}

func (d *directory) find(name string) *record {
	d.sort()
	i, ok := slices.BinarySearchFunc(d.records, name, func(r record, n string) int { return cmp.Compare(d.name(&r), n) })
	if !ok {
		return nil
	}
	return &d.records[i]
}

// index is the state of a tree as it was last seen.
type index struct {
	mu     sync.Mutex
	dirs   map[string]*directory // by name; the root's own record is in root
	root   record
	xattrs map[string]uint64  // hash of the extended attributes of the few files that have some
	latest int64              // the greatest ctime seen, nanoseconds
	links  map[inode][]string // the names of files that have several, as the last scan found them
}

func newIndex() *index {
	return &index{dirs: map[string]*directory{}, xattrs: map[string]uint64{}}
}

func (x *index) directory(name string) *directory {
	d := x.dirs[name]
	if d == nil {
		d = &directory{sorted: true}
		x.dirs[name] = d
	}
	return d
}

func recordOf(st *unix.Stat_t) record {
	size := st.Size
	if t := st.Mode & unix.S_IFMT; t == unix.S_IFCHR || t == unix.S_IFBLK {
		size = int64(st.Rdev) //nolint:unconvert,gosec // only compared
	}
	return record{
		ino: st.Ino, dev: uint32(st.Dev), //nolint:gosec // 12 and 20 bits
		ctime: st.Ctim.Nano(), mtime: st.Mtim.Nano(), size: size,
		mode: st.Mode, uid: st.Uid, gid: st.Gid, seen: true,
		linked: st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR,
	}
}

// sameStat tells whether nothing about the file can have changed: every field
// is equal, ctime included.
func (r *record) sameStat(o *record) bool {
	return r.seen && o.seen && r.ino == o.ino && r.dev == o.dev && r.ctime == o.ctime &&
		r.mtime == o.mtime && r.size == o.size && r.mode == o.mode && r.uid == o.uid && r.gid == o.gid
}

// sameMeta tells whether what a layer records of the file besides content and
// extended attributes is equal. The mtime and size of a directory do not count:
// they change whenever a child comes or goes.
func (r *record) sameMeta(o *record) bool {
	if r.mode != o.mode || r.uid != o.uid || r.gid != o.gid {
		return false
	}
	return r.mode&unix.S_IFMT == unix.S_IFDIR || (r.size == o.size && r.mtime == o.mtime)
}

// setXattrs records the hash of a file's extended attributes, 0 for none.
func (x *index) setXattrs(name string, hash uint64) {
	if hash == 0 {
		delete(x.xattrs, name)
	} else {
		x.xattrs[name] = hash
	}
}

// forget drops what the index holds below directories that are no more.
func (x *index) forget(gone []string) {
	if len(gone) == 0 {
		return
	}
	slices.Sort(gone)
	below := func(name string) bool {
		for ; name != "."; name = rootfs.Parent(name) {
			if _, ok := slices.BinarySearch(gone, name); ok {
				return true
			}
		}
		return false
	}
	for name := range x.dirs {
		if below(name) {
			delete(x.dirs, name)
		}
	}
	for name := range x.xattrs {
		if below(rootfs.Parent(name)) {
			delete(x.xattrs, name)
		}
	}
}
