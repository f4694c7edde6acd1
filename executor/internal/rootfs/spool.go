package rootfs

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// Spool keeps the content of any number of files in one, which has no name: it
// is gone with the process, however that ends.
type Spool struct {
	mu   sync.Mutex
	file *os.File
	size int64
	buf  []byte
}

// NewSpool returns an empty Spool on the filesystem of dir.
func NewSpool(dir string) (*Spool, error) {
	f, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, fmt.Errorf("make spool file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, fmt.Errorf("make spool file: %w", err)
	}
	return &Spool{file: f, buf: make([]byte, 128<<10)}, nil
}

// Close releases the disk space. What was kept cannot be read any more.
func (s *Spool) Close() error { return s.file.Close() }

// Keep stores what r has, and returns how much it was; nil for nothing.
func (s *Spool) Keep(r io.Reader) (Content, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := io.CopyBuffer(&spoolWriter{s.file, s.size}, struct{ io.Reader }{r}, s.buf)
	if err != nil {
		return nil, 0, err
	}
	if n == 0 {
		return nil, 0, nil
	}
	c := spooled{file: s.file, off: s.size, size: n}
	s.size += n
	return c, n, nil
}

// spoolWriter writes to a file from an offset on.
type spoolWriter struct {
	file *os.File
	off  int64
}

func (w *spoolWriter) Write(p []byte) (int, error) {
	n, err := w.file.WriteAt(p, w.off)
	w.off += int64(n)
	return n, err
}

// spooled is a part of a spool.
type spooled struct {
	file      *os.File
	off, size int64
}

// Open implements Content.
func (s spooled) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(s.file, s.off, s.size)), nil
}

// Print implements Content: it is not known.
func (s spooled) Print() [2]uint64 { return [2]uint64{} }
