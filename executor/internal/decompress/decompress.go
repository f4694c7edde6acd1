// Package decompress takes compression off a stream. It goes by the stream's first
// bytes, never by a name, and bounds the memory that a stream may ask for.
package decompress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/kilnhook/kiln/executor/internal/inflate"
)

// Format is a way to compress.
type Format string

// The formats that are known.
const (
	None  Format = ""
	Gzip  Format = "gzip"
	Zstd  Format = "zstd"
	XZ    Format = "xz"
	Bzip2 Format = "bzip2"
)

// maxWindow is how much of its own output a decompressor may look back to, in
// bytes; it holds that much. The strongest settings of xz (-9) and of zstd
// (--ultra -22) stay within it.
const maxWindow = 128 << 20

// maxHead is how much of a stream is looked at, in bytes: an xz stream's header and
// the start of its first block's.
const maxHead = 12 + 64

// New returns what r holds once its compression is taken off, and which that is;
// None and r itself if there is none. Only the formats that are given are taken
// off, all of them if none are. Close releases memory and does not close r. A
// stream that needs more than 128 MiB of its own output at hand is an error.
func New(r io.Reader, only ...Format) (io.ReadCloser, Format, error) {
	// Less than what decompressors ask for: it is passed by.
	in := bufio.NewReaderSize(r, 32<<10)
	head, err := in.Peek(maxHead)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, None, err
	}
	format := Detect(head)
	if len(only) > 0 && !slices.Contains(only, format) {
		format = None
	}
	out, err := open(format, in, head)
	return out, format, err
}

func open(format Format, in *bufio.Reader, head []byte) (io.ReadCloser, error) {
	switch format {
	case Gzip:
		return inflate.NewReader(in)
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(in)), nil
	case XZ:
		if size := xzDictionary(head); size > maxWindow {
			return nil, fmt.Errorf("it needs a dictionary of %d MiB, more than the %d MiB allowed: compress it with xz -9 or less", size>>20, maxWindow>>20)
		}
		x, err := xz.NewReader(in)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case Zstd:
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case None:
	}
	return io.NopCloser(in), nil
}

// Detect tells from the first bytes of a stream, 16 at least unless it is shorter,
// how it is compressed.
func Detect(head []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Gzip
	case isZstd(head):
		return Zstd
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return XZ
	case isBzip2(head):
		return Bzip2
	}
	return None
}

// isZstd knows a frame of zstd, a skippable one included (RFC 8878, section 3.1).
func isZstd(head []byte) bool {
	if len(head) < 4 {
		return false
	}
	magic := binary.LittleEndian.Uint32(head)
	return magic == 0xFD2FB528 || magic&0xFFFFFFF0 == 0x184D2A50 && len(head) >= 8
}

// isBzip2 knows a stream's header with that of its first block, or of its end: the
// first letters alone could be the name of a file in an archive.
func isBzip2(head []byte) bool {
	if len(head) < 10 || string(head[:3]) != "BZh" || head[3] < '1' || head[3] > '9' {
		return false
	}
	return string(head[4:10]) == "\x31\x41\x59\x26\x53\x59" || string(head[4:10]) == "\x17\x72\x45\x38\x50\x90"
}

// xzDictionary is the size of the dictionary that the first block asks for; 0 if it
// cannot be told, which the reader will complain of. The block's header follows the
// stream's: its size, flags, perhaps two numbers, and the filters (.xz file format,
// sections 3.1 and 5.3.1).
func xzDictionary(head []byte) int64 {
	const block = 12
	if len(head) <= block+2 || head[block] == 0 {
		return 0
	}
	at, flags := block+2, head[block+1]
	for _, present := range []bool{flags&0x40 != 0, flags&0x80 != 0} { // compressed and uncompressed size
		if !present {
			continue
		}
		_, n := binary.Uvarint(head[at:])
		if n <= 0 {
			return 0
		}
		at += n
	}
	const lzma2 = 0x21
	if len(head) < at+3 || head[at] != lzma2 || head[at+1] != 1 {
		return 0
	}
	size, err := lzma.DecodeDictCap(head[at+2])
	if err != nil {
		return 0
	}
	return size
}
