package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// listing are the names in a directory, in byte order and without one allocation for
// each. It is filled again and again.
type listing struct {
	raw   []byte // what the kernel is asked to fill
	text  []byte // all names
	names []span
}

// span is where a name is in the text.
type span struct{ from, to uint32 }

const (
	listingSize = 64 << 10
	// direntName is where the name begins in a struct linux_dirent64, after the inode
	// number, an offset, and a length at direntLength; see getdents64(2).
	direntName   = 19
	direntLength = 16
)

var errDirent = errors.New("the kernel's list of a directory is malformed")

func (l *listing) name(i int) []byte { return l.text[l.names[i].from:l.names[i].to] }

// read lists an open directory.
func (l *listing) read(fd int) error {
	if l.raw == nil {
		l.raw = make([]byte, listingSize)
	}
	l.text, l.names = l.text[:0], l.names[:0]
	for {
		n, err := unix.ReadDirent(fd, l.raw)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := l.add(l.raw[:n]); err != nil {
			return err
		}
	}
	slices.SortFunc(l.names, func(a, b span) int { return bytes.Compare(l.text[a.from:a.to], l.text[b.from:b.to]) })
	return nil
}

// add takes the names of one answer of the kernel.
func (l *listing) add(raw []byte) error {
	for len(raw) > 0 {
		if len(raw) < direntName {
			return errDirent
		}
		size := int(binary.NativeEndian.Uint16(raw[direntLength:]))
		if size < direntName || size > len(raw) {
			return errDirent
		}
		name, _, ended := bytes.Cut(raw[direntName:size], []byte{0})
		if !ended {
			return errDirent
		}
		raw = raw[size:]
		if len(name) == 0 || string(name) == "." || string(name) == ".." {
			continue
		}
		from := len(l.text)
		l.text = append(l.text, name...)
		l.names = append(l.names, span{uint32(from), uint32(len(l.text))}) //nolint:gosec // 2^32 bytes of names do not fit into a directory
	}
	return nil
}
