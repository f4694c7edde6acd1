package bus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A file of the spool holds records one after the other:
//
//	4 bytes  length of the event, little endian
//	4 bytes  CRC-32C of all that follows
//	8 bytes  place, little endian
//	16 bytes identity
//	…        the event as structured JSON
//
// and is named after the place of its first record.
const (
	headerBytes   = 4 + 4 + 8 + 16
	checkedFrom   = 8 // offset of what the checksum covers
	segmentSuffix = ".spool"
	tornSuffix    = ".torn" // what was cut off the end of a file after a crash
)

// errTorn says that a record was written in part and could not be taken back.
var errTorn = errors.New("spool has a half-written end and must be opened anew")

// errBadRecord says that no whole record begins at an offset.
var errBadRecord = errors.New("no whole record")

// segment is one file of the spool.
type segment struct {
	first   uint64
	file    *os.File
	size    int64      // bytes of whole records; guarded by Bus.mu
	offsets []int64    // of the records; guarded by Bus.mu
	ids     []identity // of the records; guarded by Bus.mu

	reading sync.RWMutex // held for reading while the file is read, so that it is not closed
	gone    bool         // guarded by reading
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// createSegment makes an empty file for records from a place on.
func createSegment(dir string, first uint64) (*segment, error) {
	name := filepath.Join(dir, fmt.Sprintf("%020d%s", first, segmentSuffix))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make file of spool: %w", err)
	}
	if err := syncDir(dir); err != nil {
		f.Close()
		return nil, fmt.Errorf("make file of spool: %w", err)
	}
	return &segment{first: first, file: f}, nil
}

// syncDir puts the entries of a directory on disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// append writes one record at the end. If that fails the file is as before, or
// the error wraps errTorn.
func (s *segment) append(seq uint64, id identity, raw []byte) error {
	record := make([]byte, headerBytes, headerBytes+len(raw))
	binary.LittleEndian.PutUint32(record, uint32(len(raw)))
	binary.LittleEndian.PutUint64(record[8:], seq)
	copy(record[16:], id[:])
	record = append(record, raw...)
	binary.LittleEndian.PutUint32(record[4:], crc32.Checksum(record[checkedFrom:], castagnoli()))
	if _, err := s.file.WriteAt(record, s.size); err != nil {
		if cut := s.file.Truncate(s.size); cut != nil {
			return fmt.Errorf("write spool: %w: %w", errTorn, errors.Join(err, cut))
		}
		return fmt.Errorf("write spool: %w", err)
	}
	s.offsets = append(s.offsets, s.size)
	s.ids = append(s.ids, id)
	s.size += int64(len(record))
	return nil
}

// read returns the event at an offset. The error wraps fs.ErrClosed if the
// file was dropped meanwhile.
func (s *segment) read(offset int64) ([]byte, error) {
	s.reading.RLock()
	defer s.reading.RUnlock()
	if s.gone {
		return nil, fs.ErrClosed
	}
	_, raw, err := readRecord(io.NewSectionReader(s.file, offset, headerBytes+MaxEvent), nil)
	return raw, err
}

// close waits for readers and closes the file.
func (s *segment) close() error {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.gone {
		return nil
	}
	s.gone = true
	return s.file.Close()
}

// recordHeader is what stands before an event.
type recordHeader struct {
	seq uint64
	id  identity
}

// readRecord reads one record; buf is used for the event if it is large
// enough. The error is io.EOF at the end and errBadRecord if what is there is
// not a whole record.
func readRecord(r io.Reader, buf []byte) (recordHeader, []byte, error) {
	var head [headerBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errBadRecord
		}
		return recordHeader{}, nil, err
	}
	length := binary.LittleEndian.Uint32(head[:])
	if length == 0 || length > MaxEvent {
		return recordHeader{}, nil, errBadRecord
	}
	buf = slices.Grow(buf[:0], int(length))[:length]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errBadRecord
		}
		return recordHeader{}, nil, err
	}
	sum := crc32.Update(crc32.Checksum(head[checkedFrom:], castagnoli()), castagnoli(), buf)
	if sum != binary.LittleEndian.Uint32(head[4:]) {
		return recordHeader{}, nil, errBadRecord
	}
	return recordHeader{seq: binary.LittleEndian.Uint64(head[8:]), id: identity(head[16:])}, buf, nil
}

// load opens the files of the spool and learns what is in them. What a crash
// left unfinished at the end of the last file is cut off and kept beside it;
// it was never acknowledged. A fault anywhere else is an error, as what was
// acknowledged would be lost.
func (b *Bus) load() error {
	names, err := filepath.Glob(filepath.Join(b.dir, "*"+segmentSuffix))
	if err != nil {
		return err
	}
	slices.Sort(names)
	b.next = 1
	for i, name := range names {
		s, err := openSegment(name)
		if err != nil {
			return err
		}
		b.segments = append(b.segments, s)
		if i == 0 {
			b.next = s.first
		}
		if s.first != b.next {
			return fmt.Errorf("%s should begin with event %d: a file of the spool is missing", name, b.next)
		}
		err = b.loadRecords(s)
		if errors.Is(err, errBadRecord) && i == len(names)-1 {
			err = b.cut(s)
		}
		if err != nil {
			return fmt.Errorf("read %s at byte %d: %w", name, s.size, err)
		}
	}
	if len(b.segments) == 0 {
		s, err := createSegment(b.dir, b.next)
		if err != nil {
			return err
		}
		b.segments = append(b.segments, s)
	}
	b.durable = b.next - 1
	return b.segments[len(b.segments)-1].file.Sync()
}

// openSegment opens a file of the spool by its name.
func openSegment(name string) (*segment, error) {
	number := strings.TrimSuffix(filepath.Base(name), segmentSuffix)
	first, err := strconv.ParseUint(number, 10, 64)
	if err != nil || first == 0 {
		return nil, fmt.Errorf("%s is not named after an event", name)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &segment{first: first, file: f}, nil
}

// loadRecords reads a file to its end or its first bad record.
func (b *Bus) loadRecords(s *segment) error {
	r := bufio.NewReaderSize(s.file, 256<<10)
	var buf []byte
	for {
		head, raw, err := readRecord(r, buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if head.seq != b.next {
			return errBadRecord
		}
		b.places[head.id] = head.seq
		b.next++
		s.offsets = append(s.offsets, s.size)
		s.ids = append(s.ids, head.id)
		s.size += int64(headerBytes + len(raw))
		buf = raw
	}
}

// cut removes what follows the whole records of a file, and keeps a copy.
func (b *Bus) cut(s *segment) error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	name := s.file.Name() + tornSuffix
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, io.NewSectionReader(s.file, s.size, info.Size()-s.size)); err != nil {
		return err
	}
	if err := s.file.Truncate(s.size); err != nil {
		return err
	}
	b.opts.Log.Warn("cut unfinished end of spool", "file", s.file.Name(), "bytes", info.Size()-s.size, "copy", name)
	return s.file.Sync()
}
