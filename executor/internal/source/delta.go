package source

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// content is the content of an object: in memory if it is small, else in a
// file without a name. It is written once, then read.
type content struct {
	mem    []byte
	file   *os.File // nil if in memory
	length int64    // of file
}

// newContent makes room for size bytes, in a file in dir if they are many.
func newContent(dir string, size int64) (*content, error) {
	if size <= largeObject {
		return &content{mem: make([]byte, 0, size)}, nil
	}
	f, err := os.CreateTemp(dir, "object-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &content{file: f}, nil
}

func (c *content) Write(p []byte) (int, error) {
	if c.file == nil {
		c.mem = append(c.mem, p...)
		return len(p), nil
	}
	n, err := c.file.Write(p)
	c.length += int64(n)
	return n, err
}

func (c *content) ReadAt(p []byte, off int64) (int, error) {
	if c.file == nil {
		return bytes.NewReader(c.mem).ReadAt(p, off)
	}
	return c.file.ReadAt(p, off)
}

func (c *content) size() int64 {
	if c.file == nil {
		return int64(len(c.mem))
	}
	return c.length
}

func (c *content) reader() io.Reader { return io.NewSectionReader(c, 0, c.size()) }

// close gives back the file. What is in memory stays usable.
func (c *content) close() {
	if c.file != nil {
		_ = c.file.Close()
	}
}

type contentReader struct {
	io.Reader
	c *content
}

func (r *contentReader) Close() error {
	r.c.close()
	return nil
}

// delta is a recipe to make an object out of another, as gitformat-pack
// describes it: pieces of the other object and new bytes.
type delta struct {
	r    *bufio.Reader
	base int64 // size of the other object
	size int64 // of the result
}

var errDelta = errors.New("malformed delta")

func newDelta(r *bufio.Reader, base int64) (*delta, error) {
	d := &delta{r: r, base: base}
	have, err := d.number()
	if err == nil && have != base {
		err = fmt.Errorf("%w: it is for an object of %d bytes, not of %d", errDelta, have, base)
	}
	if err == nil {
		d.size, err = d.number()
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// number reads a size: seven bits a byte, the lowest first.
func (d *delta) number() (int64, error) {
	var n int64
	for shift := 0; shift < 63; shift += 7 {
		b, err := d.r.ReadByte()
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errDelta, orUnexpectedEOF(err))
		}
		n |= int64(b&0x7f) << shift
		if b < 0x80 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: a size is too large", errDelta)
}

// apply writes the result to w.
func (d *delta) apply(base io.ReaderAt, w io.Writer) error {
	var done int64
	for {
		op, err := d.r.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var piece io.Reader
		var n int64
		switch {
		case op == 0:
			return fmt.Errorf("%w: an unknown instruction", errDelta)
		case op < 0x80:
			n = int64(op)
			piece = io.LimitReader(d.r, n)
		default:
			var off int64
			if off, n, err = d.copyRange(op); err != nil {
				return err
			}
			piece = io.NewSectionReader(base, off, n)
		}
		if done += n; done > d.size {
			return fmt.Errorf("%w: it makes more than it says", errDelta)
		}
		if _, err := io.CopyN(w, piece, n); err != nil {
			return fmt.Errorf("%w: %w", errDelta, err)
		}
	}
	if done != d.size {
		return fmt.Errorf("%w: it makes %d of %d bytes", errDelta, done, d.size)
	}
	return nil
}

// copyRange reads which piece of the other object to copy.
func (d *delta) copyRange(op byte) (off, n int64, err error) {
	for bit := range 7 {
		if op&(1<<bit) == 0 {
			continue
		}
		b, err := d.r.ReadByte()
		if err != nil {
			return 0, 0, fmt.Errorf("%w: %w", errDelta, orUnexpectedEOF(err))
		}
		if bit < 4 {
			off |= int64(b) << (8 * bit)
		} else {
			n |= int64(b) << (8 * (bit - 4))
		}
	}
	if n == 0 {
		n = 0x10000
	}
	if off+n > d.base {
		return 0, 0, fmt.Errorf("%w: it copies from behind the end", errDelta)
	}
	return off, n, nil
}
