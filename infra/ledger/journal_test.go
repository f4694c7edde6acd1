package ledger

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestRecordsReadBack(t *testing.T) {
	s, before, err := readHeader(newHeader(77))
	if err != nil {
		t.Fatal(err)
	}
	if before != 77 {
		t.Errorf("the file before is whole up to %d", before)
	}
	want := []entry{{key: "a", data: []byte("one")}, {key: "a/b", deleted: true, data: []byte{}}, {key: "c", data: []byte{}}, {key: "d", data: bytes.Repeat([]byte{0}, 1000)}}
	var buf []byte
	for _, e := range want {
		buf = s.appendRecord(buf, 20+int64(len(buf)), e)
	}
	same := func(a, b entry) bool {
		return a.key == b.key && a.deleted == b.deleted && bytes.Equal(a.data, b.data)
	}
	got, end, clean := s.readRecords(append(buf, make([]byte, 100)...), 20)
	if !slices.EqualFunc(got, want, same) || end != 20+int64(len(buf)) || !clean {
		t.Errorf("%+v up to %d, clean %v", got, end, clean)
	}
	// Elsewhere, in another file, or damaged, they are none.
	if got, _, _ := s.readRecords(buf, 21); len(got) != 0 {
		t.Errorf("records at another place: %+v", got)
	}
	other, _, err := readHeader(newHeader(0))
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := other.readRecords(buf, 20); len(got) != 0 {
		t.Errorf("records in another file: %+v", got)
	}
	for i := range buf {
		damaged := bytes.Clone(buf)
		damaged[i] ^= 1
		if got, _, clean := s.readRecords(damaged, 20); len(got) >= len(want) || clean {
			t.Fatalf("byte %d is damaged, and %d records are read, clean %v", i, len(got), clean)
		}
	}
}

func TestLastOfEachKey(t *testing.T) {
	var got []string
	for _, e := range last([]entry{{key: "a", data: []byte("1")}, {key: "b"}, {key: "a", data: []byte("2")}, {key: "c"}, {key: "b", deleted: true}}) {
		got = append(got, e.key+string(e.data))
	}
	if strings.Join(got, " ") != "a2 c b" {
		t.Errorf("%q", got)
	}
}

func FuzzReadRecords(f *testing.F) {
	s := salt{1}
	f.Add(s.appendRecord(s.appendRecord(nil, 20, entry{key: "a", data: []byte("x")}), 35, entry{key: "b", deleted: true}))
	f.Add([]byte("\x03\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, end, _ := s.readRecords(data, 20)
		if end < 20 || end > 20+int64(len(data)) {
			t.Fatalf("the end is at %d of %d bytes", end, len(data))
		}
		var again []byte
		for _, e := range entries {
			if CheckKey(e.key) != nil {
				t.Fatalf("key %q", e.key)
			}
			again = s.appendRecord(again, 20+int64(len(again)), e)
		}
		if back, _, _ := s.readRecords(again, 20); len(back) != len(entries) {
			t.Fatalf("%d records of %d come back", len(back), len(entries))
		}
	})
}

// A disk that cannot be written is an error for whoever writes, and the store
// goes on once it can.
func TestJournalCannotBeWritten(t *testing.T) {
	d, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Create(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	whole := d.current.file
	readOnly, err := d.root.Open(segmentName(d.current.number))
	if err != nil {
		t.Fatal(err)
	}
	d.current.file = readOnly
	if _, err := d.Create(t.Context(), "b", []byte("1")); err == nil || !strings.Contains(err.Error(), "write journal") {
		t.Errorf("create: %v", err)
	}
	if _, _, err := d.Get(t.Context(), "b"); err == nil {
		t.Error("what was not written is there")
	}
	readOnly.Close()
	d.current.file = whole
	if _, err := d.Create(t.Context(), "b", []byte("2")); err != nil {
		t.Errorf("create after that: %v", err)
	}
	if err := errors.Join(d.sync(0), d.broken); err != nil {
		t.Fatal(err)
	}
}

// Once a sync has failed nothing is written any more, and what was being written
// is not there when the directory is opened again.
func TestJournalCannotBeSynced(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	version, err := d.Create(t.Context(), "a", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	// Written, and the disk fails before it is synchronised.
	d.opts.Step = func(s Step) {
		if s == StepWritten {
			d.current.failing = errors.New("input/output error")
		}
	}
	for range 2 {
		if _, err := d.Swap(t.Context(), "a", version, []byte("2")); err == nil || !strings.Contains(err.Error(), "opened anew") {
			t.Errorf("swap: %v", err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = OpenDir(dir); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if data, _, err := d.Get(t.Context(), "a"); err != nil || string(data) != "1" {
		t.Errorf("after opening it again: %q, %v", data, err)
	}
	if _, err := d.Swap(t.Context(), "a", version, []byte("3")); err != nil {
		t.Error(err)
	}
}
