// Package inflate decompresses gzip (RFC 1952) faster than compress/gzip does:
// most of the time that it takes to extract an image goes there. It takes and
// refuses the same streams; a fuzz target holds it to that.
//
// What it decodes is written to one linear buffer that holds the window too, and
// bits are taken from 64-bit words. It uses no unsafe code.
package inflate

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// Errors of a Reader. A stream that ends too early is an io.ErrUnexpectedEOF.
var (
	ErrHeader   = errors.New("invalid gzip header")
	ErrChecksum = errors.New("invalid gzip checksum")
	ErrCorrupt  = errors.New("corrupt gzip data")
)

const (
	window   = 32 << 10
	inSize   = 64 << 10
	outSize  = window + 128<<10
	outSlack = maxMatch + 3 + 8 // what one turn of the fast loop may write
	maxMatch = 258
)

// Reader is the uncompressed content of all members of a gzip stream. After an
// error it is of no use but for its error.
type Reader struct {
	src  io.Reader
	in   [inSize]byte
	pos  int // in: next byte
	end  int // in: end of what was read
	bits uint64
	n    uint // how many bits of bits are valid; above them there are zeros

	out  [outSize]byte
	low  int // out: first byte of the member, as far as it is still there
	r, w int // out: what is decoded and not yet read

	lit  litTable
	dist distTable
	lens [maxLit + maxDist]uint8

	state  state
	last   bool // the block is the member's last
	stored int  // bytes that are left of a stored block
	err    error

	crc  uint32
	size uint32
}

// state is what comes next in the stream.
type state int

const (
	inMember state = iota // a block
	inStored
	inHuffman
)

var _ io.Reader = (*Reader)(nil)

// NewReader reads the header of the first member of r.
func NewReader(r io.Reader) (*Reader, error) {
	z := &Reader{src: r}
	if err := z.header(); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, err
	}
	return z, nil
}

// Close implements io.Closer and does nothing.
func (z *Reader) Close() error { return nil }

// Read implements io.Reader.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for z.r == z.w {
		if z.err != nil {
			return 0, z.err
		}
		z.slide()
		from := z.w
		z.err = z.decode()
		fresh := z.out[from:z.w]
		z.crc = crc32.Update(z.crc, crc32.IEEETable, fresh)
		z.size += uint32(len(fresh)) //nolint:gosec // it counts modulo 2^32
		if z.err == nil || !errors.Is(z.err, errMemberEnd) {
			continue
		}
		z.err = z.trailer()
	}
	n := copy(p, z.out[z.r:z.w])
	z.r += n
	return n, nil
}

// slide makes room behind what was decoded, all of which has been read.
func (z *Reader) slide() {
	if z.w <= outSize-outSlack-window {
		return
	}
	shift := z.w - window
	copy(z.out[:window], z.out[shift:z.w])
	z.r, z.w, z.low = window, window, max(z.low-shift, 0)
}

// errMemberEnd says that a member's last block has ended.
var errMemberEnd = errors.New("end of member")

// decode decodes until there is no room or the member ends.
func (z *Reader) decode() error {
	for z.w <= outSize-outSlack {
		var err error
		switch z.state {
		case inMember:
			if z.last {
				return errMemberEnd
			}
			err = z.block()
		case inStored:
			err = z.copyStored()
		case inHuffman:
			err = z.symbols()
		}
		if err != nil {
			return noEOF(err)
		}
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fill reads more input, once all of it was used. io.EOF is its end.
func (z *Reader) fill() error {
	for range 100 {
		n, err := z.src.Read(z.in[:])
		z.pos, z.end = 0, n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// more takes one more byte into bits, of which there are at most 56.
func (z *Reader) more() error {
	if z.pos == z.end {
		if err := z.fill(); err != nil {
			return err
		}
	}
	z.bits |= uint64(z.in[z.pos]) << z.n
	z.pos++
	z.n += 8
	return nil
}

// take takes up to 16 bits from the stream.
func (z *Reader) take(n uint) (int, error) {
	for z.n < n {
		if err := z.more(); err != nil {
			return 0, err
		}
	}
	v := int(z.bits & (1<<n - 1)) //nolint:gosec // 16 bits
	z.bits >>= n
	z.n -= n
	return v, nil
}

// align drops the bits up to the next byte.
func (z *Reader) align() {
	z.bits >>= z.n & 7
	z.n &^= 7
}

// block reads the header of a block (RFC 1951, 3.2.3).
func (z *Reader) block() error {
	head, err := z.take(3)
	if err != nil {
		return err
	}
	z.last = head&1 == 1
	switch head >> 1 {
	case 0:
		z.align()
		size, err := z.take(16)
		if err != nil {
			return err
		}
		inverse, err := z.take(16)
		if err != nil {
			return err
		}
		if size != ^inverse&0xffff {
			return ErrCorrupt
		}
		z.state, z.stored = inStored, size
	case 1:
		z.fixed()
		z.state = inHuffman
	case 2:
		if err := z.dynamic(); err != nil {
			return err
		}
		z.state = inHuffman
	default:
		return ErrCorrupt
	}
	return nil
}

// copyStored copies from a stored block what there is room for.
func (z *Reader) copyStored() error {
	for z.stored > 0 && z.n > 0 && z.w < outSize {
		z.out[z.w] = byte(z.bits)
		z.bits >>= 8
		z.n -= 8
		z.w++
		z.stored--
	}
	for z.stored > 0 && z.w < outSize {
		if z.pos == z.end {
			if err := z.fill(); err != nil {
				return err
			}
		}
		n := copy(z.out[z.w:min(outSize, z.w+z.stored)], z.in[z.pos:z.end])
		z.pos += n
		z.w += n
		z.stored -= n
	}
	if z.stored == 0 {
		z.state = inMember
	}
	return nil
}

// header reads the header of a member; io.EOF if there is none.
func (z *Reader) header() error {
	head := [10]byte{}
	for i := range head {
		b, err := z.take(8)
		if err != nil && (i > 0 || !errors.Is(err, io.EOF)) {
			return noEOF(err)
		}
		if err != nil {
			return err
		}
		head[i] = byte(b) //nolint:gosec // 8 bits
	}
	if head[0] != 0x1f || head[1] != 0x8b || head[2] != 8 {
		return ErrHeader
	}
	z.state, z.last, z.crc, z.size, z.low = inMember, false, 0, 0, z.w
	return z.fields(head)
}

// The flags of a header.
const (
	flagCRC     = 1 << 1
	flagExtra   = 1 << 2
	flagName    = 1 << 3
	flagComment = 1 << 4
)

// fields skips what a header has besides its first bytes.
func (z *Reader) fields(head [10]byte) error {
	sum := crc32.ChecksumIEEE(head[:])
	next := func() (byte, error) {
		v, err := z.take(8)
		b := byte(v) //nolint:gosec // 8 bits
		sum = crc32.Update(sum, crc32.IEEETable, []byte{b})
		return b, noEOF(err)
	}
	flags := head[3]
	if flags&flagExtra != 0 {
		low, err := next()
		if err != nil {
			return err
		}
		high, err := next()
		if err != nil {
			return err
		}
		for range int(low) | int(high)<<8 {
			if _, err := next(); err != nil {
				return err
			}
		}
	}
	for _, flag := range []byte{flagName, flagComment} {
		if flags&flag == 0 {
			continue
		}
		for n := 0; ; n++ {
			b, err := next()
			if err != nil {
				return err
			}
			if b == 0 {
				break
			}
			if n >= 511 { // as compress/gzip
				return ErrHeader
			}
		}
	}
	if flags&flagCRC == 0 {
		return nil
	}
	want := sum & 0xffff
	got, err := z.take(16)
	if err != nil {
		return noEOF(err)
	}
	if uint32(got) != want { //nolint:gosec // 16 bits
		return ErrHeader
	}
	return nil
}

// trailer verifies the member that ended and goes on to the next; io.EOF after
// the last.
func (z *Reader) trailer() error {
	z.align()
	var b [8]byte
	for i := range b {
		v, err := z.take(8)
		if err != nil {
			return noEOF(err)
		}
		b[i] = byte(v) //nolint:gosec // 8 bits
	}
	if binary.LittleEndian.Uint32(b[:]) != z.crc || binary.LittleEndian.Uint32(b[4:]) != z.size {
		return ErrChecksum
	}
	return z.header()
}
