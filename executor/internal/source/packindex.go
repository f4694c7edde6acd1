package source

import (
	"context"
	"fmt"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
)

// indexer finds the objects of a pack and their names.
type indexer struct {
	p        *pack
	limit    int64
	byBase   map[int32][]int32         // deltas of an object of the pack
	byRef    map[plumbing.Hash][]int32 // deltas of an object that is known by its name only
	resolved int
}

// scan reads the pack once. Objects that are no deltas are complete after it.
func (x *indexer) scan(ctx context.Context) error {
	_, count, err := x.p.scanner.Header()
	if err != nil {
		return fmt.Errorf("%w: %w", errPack, err)
	}
	for range count {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := x.p.scanner.NextObjectHeader()
		if err != nil {
			return fmt.Errorf("%w: %w", errPack, err)
		}
		if h.Length < 0 || x.limit > 0 && h.Length > x.limit {
			return &LimitError{What: "bytes in a file of the repository", Limit: x.limit}
		}
		i := int32(len(x.p.objects))
		o := packObject{offset: h.Offset, size: h.Length, base: -1, typ: h.Type}
		var content io.Writer = io.Discard
		hasher := plumbing.NewHasher(h.Type, h.Length)
		switch h.Type {
		case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
			content = hasher
		case plumbing.OFSDeltaObject:
			base, ok := x.p.byOffset[h.OffsetReference]
			if !ok {
				return fmt.Errorf("%w: a delta of something that is no object", errPack)
			}
			x.byBase[base] = append(x.byBase[base], i)
		case plumbing.REFDeltaObject:
			x.byRef[h.Reference] = append(x.byRef[h.Reference], i)
		default:
			return fmt.Errorf("%w: an object of the unknown type %d", errPack, h.Type)
		}
		if n, _, err := x.p.scanner.NextObject(content); err != nil || n != h.Length {
			return fmt.Errorf("%w: object %d of %d: %d of %d bytes, %w", errPack, i+1, count, n, h.Length, orUnexpectedEOF(err))
		}
		x.p.objects = append(x.p.objects, o)
		x.p.byOffset[o.offset] = i
		if !h.Type.IsDelta() {
			x.p.byHash[hasher.Sum()] = i
			x.resolved++
		}
	}
	if _, err := x.p.scanner.Checksum(); err != nil {
		return fmt.Errorf("%w: %w", errPack, err)
	}
	return nil
}

func orUnexpectedEOF(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// resolve applies every delta once, to learn the names of what they make. Of a
// chain of deltas no more is in memory than its small objects.
func (x *indexer) resolve(ctx context.Context) error {
	names := make([]plumbing.Hash, len(x.p.objects))
	for h, i := range x.p.byHash {
		names[i] = h
	}
	for i := range int32(len(x.p.objects)) {
		if x.p.objects[i].typ.IsDelta() || x.p.objects[i].base >= 0 || !x.has(i, names[i]) {
			continue
		}
		c, err := x.p.load(i)
		if err != nil {
			return err
		}
		if err := x.children(ctx, i, names[i], c, 1); err != nil {
			return err
		}
	}
	if x.resolved != len(x.p.objects) {
		return fmt.Errorf("%w: %d objects are deltas of objects that are not in it", errPack, len(x.p.objects)-x.resolved)
	}
	return nil
}

// has says whether there are deltas of an object.
func (x *indexer) has(i int32, name plumbing.Hash) bool {
	return len(x.byBase[i]) > 0 || len(x.byRef[name]) > 0
}

// children applies the deltas of an object and theirs. It closes c, the
// object's content.
func (x *indexer) children(ctx context.Context, i int32, name plumbing.Hash, c *content, depth int) error {
	todo := append(x.byBase[i], x.byRef[name]...)
	delete(x.byBase, i)
	delete(x.byRef, name)
	for n, child := range todo {
		if ctx.Err() != nil || depth > maxChain {
			c.close()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w: more than %d deltas on top of each other", errPack, maxChain)
		}
		out, err := x.p.patch(child, c, x.limit)
		if err != nil || n == len(todo)-1 {
			c.close() // before going deeper: long chains have one child each
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errPack, err)
		}
		if err := x.child(ctx, child, i, out, depth); err != nil {
			return err
		}
	}
	return nil
}

// child takes down what a delta made and goes on to its own deltas. It closes
// out, the delta's result.
func (x *indexer) child(ctx context.Context, child, base int32, out *content, depth int) error {
	o := &x.p.objects[child]
	o.base, o.typ, o.size = base, x.p.objects[base].typ, out.size()
	hasher := plumbing.NewHasher(o.typ, o.size)
	if _, err := io.Copy(hasher, out.reader()); err != nil {
		out.close()
		return err
	}
	name := hasher.Sum()
	x.p.byHash[name] = child
	x.resolved++
	if !x.has(child, name) {
		out.close()
		return nil
	}
	return x.children(ctx, child, name, out, depth+1)
}
