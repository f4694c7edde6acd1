package source

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/kilnhook/kiln/executor/internal/decompress"
)

// tarBlock is the size of a tar header.
const tarBlock = 512

// decompressed returns the tar archive in r and what it is compressed with.
func decompressed(r *bufio.Reader) (io.ReadCloser, decompress.Format, error) {
	head, err := r.Peek(tarBlock)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, decompress.None, err
	}
	if len(head) == 0 {
		return nil, decompress.None, ErrEmpty
	}
	if decompress.Detect(head) == decompress.None && !isTar(head) {
		return nil, decompress.None, fmt.Errorf("%w and not gzip, zstd, xz or bzip2%s", ErrNotArchive, hint(head))
	}
	rc, format, err := decompress.New(r)
	if err != nil {
		return nil, format, corrupt(format, err)
	}
	return rc, format, nil
}

// hint says what the data may be instead.
func hint(head []byte) string {
	text := bytes.ToLower(bytes.TrimSpace(head))
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return ": it is a zip archive, make a tar archive of the files"
	case bytes.HasPrefix(text, []byte("<!doctype")), bytes.HasPrefix(text, []byte("<html")), bytes.HasPrefix(text, []byte("<?xml")):
		return ": it is a web page, perhaps an error or a log-in page"
	case len(head) < tarBlock:
		return fmt.Sprintf(": it is only %d bytes long", len(head))
	}
	return ""
}

// isTar knows a tar header by its checksum, which every dialect has. An
// archive without files is nothing but zeros.
func isTar(head []byte) bool {
	if len(head) < tarBlock {
		return false
	}
	if len(bytes.Trim(head, "\x00")) == 0 {
		return true
	}
	var want, unsigned, signed int64
	field := bytes.Trim(head[148:156], " \x00")
	for _, c := range field {
		if c < '0' || c > '7' {
			return false
		}
		want = want<<3 | int64(c-'0')
	}
	for i, c := range head[:tarBlock] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return len(field) > 0 && (want == unsigned || want == signed)
}

// corrupt says what is wrong with compressed data. Errors of the reader below
// are left as they are.
func corrupt(name decompress.Format, err error) error {
	var limit *LimitError
	var read *readError
	switch {
	case errors.As(err, &read), errors.As(err, &limit):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the %s data ends too early", ErrTruncated, name)
	}
	return fmt.Errorf("corrupt %s data: %w", name, err)
}
