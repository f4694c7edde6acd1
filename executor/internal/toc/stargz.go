package toc

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// An eStargz layer is a gzip stream of many members. Its last but one holds a tar of one
// file, the table, as JSON; the last is empty and says in its header where that begins.

const (
	// stargzFooter is the size of the last member.
	stargzFooter = 51
	// stargzTable is the name of the table in its tar.
	stargzTable = "stargz.index.json"
)

// How much of a blob's end is asked for at first: most tables are shorter.
const (
	tailShare = 128
	minTail   = 32 << 10
	maxTail   = 1 << 20
)

func (r *reader) stargz() error {
	if err := r.readTail(); err != nil {
		return err
	}
	end := r.ref.size - stargzFooter
	at, err := footer(r.tail.b[end-r.tail.from:])
	if err != nil {
		return err
	}
	if at >= end || end-at > maxTable {
		return fmt.Errorf("%w: its table of contents would be at %d of %d", errForm, at, r.ref.size)
	}
	r.end = at
	rc, err := r.open(at, end)
	if err != nil {
		return err
	}
	defer rc.Close()
	h, err := r.stargzJSON(&bounded{rc, maxJSON})
	if err != nil {
		return err
	}
	ended, err := r.ended()
	if err != nil || ended {
		return err
	}
	// The tar goes on: who extracts it finds the table as a file.
	return r.each(h, nil)
}

func (r *reader) readTail() error {
	n := min(max(r.ref.size/tailShare, minTail), maxTail, r.ref.size)
	if n < stargzFooter {
		return fmt.Errorf("%w: it is too short", errForm)
	}
	rc, err := r.b.Range(r.ctx, r.ref.size-n, r.ref.size)
	if err != nil {
		return err
	}
	defer rc.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(rc, b); err != nil {
		return fmt.Errorf("read the end of the layer: %w", err)
	}
	r.tail = tail{r.ref.size - n, b}
	return nil
}

// footer returns where the last member says that the table is.
func footer(b []byte) (int64, error) {
	const header, extra, length = 10, 12, 22 // of a gzip member; RFC 1952, 2.3
	ok := len(b) == stargzFooter && b[0] == 0x1f && b[1] == 0x8b && b[2] == 8 && b[3] == 4 &&
		binary.LittleEndian.Uint16(b[header:]) == length+4 && string(b[extra:extra+2]) == "SG" &&
		binary.LittleEndian.Uint16(b[extra+2:]) == length && string(b[extra+20:extra+26]) == "STARGZ"
	if !ok {
		return 0, fmt.Errorf("%w: it has no footer of eStargz", errForm)
	}
	at, err := strconv.ParseUint(string(b[extra+4:extra+20]), 16, 63)
	if err != nil {
		return 0, fmt.Errorf("%w: its footer says no offset", errForm)
	}
	return int64(at), nil //nolint:gosec // of 63 bits
}

// stargzJSON reads the table and returns the header of the file that it is.
func (r *reader) stargzJSON(plain io.Reader) (*tar.Header, error) {
	tr := tar.NewReader(plain)
	h, err := tr.Next()
	if err != nil {
		return nil, fmt.Errorf("%w: its table of contents cannot be read: %w", errForm, err)
	}
	if h.Name != stargzTable || h.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("%w: %q is where its table of contents should be", errForm, h.Name)
	}
	sum := sha256.New()
	tee := io.TeeReader(tr, sum)
	err = parse(tee, r.want, r.entry)
	if err != nil && r.ctx.Err() != nil {
		return nil, err
	}
	if _, rerr := io.Copy(io.Discard, tee); rerr != nil {
		return nil, errors.Join(err, rerr)
	}
	// A table that is not the right one may well not be understood.
	if got := hex.EncodeToString(sum.Sum(nil)); got != r.ref.Digest.Hex {
		return nil, fmt.Errorf("%w: its digest is sha256:%s, want %s", ErrDigest, got, r.ref.Digest)
	}
	return h, err
}

// ended tells whether the tar of the layer has an end before the table, behind which
// nobody looks. Some writers close it, some go on with the table; the table does not say,
// so the layer is read from where its last file begins.
func (r *reader) ended() (bool, error) {
	l := r.last
	if r.end == 0 {
		return false, nil
	}
	if r.end-l.offset > maxRest {
		return false, fmt.Errorf("%w: its last file is too large to see how it ends", errForm)
	}
	rc, err := r.open(l.offset, r.end)
	if err != nil {
		return false, err
	}
	defer rc.Close()
	if l.size == 0 {
		l.size = l.file - l.at
	}
	const block = 512
	err = skipped(rc, l.inner+l.size)
	if err == nil && l.at+l.size < l.file {
		err = errForm // the file goes on, the table does not say where
	}
	if err == nil {
		err = skipped(rc, (block-l.file%block)%block)
	}
	if err != nil {
		return false, fmt.Errorf("read the end of the layer's files: %w", err)
	}
	rest := &tally{r: rc}
	tr := tar.NewReader(rest)
	for n := 0; ; n++ {
		was := rest.n
		_, err := tr.Next()
		if errors.Is(err, io.EOF) && n == l.after {
			return rest.n > was, nil
		}
		if err == nil && n == l.after || errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: it has not the entries that its table of contents has", errForm)
		}
		if err != nil {
			return false, err
		}
	}
}

// tally counts what is read.
type tally struct {
	r io.Reader
	n int64
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.n += int64(n)
	return n, err
}
