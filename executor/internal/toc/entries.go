package toc

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// entry is one of the table: a file of the layer, or a further chunk of the file before.
type entry struct {
	h     tar.Header
	chunk bool
	span  span
	sum   string // digest of what a file holds that is wanted; "" if the table does not say
}

// span says where in the blob something begins that a file holds.
type span struct {
	offset int64 // of a compressed stream that begins there
	inner  int64 // in what that holds
	at     int64 // in the file
	size   int64 // of it; 0: to the end of the file
}

// xattrPrefix begins the PAX records of attributes.
const xattrPrefix = "SCHILY.xattr."

var (
	// errKind is the error of an entry that cannot be told as a tar header.
	errKind = errors.New("it has an entry of an unknown kind")
	// errLossy is the error of a table that does not say everything.
	errLossy = errors.New("a name in it was not UTF-8 in the layer")
)

// kinds are the types of entries.
func kindOf(name string) (flag byte, ok bool) {
	switch name {
	case "reg":
		return tar.TypeReg, true
	case "dir":
		return tar.TypeDir, true
	case "symlink":
		return tar.TypeSymlink, true
	case "hardlink":
		return tar.TypeLink, true
	case "char":
		return tar.TypeChar, true
	case "block":
		return tar.TypeBlock, true
	case "fifo":
		return tar.TypeFifo, true
	}
	return 0, false
}

// table reads the JSON of a table.
type table struct {
	s    *scanner
	e    entry
	kind byte // of e; 0: not told yet
	want func(name string) bool
	each func(*entry) error

	time     time.Time // that was read last
	timeText string
}

// parse calls each for the entries of a table in their order, which is that of the
// layer. What it is given is valid until it returns.
func parse(r io.Reader, want func(name string) bool, each func(*entry) error) error {
	t := &table{s: newScanner(r), want: want, each: each}
	version, entries := int64(0), 0
	t.s.object(func(name []byte) {
		switch string(name) {
		case "version":
			version = t.s.number()
		case "entries":
			if entries++; t.s.next() == 'n' { // that is how Go writes none
				t.s.word("null")
				return
			}
			t.s.array(t.entry)
		default:
			t.s.skip(0)
		}
	})
	if err := t.s.finish(); err != nil {
		return err
	}
	if version != 1 || entries != 1 {
		return fmt.Errorf("%w: it is of version %d with %d lists of entries", errJSON, version, entries)
	}
	return nil
}

func (t *table) entry() {
	t.e, t.kind = entry{h: tar.Header{ModTime: time.Unix(0, 0)}}, 0
	t.s.object(t.field)
	if t.s.err == nil {
		if err := t.done(); err != nil {
			t.s.fail(err)
		}
	}
}

// done checks an entry and hands it on.
func (t *table) done() error {
	e := &t.e
	if e.h.Name == "" || t.kind == 0 && !e.chunk {
		return fmt.Errorf("%w: one has no name or no type", errKind)
	}
	if e.h.Size < 0 || e.h.Devmajor < 0 || e.h.Devminor < 0 || e.span.offset < 0 || e.span.inner < 0 || e.span.at < 0 || e.span.size < 0 {
		return fmt.Errorf("%w: /%s has a number below 0", errKind, e.h.Name)
	}
	e.h.Typeflag = t.kind
	if t.kind != tar.TypeReg {
		e.h.Size = 0
	}
	return t.each(e)
}

func (t *table) field(name []byte) {
	e, s := &t.e, t.s
	switch string(name) {
	case "name":
		e.h.Name = t.exact()
	case "type":
		text := s.string()
		if e.chunk = string(text) == "chunk"; e.chunk {
			return
		}
		kind, ok := kindOf(string(text))
		if !ok && s.err == nil {
			s.fail(fmt.Errorf("%w: %.32q", errKind, text))
		}
		t.kind = kind
	case "size":
		e.h.Size = s.number()
	case "modtime":
		t.modTime()
	case "linkName":
		e.h.Linkname = t.exact()
	case "mode":
		e.h.Mode = s.number()
	case "uid":
		e.h.Uid = int(s.number())
	case "gid":
		e.h.Gid = int(s.number())
	case "devMajor":
		e.h.Devmajor = s.number()
	case "devMinor":
		e.h.Devminor = s.number()
	case "xattrs":
		t.xattrs()
	case "digest":
		if text := s.string(); t.want(e.h.Name) { // the others need no memory
			e.sum = string(text)
		}
	case "offset":
		e.span.offset = s.number()
	case "innerOffset":
		e.span.inner = s.number()
	case "chunkOffset":
		e.span.at = s.number()
	case "chunkSize":
		e.span.size = s.number()
	default:
		s.skip(0)
	}
}

// exact reads a string in which every byte counts. A writer of JSON puts U+FFFD in
// place of what is not UTF-8.
func (t *table) exact() string {
	text := string(t.s.string())
	if strings.ContainsRune(text, utf8.RuneError) {
		t.s.fail(errLossy)
	}
	return text
}

func (t *table) modTime() {
	text := t.s.string()
	if t.s.err != nil || len(text) == 0 {
		return
	}
	if string(text) != t.timeText {
		at, err := time.Parse(time.RFC3339, string(text))
		if err != nil {
			t.s.fail(fmt.Errorf("%w: %.64q is no time", errKind, text))
			return
		}
		t.time, t.timeText = at, string(text)
	}
	t.e.h.ModTime = t.time
}

func (t *table) xattrs() {
	if t.s.next() == 'n' {
		t.s.word("null")
		return
	}
	t.s.object(func(name []byte) {
		key := string(name)
		if strings.ContainsRune(key, utf8.RuneError) {
			t.s.fail(errLossy)
		}
		if t.s.next() == 'n' { // that is how nothing is written
			t.s.word("null")
			t.xattr(key, nil)
			return
		}
		value, err := base64.StdEncoding.AppendDecode(nil, t.s.string())
		if err != nil {
			t.s.fail(fmt.Errorf("%w: an attribute is not in base64", errKind))
		}
		t.xattr(key, value)
	})
}

func (t *table) xattr(name string, value []byte) {
	if t.e.h.PAXRecords == nil {
		t.e.h.PAXRecords = map[string]string{}
	}
	if len(t.e.h.PAXRecords) == maxXattrs {
		t.s.fail(fmt.Errorf("%w: one has more than %d attributes", errKind, maxXattrs))
		return
	}
	t.e.h.PAXRecords[xattrPrefix+name] = string(value)
}

// maxXattrs is how many attributes a file may have: more than a kernel lists.
const maxXattrs = 1 << 10
