package step

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// maxWindow is how much of its own output a decompressor may look back to, in
// bytes; it holds that much. The strongest settings of xz (-9) and of zstd
// (--ultra -22) stay within it.
const maxWindow = 128 << 20

// decompress returns what r holds once its compression, recognised by its first
// bytes, is taken off: gzip, bzip2, xz, zstd or none. Close releases memory and
// does not close r.
func decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(32)
	if err != nil && err != io.EOF { // Peek returns it bare
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 0x08}):
		return gzip.NewReader(in)
	case bytes.HasPrefix(head, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(in)), nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		if err := checkXZ(head); err != nil {
			return nil, err
		}
		x, err := xz.NewReader(in)
		return io.NopCloser(x), err
	case isZstd(head):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}

// isZstd reports whether a stream begins with a frame of zstd, a skippable one
// included (RFC 8878 section 3.1).
func isZstd(head []byte) bool {
	if len(head) < 4 {
		return false
	}
	magic := binary.LittleEndian.Uint32(head)
	return magic == 0xFD2FB528 || magic&0xFFFFFFF0 == 0x184D2A50 && len(head) >= 8
}

// checkXZ refuses a stream whose first block asks for a larger window than is
// allowed. The block header follows the stream header of 12 bytes: its size,
// flags, perhaps two numbers, and the filters (xz file format, section 3.1).
func checkXZ(head []byte) error {
	const block = 12
	if len(head) <= block+2 || head[block] == 0 {
		return nil // no block, or too short: the reader will say so
	}
	at, flags := block+2, head[block+1]
	for _, present := range []bool{flags&0x40 != 0, flags&0x80 != 0} {
		if !present {
			continue
		}
		_, n := binary.Uvarint(head[at:])
		if n <= 0 {
			return nil
		}
		at += n
	}
	const lzma2 = 0x21
	if len(head) < at+3 || head[at] != lzma2 || head[at+1] != 1 {
		return nil
	}
	size, err := lzma.DecodeDictCap(head[at+2])
	if err == nil && size > maxWindow {
		return fmt.Errorf("the xz stream needs a dictionary of %d MiB, more than the %d MiB allowed", size>>20, maxWindow>>20)
	}
	return nil
}

// IsArchive reports whether ADD unpacks a regular file: whether it is a tar
// archive, compressed or not, going by its content.
func IsArchive(src rootfs.FS, name string) (bool, error) {
	f, err := src.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close() // read only
	return isArchive(f), nil
}

func isArchive(f io.Reader) bool {
	r, err := decompress(f)
	if err != nil {
		return false // damaged or something else: a file like any other
	}
	defer r.Close() // read only
	_, err = tar.NewReader(r).Next()
	return err == nil
}
