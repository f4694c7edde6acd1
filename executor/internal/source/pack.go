package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

const (
	// largeObject is the size from which on an object is kept in a file or
	// streamed, never in memory.
	largeObject = 1 << 20
	// packCache is how many bytes of smaller objects are kept in memory.
	packCache = 8 << 20
	// maxChain is how many deltas may stand on top of each other; Git makes no
	// longer chains.
	maxChain = 4095
)

// errPack is the error of a pack that is not what Git makes.
var errPack = errors.New("the server sent a broken pack")

// pack is a pack on disk. Its index is in memory, a hundred bytes an object;
// of the objects themselves only small ones ever are.
type pack struct {
	file     *os.File
	scanner  *packfile.Scanner
	temp     string // directory for large objects
	objects  []packObject
	byHash   map[plumbing.Hash]int32
	byOffset map[int64]int32

	cached map[int32]*content // small objects, by index
	order  []int32            // of cached, oldest first
	bytes  int64              // in cached
}

// packObject is an object of a pack.
type packObject struct {
	offset int64
	size   int64 // once deltas are applied
	base   int32 // index of the object that this is a delta of; -1: none
	typ    plumbing.ObjectType
}

// openPack indexes the pack in f, which it takes over. No object may be larger
// than limit bytes; 0 or less: no limit.
func openPack(ctx context.Context, f *os.File, temp string, limit int64) (*pack, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, err
	}
	p := &pack{
		file: f, scanner: packfile.NewScanner(f), temp: temp,
		byHash: map[plumbing.Hash]int32{}, byOffset: map[int64]int32{}, cached: map[int32]*content{},
	}
	x := &indexer{p: p, limit: limit, byBase: map[int32][]int32{}, byRef: map[plumbing.Hash][]int32{}}
	err := x.scan(ctx)
	if err == nil {
		err = x.resolve(ctx)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *pack) close() {
	if p != nil {
		_ = p.file.Close()
	}
}

// find returns the index of an object.
func (p *pack) find(h plumbing.Hash) (int32, error) {
	if i, ok := p.byHash[h]; ok {
		return i, nil
	}
	return 0, fmt.Errorf("object %s: %w", h, plumbing.ErrObjectNotFound)
}

// maxMemoryObject is the size of the largest commit, tag or directory that is
// read.
const maxMemoryObject = 64 << 20

// decode reads a commit, a tag or a tree.
func (p *pack) decode(h plumbing.Hash, into interface {
	Decode(plumbing.EncodedObject) error
}) error {
	i, err := p.find(h)
	if err != nil {
		return err
	}
	o := p.objects[i]
	if o.size > maxMemoryObject {
		return fmt.Errorf("object %s of %d bytes is too large", h, o.size)
	}
	c, err := p.load(i)
	if err != nil {
		return err
	}
	defer c.close()
	obj := &plumbing.MemoryObject{}
	obj.SetType(o.typ)
	if _, err := io.Copy(obj, c.reader()); err != nil {
		return err
	}
	return into.Decode(obj)
}

// open returns the content of a blob. It is to be read before anything else
// of the pack is.
func (p *pack) open(h plumbing.Hash) (io.ReadCloser, error) {
	i, err := p.find(h)
	if err != nil {
		return nil, err
	}
	o := p.objects[i]
	if o.typ != plumbing.BlobObject {
		return nil, fmt.Errorf("object %s is a %s and not a file", h, o.typ)
	}
	if o.base < 0 && o.size > largeObject {
		if _, err := p.scanner.SeekObjectHeader(o.offset); err != nil {
			return nil, fmt.Errorf("%w: %w", errPack, err)
		}
		return p.scanner.ReadObject()
	}
	c, err := p.load(i)
	if err != nil {
		return nil, err
	}
	return &contentReader{Reader: c.reader(), c: c}, nil
}

// inflate writes what the pack holds of an object, which may be a delta, to w.
func (p *pack) inflate(i int32, w io.Writer) error {
	h, err := p.scanner.SeekObjectHeader(p.objects[i].offset)
	if err != nil {
		return fmt.Errorf("%w: %w", errPack, err)
	}
	n, _, err := p.scanner.NextObject(w)
	if err == nil && n != h.Length {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read object at %d: %w", p.objects[i].offset, err)
	}
	return nil
}

// load returns the content of an object with its deltas applied. The caller
// closes it.
func (p *pack) load(i int32) (*content, error) {
	if c, ok := p.cached[i]; ok {
		return c, nil
	}
	o := p.objects[i]
	var c *content
	var err error
	if o.base < 0 {
		if c, err = newContent(p.temp, o.size); err == nil {
			if err = p.inflate(i, c); err != nil {
				c.close()
			}
		}
	} else {
		var base *content
		if base, err = p.load(o.base); err != nil {
			return nil, err
		}
		c, err = p.patch(i, base, 0)
		base.close()
	}
	if err != nil {
		return nil, err
	}
	p.keep(i, c)
	return c, nil
}

// keep caches a small content.
func (p *pack) keep(i int32, c *content) {
	if c.file != nil {
		return
	}
	p.cached[i] = c
	p.order = append(p.order, i)
	for p.bytes += c.size(); p.bytes > packCache && len(p.order) > 1; p.order = p.order[1:] {
		p.bytes -= p.cached[p.order[0]].size()
		delete(p.cached, p.order[0])
	}
}

// patch applies the delta i to base. limit is that of the result's size; 0 or
// less: none.
func (p *pack) patch(i int32, base *content, limit int64) (*content, error) {
	h, err := p.scanner.SeekObjectHeader(p.objects[i].offset)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPack, err)
	}
	delta, err := newContent(p.temp, h.Length)
	if err != nil {
		return nil, err
	}
	defer delta.close()
	if err := p.inflate(i, delta); err != nil {
		return nil, err
	}
	d, err := newDelta(bufio.NewReader(delta.reader()), base.size())
	if err != nil {
		return nil, err
	}
	if limit > 0 && d.size > limit {
		return nil, &LimitError{What: "bytes in a file of the repository", Limit: limit}
	}
	out, err := newContent(p.temp, d.size)
	if err != nil {
		return nil, err
	}
	if err := d.apply(base, out); err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}
