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
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/step"
)

// keyVersion is part of every key: a change of what a step means must not find
// what the old meaning made.
const keyVersion = "kiln/1"

// caches tells whether steps of this kind are looked up and stored.
func (s *stage) caches(op plan.Op) bool { return s.uncached(op) == "" }

// uncached says why steps of this kind are not looked up and stored; "" if they
// are.
func (s *stage) uncached(op plan.Op) string {
	if s.Cache == nil {
		return "no --cache"
	}
	if s.SingleLayer && s.isTarget() {
		return "the step has no layer of its own with --single-snapshot"
	}
	switch op := op.(type) {
	case plan.Run:
		if s.NoCacheRuns {
			return "RUN is not cached with --cache-run-layers=false"
		}
		return ""
	case plan.Copy, plan.Add:
		if !s.CacheCopies {
			return "COPY and ADD are cached with --cache-copy-layers only"
		}
		if unforeseen(op) {
			return "nothing pins what it downloads"
		}
		return ""
	}
	return "its kind of instruction is never cached"
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
// URL may have something else every time unless its checksum is given, and a
// branch another commit.
func unforeseen(op plan.Op) bool {
	a, ok := op.(plan.Add)
	if !ok {
		return false
	}
	return len(a.URLs) > 0 && a.Checksum == "" ||
		slices.ContainsFunc(a.Repos, func(r plan.Repo) bool { return len(r.Commit) != 40 })
}

// awaited tells whether keys after op need its result.
func (s *stage) awaited(op plan.Op) bool { return s.Cache != nil && unforeseen(op) }

// stands tells whether an operation's layer depends on nothing that was there
// before it.
func stands(op plan.Op) bool {
	switch op := op.(type) {
	case plan.Copy:
		return op.Link
	case plan.Add:
		return op.Link
	}
	return false
}

// lookUp moves the stage's key on and asks the cache for the layer of the n-th
// operation, unless that was done ahead.
func (s *stage) lookUp(ctx context.Context, tell *teller, n int, d *done) (hit bool, err error) {
	op := s.operations[n]
	tell.cache, tell.reason = progress.CacheOff, s.uncached(op)
	if s.Cache == nil {
		return false, nil
	}
	if n < len(s.ahead) {
		s.key, s.layerKey, s.inputs = s.ahead[n].key, s.ahead[n].layerKey, s.ahead[n].inputs
	} else if err := s.advance(op); err != nil {
		return false, err
	}
	tell.inputs = s.inputs
	if tell.reason != "" {
		return false, nil
	}
	e, err := s.ask(ctx, n)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !e.Hit() {
		s.misses++
		tell.cache, tell.reason = progress.CacheMiss, e.Miss
		tell.note("not in the cache: " + e.Miss)
		return false, nil
	}
	s.hits++
	tell.cache = progress.CacheHit
	if e.Empty {
		return true, nil
	}
	d.layer = e.Layer
	s.pending = append(s.pending, withIndex(e))
	s.tellLayer(tell, e.Layer, e.Contents)
	upload := func() { s.upload(ctx, tell.meter(), e.Layer) }
	if s.unsure {
		s.unheld = append(s.unheld, upload)
	} else {
		upload()
	}
	return true, nil
}

// cached is the layer of an entry that has its index.
type cached struct {
	v1.Layer
	index func() (io.ReadCloser, error)
}

// Index returns the layer's index.
func (c cached) Index() (io.ReadCloser, error) { return c.index() }

func withIndex(e cache.Entry) v1.Layer {
	if e.Index == nil {
		return e.Layer
	}
	return cached{e.Layer, e.Index}
}

// ask returns what the cache has, or what another stage has made meanwhile.
func (s *stage) ask(ctx context.Context, n int) (e cache.Entry, err error) {
	if n < len(s.ahead) {
		e = s.ahead[n].entry
	} else if e, e.Miss, err = s.Cache.Get(ctx, s.layerKey); err != nil {
		return e, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.made[s.layerKey]; l != nil && !e.Hit() {
		e = cache.Entry{Layer: l}
	}
	return e, nil
}

// noteMade remembers the layer that a step with a key was found to have.
func (s *stage) noteMade(k cache.Key, op plan.Op, l v1.Layer) {
	if op == nil || !s.caches(op) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made[k] = l
}

// advance derives the key of the stage's state after op, from the key before
// and what op depends on, and that of op's layer. They are the same unless the
// layer depends on nothing that was there before.
func (s *stage) advance(op plan.Op) error {
	parts, err := s.keyParts(op)
	if err != nil {
		return err
	}
	s.inputs = &progress.Inputs{Before: brief(s.key), Instruction: brief(cache.NewKey(parts[:said]...))}
	if len(parts) > said {
		s.inputs.Content = brief(cache.NewKey(parts[said:]...))
	}
	s.key = s.key.Derive(parts...)
	s.layerKey = s.key
	if stands(op) {
		s.layerKey = cache.NewKey(append([][]byte{[]byte("layer")}, parts...)...)
	}
	return nil
}

// brief is enough of a key to tell it from others.
func brief(k cache.Key) string { return k.String()[:12] }

// said is how many of the parts that keyParts returns are what the step says;
// those after are what it reads.
const said = 3

// keyParts is what op says and what it reads. Proxies and metadata are not
// among it.
func (s *stage) keyParts(op plan.Op) ([][]byte, error) {
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
		for _, m := range op.Mounts {
			if err == nil {
				err = s.addMount(&parts, m)
			}
		}
	case plan.Workdir:
		err = errors.Join(add("workdir"), add(op))
	case plan.Add:
		said := op
		if len(op.Skip) == 0 {
			said.Paths = nil // what they select counts
		}
		err = errors.Join(add("add"), add(said))
		if err == nil && len(op.Paths) > 0 {
			err = s.addContent(&parts, s.files(plan.Source{}), op)
		}
	case plan.Copy:
		said := op
		said.From = plan.Source{}
		if op.Parents == nil && len(op.Skip) == 0 {
			said.Paths = nil // what they select counts, or else where they are read
		}
		err = errors.Join(add("copy"), add(said))
		switch {
		case err != nil || len(op.Paths) == 0:
		case op.From.IsFiles():
			err = s.addContent(&parts, s.files(op.From), op)
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
	return parts, err
}

// addContent appends the hash of what op reads from files.
func (s *stage) addContent(parts *[][]byte, from Files, op plan.Op) error {
	if from.FS == nil {
		return errors.New("the build has no context to copy from")
	}
	h := sha256.New()
	for r, err := range step.Reads(from.FS, op, step.Inputs{Context: from.FS, Ignore: from.Ignore}) {
		if err != nil {
			return err
		}
		e := r.Entry
		hashEntry(h, e)
		if !e.Mode.IsRegular() || e.Hard || r.Path == "" {
			continue
		}
		if err := hashFile(h, from.FS, r.Path); err != nil {
			return err
		}
	}
	*parts = append(*parts, h.Sum(nil))
	return nil
}

// addMount appends what tells one source of a mount from another. What a cache
// holds, and what a secret is, tell nothing.
func (s *stage) addMount(parts *[][]byte, m plan.Mount) error {
	switch from := m.From; {
	case m.Type != plan.MountBind && m.Type != plan.MountCache, from.IsContext() && m.Type == plan.MountCache, from.IsScratch():
	case from.Stage != nil:
		k := s.stages[*from.Stage].key
		*parts = append(*parts, k[:])
	case from.IsFiles():
		tree, where, err := s.contextTree(from)
		if err != nil {
			return err
		}
		name, err := find(tree, where, m.Source)
		if err != nil {
			return fmt.Errorf("--mount=type=%s: %w", m.Type, err)
		}
		h := sha256.New()
		if err := hashTree(h, rootOwned{tree}, name); err != nil {
			return err
		}
		*parts = append(*parts, h.Sum(nil))
	default:
		*parts = append(*parts, []byte(from.Digest.String()))
	}
	return nil
}

func hashEntry(w io.Writer, e rootfs.Entry) {
	fmt.Fprintf(w, "%q %o %d %d %d %q %t %d %d %q\n", e.Name, uint32(e.Mode), e.UID, e.GID, e.Size, e.Link, e.Hard, e.Major, e.Minor, e.Xattrs)
}

// hashTree hashes what a tree has at name and below, but for times.
func hashTree(w io.Writer, tree rootfs.FS, name string) error {
	return rootfs.Walk(tree, name, func(e rootfs.Entry) error {
		hashEntry(w, e)
		if !e.Mode.IsRegular() {
			return nil
		}
		return hashFile(w, tree, e.Name)
	})
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
		s.layerKey = s.key
	}
	key := s.layerKey
	s.work.Go(func() error { return s.store(ctx, key, op, l) })
	return nil
}
