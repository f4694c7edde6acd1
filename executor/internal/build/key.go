package build

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/cache"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/step"
)

// keyVersion is part of every key: a change of what a step means must not find
// what the old meaning made.
const keyVersion = "kiln/1"

// caches tells whether steps of this kind are looked up and stored.
func (s *stage) caches(op plan.Op) bool {
	if s.Cache == nil || s.SingleLayer && s.isTarget() {
		return false
	}
	switch op := op.(type) {
	case plan.Run:
		return !s.NoCacheRuns
	case plan.Copy:
		return s.CacheCopies
	case plan.Add:
		return s.CacheCopies && len(op.URLs) == 0
	}
	return false
}

// layerForm is what the bytes of every layer depend on besides what is in it.
func (s *stage) layerForm() []byte {
	form := fmt.Sprintf("zstd=%t level=%d", s.Compression.Zstd, s.Compression.Level)
	if !s.Epoch.IsZero() {
		form += fmt.Sprintf(" epoch=%d", s.Epoch.Unix())
	}
	if s.Exclude != nil {
		form += " " + s.ExcludeName
	}
	return []byte(form)
}

// unforeseen tells whether only the result of an operation says what it did: a
// URL may have something else every time.
func unforeseen(op plan.Op) bool {
	a, ok := op.(plan.Add)
	return ok && len(a.URLs) > 0
}

// lookUp moves the stage's key on and asks the cache for the step's layer.
func (s *stage) lookUp(ctx context.Context, tell *teller, t plan.Step, d *done) (hit bool, err error) {
	if s.Cache == nil {
		return false, nil
	}
	if s.key, err = s.keyAfter(t.Op); err != nil {
		return false, err
	}
	if !s.caches(t.Op) {
		return false, nil
	}
	e, reason, err := s.Cache.Get(ctx, s.key)
	if err != nil {
		return false, err
	}
	if !e.Hit() {
		s.misses++
		tell.note("not in the cache: " + reason)
		return false, nil
	}
	s.hits++
	if e.Empty {
		return true, nil
	}
	d.layer = e.Layer
	s.pending = append(s.pending, e.Layer)
	s.upload(ctx, e.Layer)
	return true, nil
}

// keyAfter derives the key of the stage's state after op: from the key before,
// what op says, and what it reads. Proxies and metadata are not part of it.
func (s *stage) keyAfter(op plan.Op) (cache.Key, error) {
	parts := [][]byte{[]byte(keyVersion)}
	add := func(v any) error {
		raw, err := json.Marshal(v)
		parts = append(parts, raw)
		return err
	}
	var err error
	switch op := op.(type) {
	case plan.Run:
		op.Proxy = nil
		op.Env = slices.Sorted(slices.Values(op.Env))
		err = errors.Join(add("run"), add(op))
	case plan.Workdir:
		err = errors.Join(add("workdir"), add(op))
	case plan.Add:
		err = errors.Join(add("add"), add([]string{op.Dest, op.Chown, op.Chmod}), add(op.URLs))
		if err == nil && len(op.Paths) > 0 {
			err = s.addContent(&parts, op)
		}
	case plan.Copy:
		err = errors.Join(add("copy"), add([]string{op.Dest, op.Chown, op.Chmod}))
		switch {
		case err != nil:
		case op.From.IsContext():
			err = s.addContent(&parts, op)
		case op.From.Stage != nil:
			k := s.stages[*op.From.Stage].key
			parts = append(parts, k[:])
			err = add(op.Paths)
		default:
			err = errors.Join(add(op.From.Digest.String()), add(op.Paths))
		}
	default:
		err = fmt.Errorf("operation %T has no key", op)
	}
	if err != nil {
		return s.key, err
	}
	return s.key.Derive(parts...), nil
}

// addContent appends the hash of what op reads from the build context.
func (s *stage) addContent(parts *[][]byte, op plan.Op) error {
	h := sha256.New()
	for r, err := range step.Reads(s.Context, op, step.Inputs{Context: s.Context, Ignore: s.Ignore}) {
		if err != nil {
			return err
		}
		e := r.Entry
		fmt.Fprintf(h, "%q %o %d %d %d %q %t %d %d %q\n", e.Name, uint32(e.Mode), e.UID, e.GID, e.Size, e.Link, e.Hard, e.Major, e.Minor, e.Xattrs)
		if !e.Mode.IsRegular() || e.Hard || r.Path == "" {
			continue
		}
		if err := hashFile(h, s.Context, r.Path); err != nil {
			return err
		}
	}
	*parts = append(*parts, h.Sum(nil))
	return nil
}

func hashFile(w io.Writer, fsys rootfs.FS, name string) error {
	f, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("hash /%s: %w", name, err)
	}
	defer f.Close()
	inner := sha256.New()
	if _, err := io.Copy(inner, f); err != nil {
		return fmt.Errorf("hash /%s: %w", name, err)
	}
	_, err = w.Write(inner.Sum(nil))
	return err
}

// remember stores the layer of a step that was carried out; nil is none.
func (s *stage) remember(ctx context.Context, op plan.Op, l v1.Layer) error {
	if s.Cache != nil && unforeseen(op) {
		digest := "none"
		if l != nil {
			h, err := l.Digest()
			if err != nil {
				return err
			}
			digest = h.String()
		}
		s.key = s.key.Derive([]byte(digest))
	}
	key := s.key
	s.work.Go(func() error { return s.store(ctx, key, op, l) })
	return nil
}
