package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// growBy is by how many bytes a file of the journal grows at a time. As long as
// its size stays, a sync writes data only and nothing of the filesystem's.
const growBy = 256 << 10

// segment is a file of the journal.
type segment struct {
	number  uint64
	file    *os.File
	salt    salt
	before  int64 // up to where the file before it is whole
	failing error // of every sync, in tests
}

func segmentName(number uint64) string {
	return path.Join(journalDir, fmt.Sprintf("%016x.wal", number))
}

// createSegment makes a file of the journal, durably, for the caller who holds
// the writers' lock. One of this number that a crash left has no records.
func createSegment(root *os.Root, number uint64, before int64) (*segment, error) {
	f, err := root.OpenFile(segmentName(number), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make file of journal: %w", err)
	}
	head := newHeader(before)
	s := &segment{number: number, file: f, before: before, salt: salt(head[len(journalMagic):][:8])}
	_, err = f.WriteAt(append(head, make([]byte, growBy-len(head))...), 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(root, journalDir)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make file of journal: %w", err)
	}
	return s, nil
}

// openSegment opens a file of the journal. The error is errUnused if it was made
// and a crash came before its first record.
func openSegment(root *os.Root, number uint64) (*segment, error) {
	f, err := root.OpenFile(segmentName(number), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	head := make([]byte, growBy)
	n, err := f.ReadAt(head, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s := &segment{number: number, file: f}
	switch {
	case err != nil:
	case len(bytes.Trim(head[:n], "\x00")) == 0:
		err = errUnused
	default:
		s.salt, s.before, err = readHeader(head[:n])
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open journal %s: %w", segmentName(number), err)
	}
	return s, nil
}

// errUnused is the error for a file of the journal that nothing was written to.
var errUnused = errors.New("it was never used")

// openSegments opens the files of the journal in their order. The last is left
// out if a crash came before it was used, and those before a gap too: what lacks
// was removed once the tree was on disk, and so were they, but for the crash.
func openSegments(root *os.Root) (files []*segment, err error) {
	numbers, err := segments(root)
	if err != nil {
		return nil, err
	}
	for i, number := range numbers {
		var s *segment
		s, err = openSegment(root, number)
		if errors.Is(err, errUnused) && i == len(numbers)-1 {
			return files, root.Remove(segmentName(number))
		}
		if err != nil {
			break
		}
		if i > 0 && numbers[i-1] != number-1 {
			closeSegments(files)
			files = nil
		}
		files = append(files, s)
	}
	if err != nil {
		closeSegments(files)
		return nil, err
	}
	return files, nil
}

func closeSegments(files []*segment) {
	for _, s := range files {
		s.file.Close()
	}
}

// segments returns the numbers of the files of the journal, in their order.
func segments(root *os.Root) ([]uint64, error) {
	entries, err := fs.ReadDir(root.FS(), journalDir)
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	var numbers []uint64
	for _, e := range entries {
		name := e.Name()
		if path.Ext(name) != ".wal" {
			continue
		}
		n, err := strconv.ParseUint(name[:len(name)-len(".wal")], 16, 64)
		if err != nil {
			return nil, fmt.Errorf("list journal: %s is not named after a number", name)
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers, nil
}

// read returns the records from an offset on, where they end, and whether that
// is followed by zeros only.
func (s *segment) read(from int64) (entries []entry, end int64, clean bool, err error) {
	data, err := io.ReadAll(io.NewSectionReader(s.file, from, 1<<62))
	if err != nil {
		return nil, 0, false, fmt.Errorf("read journal %s: %w", segmentName(s.number), err)
	}
	entries, end, clean = s.salt.readRecords(data, from)
	return entries, end, clean, nil
}

// empty reports whether no record stands at an offset and nothing of one.
func (s *segment) empty(at int64) (bool, error) {
	var head [recordHeader]byte
	n, err := s.file.ReadAt(head[:], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read journal %s: %w", segmentName(s.number), err)
	}
	return binary.LittleEndian.Uint32(head[:]) == 0 && (n < recordHeader || binary.LittleEndian.Uint32(head[4:]) == 0), nil
}

// write puts records at an offset. If that fails the file ends there.
func (s *segment) write(records []byte, at int64) error {
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if end := at + int64(len(records)); end > info.Size() {
		records = append(records, make([]byte, growBy-end%growBy)...)
	}
	if _, err := s.file.WriteAt(records, at); err != nil {
		return fmt.Errorf("write journal: %w", errors.Join(err, s.file.Truncate(at)))
	}
	return nil
}

// sync puts what was written on disk.
func (s *segment) sync() error {
	if s.failing != nil {
		return s.failing
	}
	for {
		err := unix.Fdatasync(int(s.file.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// place is up to where the journal is in the tree. It is kept in a file for the
// other processes, and means nothing after a restart of the machine: so it is
// not synchronised, and whoever opens a directory alone does not believe it.
type place struct {
	segment uint64
	offset  int64
}

const placeSize = 8 + 8 + 4

func readPlace(f *os.File) (place, error) {
	var buf [placeSize]byte
	if _, err := f.ReadAt(buf[:], 0); err != nil {
		return place{}, fmt.Errorf("read place in journal: %w", err)
	}
	if crc32.Checksum(buf[:16], castagnoli()) != binary.LittleEndian.Uint32(buf[16:]) {
		return place{}, errors.New("place in journal is damaged: stop all that use this ledger and start them again")
	}
	return place{segment: binary.LittleEndian.Uint64(buf[:]), offset: int64(binary.LittleEndian.Uint64(buf[8:]))}, nil
}

func (p place) write(f *os.File) error {
	buf := binary.LittleEndian.AppendUint64(make([]byte, 0, placeSize), p.segment)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(p.offset))
	buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli()))
	if _, err := f.WriteAt(buf, 0); err != nil {
		return fmt.Errorf("write place in journal: %w", err)
	}
	return nil
}

// syncDir puts the entries of a directory on disk.
func syncDir(root *os.Root, dir string) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
