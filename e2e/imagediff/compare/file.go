package compare

import (
	"archive/tar"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// File is everything about a file of a tree except its content. Names that are
// hard links to one file share one File.
type File struct {
	Type         Type
	Mode         int64 // permission, setuid, setgid and sticky bits
	UID, GID     int
	Size         int64  // bytes; regular files only
	SHA256       string // of the content, in hex; regular files only
	Target       string // of a symbolic link
	Major, Minor int64  // of a device
	Xattrs       map[string]string
	ModTime      time.Time
}

// Type is the kind of a file.
type Type string

// The kinds of file that a layer can hold.
const (
	Regular   Type = "file"
	Directory Type = "directory"
	Symlink   Type = "symlink"
	Char      Type = "character device"
	Block     Type = "block device"
	FIFO      Type = "fifo"
)

// xattrPrefix is what the PAX record of an extended attribute begins with.
const xattrPrefix = "SCHILY.xattr."

// newFile describes a tar entry that is not a hard link.
func newFile(h *tar.Header) (*File, error) {
	f := &File{
		Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid,
		Xattrs: xattrs(h), ModTime: h.ModTime,
	}
	switch h.Typeflag {
	case tar.TypeReg:
		f.Type, f.Size = Regular, h.Size
	case tar.TypeDir:
		f.Type = Directory
	case tar.TypeSymlink:
		f.Type, f.Target, f.Mode = Symlink, h.Linkname, 0o777
	case tar.TypeChar:
		f.Type, f.Major, f.Minor = Char, h.Devmajor, h.Devminor
	case tar.TypeBlock:
		f.Type, f.Major, f.Minor = Block, h.Devmajor, h.Devminor
	case tar.TypeFifo:
		f.Type = FIFO
	default:
		return nil, fmt.Errorf("tar entry of unknown type %q", h.Typeflag)
	}
	return f, nil
}

// relink gives a file the attributes that the header of a further hard link
// carries, as the programs that unpack layers do.
func (f *File) relink(h *tar.Header) {
	f.Mode, f.UID, f.GID, f.ModTime = h.Mode&0o7777, h.Uid, h.Gid, h.ModTime
	if x := xattrs(h); x != nil {
		f.Xattrs = x
	}
}

func xattrs(h *tar.Header) map[string]string {
	var found map[string]string
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok {
			continue
		}
		if found == nil {
			found = make(map[string]string)
		}
		found[name] = v
	}
	return found
}

// String describes a file in a few words: "file 0644 0:0 12 bytes".
func (f *File) String() string {
	s := fmt.Sprintf("%s %04o %d:%d", f.Type, f.Mode, f.UID, f.GID)
	switch f.Type {
	case Regular:
		s += fmt.Sprintf(" %d bytes", f.Size)
	case Symlink:
		s += " -> " + f.Target
	case Char, Block:
		s += " " + f.device()
	case Directory, FIFO:
	}
	return s
}

func (f *File) device() string { return fmt.Sprintf("%d:%d", f.Major, f.Minor) }

// compareFiles returns the fields in which two files differ. Of two files of
// different type only the type is reported.
func compareFiles(a, b *File, o Options) []Difference {
	if a.Type != b.Type {
		return []Difference{{Field: "type", A: a.String(), B: b.String()}}
	}
	var diffs []Difference
	differ := func(field, x, y string) {
		if x != y {
			diffs = append(diffs, Difference{Field: field, A: x, B: y})
		}
	}
	differ("mode", fmt.Sprintf("%04o", a.Mode), fmt.Sprintf("%04o", b.Mode))
	differ("uid", strconv.Itoa(a.UID), strconv.Itoa(b.UID))
	differ("gid", strconv.Itoa(a.GID), strconv.Itoa(b.GID))
	differ("size", strconv.FormatInt(a.Size, 10), strconv.FormatInt(b.Size, 10))
	differ("sha256", a.SHA256, b.SHA256)
	differ("target", a.Target, b.Target)
	differ("device", a.device(), b.device())
	for _, name := range xattrNames(a, b) {
		differ("xattr "+name, a.xattr(name), b.xattr(name))
	}
	if o.ModTimes {
		differ("mtime", seconds(a.ModTime), seconds(b.ModTime))
	}
	return diffs
}

func seconds(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func xattrNames(a, b *File) []string {
	names := make(map[string]bool, len(a.Xattrs))
	for n := range a.Xattrs {
		names[n] = true
	}
	for n := range b.Xattrs {
		names[n] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func (f *File) xattr(name string) string {
	v, ok := f.Xattrs[name]
	if !ok {
		return absent
	}
	return "0x" + hex.EncodeToString([]byte(v))
}

// compareLinks compares which names share one file. Names that only one tree
// has are left out: they are reported as such. A group of names is reported
// once, under the first of them.
func compareLinks(a, b map[string]*File) []Difference {
	inA, inB := groups(a, b), groups(b, a)
	var diffs []Difference
	reported := make(map[string]bool)
	for _, p := range paths(a, b) {
		x, y := strings.Join(inA[p], " "), strings.Join(inB[p], " ")
		if a[p] == nil || b[p] == nil || x == y || reported[x+"|"+y] {
			continue
		}
		reported[x+"|"+y] = true
		diffs = append(diffs, Difference{Part: partTree, Where: p, Field: "hard links", A: x, B: y})
	}
	return diffs
}

// groups returns for each path that both trees have the sorted paths that are
// the same file in tree.
func groups(tree, other map[string]*File) map[string][]string {
	byFile := make(map[*File][]string)
	for p, f := range tree {
		if f.Type != Directory && other[p] != nil {
			byFile[f] = append(byFile[f], p)
		}
	}
	byPath := make(map[string][]string)
	for _, group := range byFile {
		slices.Sort(group)
		for _, p := range group {
			byPath[p] = group
		}
	}
	return byPath
}
