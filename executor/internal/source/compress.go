package source

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// tarBlock is the size of a tar header.
const tarBlock = 512

// maxWindow is the most memory that a decompressor may ask for. xz -9 and
// zstd -19 need much less, zstd --ultra -22 exactly this.
const maxWindow = 128 << 20

// compression is one way to compress an archive.
type compression struct {
	name  string
	match func(head []byte) bool
	open  func(r *bufio.Reader) (io.ReadCloser, error)
}

func prefix(magic string) func([]byte) bool {
	return func(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }
}

// compressions lists what an archive may be, each known by its first bytes.
func compressions() []compression {
	return []compression{
		{"gzip", prefix("\x1f\x8b"), openGzip},
		{"zstd", isZstd, openZstd},
		{"xz", prefix("\xfd7zXZ\x00"), openXZ},
		{"bzip2", isBzip2, func(r *bufio.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
		{"", isTar, func(r *bufio.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil }},
	}
}

// decompress returns the tar archive in r and what it is compressed with, ""
// if it is not.
func decompress(r *bufio.Reader) (io.ReadCloser, string, error) {
	head, err := r.Peek(tarBlock)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	if len(head) == 0 {
		return nil, "", ErrEmpty
	}
	for _, c := range compressions() {
		if c.match(head) {
			rc, err := c.open(r)
			if err != nil {
				return nil, c.name, corrupt(c.name, err)
			}
			return rc, c.name, nil
		}
	}
	return nil, "", fmt.Errorf("%w and not gzip, zstd, xz or bzip2%s", ErrNotArchive, hint(head))
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

func isBzip2(head []byte) bool {
	return len(head) > 3 && string(head[:3]) == "BZh" && head[3] >= '1' && head[3] <= '9'
}

// isZstd knows zstd frames and the skippable frames that may precede them.
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")) ||
		len(head) > 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18"
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

func openGzip(r *bufio.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }

func openZstd(r *bufio.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

func openXZ(r *bufio.Reader) (io.ReadCloser, error) {
	if size := xzDictionary(r); size > maxWindow {
		return nil, fmt.Errorf("its dictionary of %d MiB is larger than %d MiB: compress it with xz -9 or less", size>>20, maxWindow>>20)
	}
	d, err := xz.NewReader(r)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(d), nil
}

// xzDictionary is the size of the dictionary that the first block asks for; 0
// if it cannot be told. See the .xz file format, sections 3.1 and 5.3.1.
func xzDictionary(r *bufio.Reader) int64 {
	const streamHeader = 12
	head, _ := r.Peek(streamHeader + 64)
	if len(head) < streamHeader+2 {
		return 0
	}
	block := head[streamHeader:]
	rest := block[2:]
	for _, optional := range []byte{0x40, 0x80} { // compressed and uncompressed size
		for block[1]&optional != 0 && len(rest) > 0 {
			c := rest[0]
			rest = rest[1:]
			if c < 0x80 {
				break
			}
		}
	}
	const lzma2 = 0x21
	if len(rest) < 3 || rest[0] != lzma2 || rest[1] != 1 {
		return 0
	}
	size, err := lzma.DecodeDictCap(rest[2])
	if err != nil {
		return 0
	}
	return size
}

// corrupt says what is wrong with compressed data. Errors of the reader below
// are left as they are.
func corrupt(name string, err error) error {
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
