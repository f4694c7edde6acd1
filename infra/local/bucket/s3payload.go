package bucket

import (
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // one of the checksums S3 clients may choose
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// decodePayload replaces the request's body by the object's bytes: it removes
// the aws-chunked framing, checks the announced length and verifies the
// checksums that stand in headers or in the trailer. A body that fails a check
// ends in an error instead of io.EOF. Chunk signatures are not looked at: this
// door believes any credentials.
func decodePayload(r *http.Request) error {
	if r.Body == nil || (r.Method != http.MethodPut && r.Method != http.MethodPost) {
		return nil
	}
	sums, err := announcedSums(r.Header)
	if err != nil {
		return err
	}
	body := r.Body
	var in io.Reader = body
	want := r.Header.Get("X-Amz-Content-Sha256")
	if strings.HasPrefix(want, "STREAMING-") {
		length := r.Header.Get("X-Amz-Decoded-Content-Length")
		n, err := strconv.ParseInt(length, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("x-amz-decoded-content-length is not a number of bytes: %q", length)
		}
		r.Header.Set("Content-Length", length)
		r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		dropEncoding(r.Header)
		r.ContentLength = n
		in = &chunkReader{in: bufio.NewReaderSize(body, 64<<10), trailer: func(name, value string) error {
			return sums.expect(name, value)
		}}
	} else if len(want) == 2*sha256.Size {
		if sum, err := hex.DecodeString(want); err == nil {
			sums = append(sums, &checksum{name: "x-amz-content-sha256", hash: sha256.New(), want: sum})
		}
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{sums.verify(in), body}
	return nil
}

// dropEncoding removes aws-chunked from Content-Encoding: it is the encoding
// of the transfer, not of the object.
func dropEncoding(h http.Header) {
	var rest []string
	for enc := range strings.SplitSeq(h.Get("Content-Encoding"), ",") {
		if enc = strings.TrimSpace(enc); enc != "" && enc != "aws-chunked" {
			rest = append(rest, enc)
		}
	}
	h.Del("Content-Encoding")
	if len(rest) > 0 {
		h.Set("Content-Encoding", strings.Join(rest, ","))
	}
}

// checksum is a running checksum and what it should be; nil want means that
// the trailer will say.
type checksum struct {
	name string // lower case, as the header or trailer field is called
	hash hash.Hash
	want []byte
}

type checksums []*checksum

// newSum makes the hash for a checksum header; nil if S3 knows none by that name.
func newSum(name string) hash.Hash {
	switch name {
	case "x-amz-checksum-crc32":
		return crc32.NewIEEE()
	case "x-amz-checksum-crc32c":
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case "x-amz-checksum-crc64nvme":
		return crc64.New(crc64.MakeTable(0x9a6c9329ac4bc9b5))
	case "x-amz-checksum-sha1":
		return sha1.New() //nolint:gosec // see the import
	case "x-amz-checksum-sha256":
		return sha256.New()
	}
	return nil
}

// announcedSums are the checksums that the headers carry or that x-amz-trailer
// promises.
func announcedSums(h http.Header) (checksums, error) {
	var sums checksums
	for k := range h {
		name := strings.ToLower(k)
		if sum := newSum(name); sum != nil {
			sums = append(sums, &checksum{name: name, hash: sum})
			if err := sums.expect(name, h.Get(k)); err != nil {
				return nil, err
			}
		}
	}
	for name := range strings.SplitSeq(strings.ToLower(h.Get("X-Amz-Trailer")), ",") {
		name = strings.TrimSpace(name)
		if sum := newSum(name); sum != nil {
			sums = append(sums, &checksum{name: name, hash: sum})
		}
	}
	return sums, nil
}

// expect notes what the checksum of that name should be. Names of other
// trailer fields are ignored.
func (s checksums) expect(name, value string) error {
	for _, c := range s {
		if c.name != name {
			continue
		}
		sum, err := base64.StdEncoding.DecodeString(value)
		if err != nil || len(sum) != c.hash.Size() {
			return fmt.Errorf("%w: %s is not base64 of %d bytes: %q", ErrCorrupt, name, c.hash.Size(), value)
		}
		c.want = sum
	}
	return nil
}

// verify reads in and turns its end into an error if a checksum differs.
func (s checksums) verify(in io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := in.Read(p)
		for _, c := range s {
			c.hash.Write(p[:n])
		}
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		for _, c := range s {
			if got := c.hash.Sum(nil); !bytes.Equal(got, c.want) {
				return n, fmt.Errorf("%w: %s is %x, announced was %x", ErrCorrupt, c.name, got, c.want)
			}
		}
		return n, err
	})
}

// chunkReader removes the aws-chunked framing: chunks of "<hex size>[;…]\r\n
// <bytes>\r\n", a last one of size 0, and trailer fields up to an empty line.
type chunkReader struct {
	in      *bufio.Reader
	trailer func(name, value string) error
	left    int64 // bytes of the present chunk
	started bool
	err     error
}

// Read implements io.Reader.
func (c *chunkReader) Read(p []byte) (int, error) {
	if c.err == nil && c.left == 0 {
		c.err = c.next()
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	c.err = err
	return n, err
}

// next reads the frame before the next chunk, or the trailer; io.EOF after it.
func (c *chunkReader) next() error {
	if c.started {
		if line, err := c.line(); err != nil || line != "" {
			return errors.Join(fmt.Errorf("%w: a chunk does not end where it said", ErrShort), err)
		}
	}
	c.started = true
	line, err := c.line()
	if err != nil {
		return err
	}
	size, _, _ := strings.Cut(line, ";")
	c.left, err = strconv.ParseInt(strings.TrimSpace(size), 16, 64)
	if err != nil || c.left < 0 {
		return fmt.Errorf("%w: not a chunk size: %q", ErrShort, size)
	}
	if c.left > 0 {
		return nil
	}
	return c.readTrailer()
}

func (c *chunkReader) readTrailer() error {
	for range 100 {
		line, err := c.line()
		if errors.Is(err, io.ErrUnexpectedEOF) || (err == nil && line == "") {
			return io.EOF // the empty line at the end is often left out
		}
		if err != nil {
			return err
		}
		name, value, _ := strings.Cut(line, ":")
		if err := c.trailer(strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: the trailer has too many fields", ErrShort)
}

// line reads one line of the framing without its end.
func (c *chunkReader) line() (string, error) {
	line, err := c.in.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF):
		return "", io.ErrUnexpectedEOF
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("%w: a line of the chunk framing is too long", ErrShort)
	case err != nil:
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}
