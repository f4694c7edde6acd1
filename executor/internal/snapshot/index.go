package snapshot

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"
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

// record is what the index keeps of a file. There are as many as files: it holds 32
// bytes and no pointers. Of what stat tells it has fingerprints, since all that is
// asked is whether anything differs: hashes of 64 bits, keyed anew for each walk, so
// that nobody can make two files for which they are equal.
type record struct {
	stat    uint64 // of every field of stat; 0: not looked at yet
	meta    uint64 // of those that a layer records
	sum     uint64 // of the Print of its content; 0: not known
	nameOff uint32
	nameLen uint8 // at most 255 (NAME_MAX)
	dir     bool
}

// status is what stat tells of a file.
type status struct {
	record
	mode, dev uint32 // as the kernel has them (inode(7), makedev(3))
	size      int64  // of a device which device it is
	ctime     int64  // nanoseconds
	linked    bool   // the file has several names
}

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

func (d *directory) add(name []byte, r record) {
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
	slices.SortStableFunc(d.records, func(a, b record) int { return bytes.Compare(d.bytes(&a), d.bytes(&b)) })
	out := d.records[:0]
	for i := range d.records {
		if i+1 < len(d.records) && bytes.Equal(d.bytes(&d.records[i]), d.bytes(&d.records[i+1])) {
			continue
		}
		out = append(out, d.records[i])
	}
	d.records, d.sorted = out, true
}

func (d *directory) find(name string) *record {
	d.sort()
	i, ok := slices.BinarySearchFunc(d.records, name, func(r record, n string) int { return strings.Compare(string(d.bytes(&r)), n) })
	if !ok {
		return nil
	}
	return &d.records[i]
}

// index is the state of a tree as it was last seen.
type index struct {
	seed   maphash.Seed
	mu     sync.Mutex
	dirs   map[string]*directory // by name; the root's own record is in root
	root   record
	xattrs map[string]uint64 // hash of the extended attributes of the few files that have some
	latest int64             // the greatest ctime seen, nanoseconds

	learned *learned // nil once there are records
	// links are the names of files that have several, as the last scan found them, by
	// record.stat: all names of a file have the same.
	links map[uint64][]string
}

func newIndex() *index {
	seed := maphash.MakeSeed()
	return &index{seed: seed, dirs: map[string]*directory{}, xattrs: map[string]uint64{}, learned: &learned{seed: seed}}
}

func (x *index) directory(name string) *directory {
	d := x.dirs[name]
	if d == nil {
		d = &directory{sorted: true}
		x.dirs[name] = d
	}
	return d
}

// learn notes the sum of a file: in its record, or until it has one.
func (x *index) learn(name string, sum uint64) {
	if x.learned != nil {
		x.learned.add(name, sum)
	} else if r := x.record(name); r != nil {
		r.sum = sum
	}
}

// status is what the index keeps and who walks asks for.
func (x *index) status(st *unix.Stat_t) status {
	s := status{mode: st.Mode, dev: uint32(st.Dev), size: st.Size, ctime: st.Ctim.Nano()} //nolint:gosec // 12 and 20 bits
	kind := st.Mode & unix.S_IFMT
	s.dir = kind == unix.S_IFDIR
	s.linked = st.Nlink > 1 && !s.dir
	if kind == unix.S_IFCHR || kind == unix.S_IFBLK {
		s.size = int64(st.Rdev) //nolint:unconvert,gosec // only compared
	}
	// What a layer records stands first. The mtime and size of a directory do not
	// count: they change whenever a child comes or goes.
	var f [48]byte
	order := binary.LittleEndian
	order.PutUint32(f[0:], s.mode)
	order.PutUint32(f[4:], st.Uid)
	order.PutUint32(f[8:], st.Gid)
	order.PutUint32(f[12:], s.dev)
	order.PutUint64(f[16:], uint64(s.size))         //nolint:gosec // only compared
	order.PutUint64(f[24:], uint64(st.Mtim.Nano())) //nolint:gosec // as well
	order.PutUint64(f[32:], uint64(s.ctime))        //nolint:gosec // as well
	order.PutUint64(f[40:], st.Ino)
	s.stat = max(maphash.Bytes(x.seed, f[:]), 1)
	order.PutUint32(f[12:], 0)
	if s.dir {
		s.meta = maphash.Bytes(x.seed, f[:16])
	} else {
		s.meta = maphash.Bytes(x.seed, f[:32])
	}
	return s
}

// seen tells whether the file was looked at.
func (r *record) seen() bool { return r.stat != 0 }

// sameStat tells whether nothing about the file can have changed: every field
// is equal, ctime included.
func (r *record) sameStat(o *record) bool { return r.seen() && r.stat == o.stat }

// sameMeta tells whether what a layer records of the file besides content and
// extended attributes is equal.
func (r *record) sameMeta(o *record) bool { return r.meta == o.meta }

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
