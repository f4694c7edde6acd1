package buildlog

import (
	"bytes"
	"errors"
	"io"
)

// CopyLines emits the whole lines of r from offset on, several at a time, and returns
// where the next begins. What follows the last end of a line is left. It reads into buf,
// which must not be empty and grows to the longest line.
func CopyLines(r io.ReaderAt, offset int64, buf *[]byte, emit func([]byte) error) (int64, error) {
	for {
		n, err := r.ReadAt(*buf, offset)
		if end := bytes.LastIndexByte((*buf)[:n], '\n') + 1; end > 0 {
			if err := emit((*buf)[:end]); err != nil {
				return offset, err
			}
			offset += int64(end)
			continue
		}
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return offset, err
		}
		*buf = make([]byte, 2*len(*buf)) // a line longer than the buffer
	}
}
