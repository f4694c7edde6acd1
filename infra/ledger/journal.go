package ledger

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A file of the journal begins with a header
//
//	8 bytes  "kilnwal1"
//	8 bytes  salt, random
//	8 bytes  up to where the file before it is whole
//	4 bytes  CRC-32C of these 24
//
// and holds records one after the other, integers little endian:
//
//	4 bytes  length of the body
//	4 bytes  CRC-32C of salt, offset of the record (8 bytes), length and body
//	1 byte   1: the key has this value from here on; 2: it has none
//	2 bytes  length of the key
//	…        key, value
//
// After the last record it is zeros up to its end. A record that was written in
// part, or one of an earlier write at the same place, does not have the checksum.
const (
	journalMagic  = "kilnwal1"
	journalHeader = len(journalMagic) + 8 + 8 + 4
	recordHeader  = 4 + 4
	bodyHeader    = 1 + 2

	recordPut    = 1
	recordDelete = 2
)

// errNoRecord says that no whole record stands at an offset.
var errNoRecord = errors.New("no whole record")

// entry is one record of a journal: what becomes of a key.
type entry struct {
	key     string
	data    []byte
	deleted bool
}

// salt makes the checksums of one file different from those of any other, so
// that nobody can store a value that looks like a record.
type salt [8]byte

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// newHeader returns the beginning of a new file. The file before it, if there is
// one, is whole up to an offset.
func newHeader(before int64) []byte {
	head := append(make([]byte, 0, journalHeader), journalMagic...)
	head = append(head, make([]byte, 8)...)
	_, _ = rand.Read(head[len(journalMagic):]) // it never fails
	head = binary.LittleEndian.AppendUint64(head, uint64(before))
	return binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli()))
}

// readHeader reads the beginning of a file.
func readHeader(head []byte) (s salt, before int64, err error) {
	if len(head) < journalHeader || string(head[:len(journalMagic)]) != journalMagic {
		return salt{}, 0, errors.New("it is no journal of this version")
	}
	sum := binary.LittleEndian.Uint32(head[journalHeader-4:])
	if crc32.Checksum(head[:journalHeader-4], castagnoli()) != sum {
		return salt{}, 0, errors.New("its header is damaged")
	}
	head = head[len(journalMagic):]
	return salt(head[:8]), int64(binary.LittleEndian.Uint64(head[8:])), nil
}

// sum is the checksum of a record at an offset.
func (s salt) sum(offset int64, length, body []byte) uint32 {
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], uint64(offset))
	sum := crc32.Checksum(s[:], castagnoli())
	for _, part := range [][]byte{at[:], length, body} {
		sum = crc32.Update(sum, castagnoli(), part)
	}
	return sum
}

// appendRecord appends a record that is to stand at an offset of the file.
func (s salt) appendRecord(buf []byte, offset int64, e entry) []byte {
	start := len(buf)
	kind := byte(recordPut)
	if e.deleted {
		kind = recordDelete
	}
	buf = binary.LittleEndian.AppendUint32(buf, uint32(bodyHeader+len(e.key)+len(e.data)))
	buf = append(buf, 0, 0, 0, 0, kind)
	buf = binary.LittleEndian.AppendUint16(buf, uint16(len(e.key)))
	buf = append(append(buf, e.key...), e.data...)
	record := buf[start:]
	binary.LittleEndian.PutUint32(record[4:], s.sum(offset, record[:4], record[recordHeader:]))
	return buf
}

// readRecord reads the record at the beginning of data, which stands at an offset
// of the file, and returns its size. The entry shares the memory of data. The
// error is errNoRecord if there is none.
func (s salt) readRecord(data []byte, offset int64) (e entry, size int, err error) {
	if len(data) < recordHeader+bodyHeader {
		return entry{}, 0, errNoRecord
	}
	length := binary.LittleEndian.Uint32(data)
	if length < bodyHeader || uint64(length) > uint64(len(data)-recordHeader) {
		return entry{}, 0, errNoRecord
	}
	size = recordHeader + int(length)
	body := data[recordHeader:size]
	if s.sum(offset, data[:4], body) != binary.LittleEndian.Uint32(data[4:]) {
		return entry{}, 0, errNoRecord
	}
	keyLength := int(binary.LittleEndian.Uint16(body[1:]))
	if keyLength > len(body)-bodyHeader || body[0] != recordPut && body[0] != recordDelete {
		return entry{}, 0, errNoRecord
	}
	e = entry{key: string(body[bodyHeader : bodyHeader+keyLength]), data: body[bodyHeader+keyLength:], deleted: body[0] == recordDelete}
	if err := CheckKey(e.key); err != nil {
		return entry{}, 0, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	return e, size, nil
}

// readRecords reads the records at the beginning of data, which stands at an
// offset of the file, and returns where they end and whether only zeros follow.
func (s salt) readRecords(data []byte, offset int64) (entries []entry, end int64, clean bool) {
	for {
		e, size, err := s.readRecord(data, offset)
		if err != nil {
			return entries, offset, len(bytes.Trim(data, "\x00")) == 0
		}
		entries = append(entries, e)
		data, offset = data[size:], offset+int64(size)
	}
}

// last keeps of entries the last of each key, in their order.
func last(entries []entry) []entry {
	at := make(map[string]int, len(entries))
	for i, e := range entries {
		at[e.key] = i
	}
	kept := entries[:0]
	for i, e := range entries {
		if at[e.key] == i {
			kept = append(kept, e)
		}
	}
	return kept
}
