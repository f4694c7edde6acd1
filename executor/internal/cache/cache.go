// Package cache remembers the layers that steps made. It may forget: whatever
// is wrong with a cache is a miss and a warning, never a failed build.
//
// An entry is an image with one layer, in a repository of a registry under the
// tag that is its key, or in a directory as an OCI image layout of its own.
package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// Options of a cache. Now is required.
type Options struct {
	// TTL is how long an entry is good for; 0: for ever.
	TTL time.Duration
	// Now is the clock that entries are judged by.
	Now func() time.Time
	// Parallel is how many keys Probe looks up at once; 0: MaxParallel.
	Parallel int
	// Log takes warnings; nil: none.
	Log *slog.Logger
}

// MaxParallel is how many keys Probe looks up at once at most. Over HTTP/1.1 that is
// as many connections.
const MaxParallel = 24

// Entry is what a cache has for a key.
type Entry struct {
	// Layer is what the step made; nil if Empty. Its content is verified
	// while it is read, down to the uncompressed bytes.
	Layer v1.Layer
	// Index opens the layer's index, as package layer has it; nil if the entry
	// has none.
	Index func() (io.ReadCloser, error)
	// Contents says what is in the layer; nil if the entry does not say.
	Contents *progress.Contents
	// Empty says that the step made no layer.
	Empty bool
	// Created is when the entry was made.
	Created time.Time
	// Miss says why there is no entry; "" if there is one.
	Miss string
}

// Hit says whether there is an entry.
func (e Entry) Hit() bool { return e.Layer != nil || e.Empty }

// Same tells whether two entries are both misses, or have the same layer, or none.
func (e Entry) Same(o Entry) bool {
	if e.Layer == nil || o.Layer == nil {
		return e.Layer == o.Layer && e.Empty == o.Empty
	}
	d, err := e.Layer.Digest()
	other, oerr := o.Layer.Digest()
	return err == nil && oerr == nil && d == other
}

// Meta is what an entry says of itself.
type Meta struct {
	// CreatedBy is the step as written.
	CreatedBy string
	// Platform that the layer is for.
	Platform v1.Platform

	roster string // it is the entry of one, with this content
}

// store keeps entries as images.
type store interface {
	// manifest returns the manifest stored under a key; errNone if there is
	// none.
	manifest(ctx context.Context, k Key) ([]byte, error)
	// layer returns the layer that a manifest describes, and what makes sure that
	// it is there.
	layer(ctx context.Context, k Key, desc v1.Descriptor, diffID v1.Hash) (l v1.Layer, check func() error, err error)
	// blob reads another blob of an entry.
	blob(ctx context.Context, k Key, desc v1.Descriptor) (io.ReadCloser, error)
	// put stores an image under a key, replacing what is there.
	put(ctx context.Context, k Key, img v1.Image) error
	// replace is put for an image whose blobs are there, most likely.
	replace(ctx context.Context, k Key, img v1.Image) error
}

// errNone: there is nothing under a key.
var errNone = errors.New("no entry")

// maxFailures is how often in a row a cache may fail before it is left alone.
const maxFailures = 3

// Cache is a layer cache. It is safe for concurrent use, also by several
// processes.
type Cache struct {
	store    store
	opt      Options
	roster   *roster      // nil: none was asked for
	failures atomic.Int32 // in a row
	refused  atomic.Bool  // it was warned about a refusal
}

func newCache(s store, opt Options) *Cache {
	if opt.Parallel == 0 {
		opt.Parallel = MaxParallel
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Cache{store: s, opt: opt}
}

// Get looks up a key. If there is no good entry, reason says why. The only
// error is that of ctx.
func (c *Cache) Get(ctx context.Context, k Key) (e Entry, reason string, err error) {
	if c.failures.Load() >= maxFailures {
		return miss(tooOften)
	}
	e, _, err = c.get(ctx, k)
	return c.judge(ctx, k, e, err)
}

// get asks the store for an entry and its manifest, and whether its layer is there.
func (c *Cache) get(ctx context.Context, k Key) (e Entry, raw []byte, err error) {
	if raw, err = c.store.manifest(ctx, k); err != nil {
		return Entry{}, nil, err
	}
	e, check, err := c.read(ctx, k, raw)
	if err == nil {
		err = check()
	}
	return e, raw, err
}

// judge says what became of looking up a key.
func (c *Cache) judge(ctx context.Context, k Key, e Entry, err error) (Entry, string, error) {
	switch {
	case ctx.Err() != nil:
		return Entry{}, "", context.Cause(ctx)
	case err == nil:
		c.failures.Store(0)
		return e, "", nil
	case errors.Is(err, errNone):
		c.failures.Store(0)
		return miss("no entry")
	}
	var bad *badEntryError
	if errors.As(err, &bad) {
		c.failures.Store(0)
	} else if c.failures.Add(1) == maxFailures {
		c.opt.Log.Warn("cache is not used any more", "err", err)
	}
	if bad == nil || bad.kind == kindBroken || bad.kind == kindRefused && !c.refused.Swap(true) {
		c.opt.Log.Warn("cache entry cannot be used", "key", k.String(), "err", err)
	}
	return miss(err.Error())
}

func miss(reason string) (Entry, string, error) { return Entry{Miss: reason}, reason, nil }

// badEntryError is about one entry, not about the cache.
type badEntryError struct {
	why  string
	kind int
}

// The kinds of bad entries.
const (
	kindBroken  = iota // warn
	kindRefused        // warn once: some registries refuse to read what is not there yet
	kindExpired        // nothing to warn about
)

func (e *badEntryError) Error() string { return e.why }

// finding is what is known of a key before its layer was looked for.
type finding struct {
	Entry

	check   func() (Entry, error) // tells whether the layer is there; nil for a miss
	current func() bool           // tells whether the roster, which has the entry, is right; nil if the cache has it
}

// find looks for an entry, in the roster first.
func (c *Cache) find(ctx context.Context, k Key) (f finding, err error) {
	isThere, raw := func() error { return nil }, c.roster.entry(ctx, k)
	if raw != nil {
		if f.Entry, isThere, err = c.read(ctx, k, raw); err == nil {
			digest, _, _ := v1.SHA256(bytes.NewReader(raw)) // of bytes: it does not fail
			f.current = func() bool { return c.roster.repo.current(ctx, k, digest) }
		}
	}
	if f.current == nil {
		if raw, err = c.store.manifest(ctx, k); err == nil {
			f.Entry, isThere, err = c.read(ctx, k, raw)
		}
		if err != nil {
			return finding{}, err
		}
	}
	c.roster.use(k, raw)
	f.check = func() (Entry, error) {
		err := isThere()
		if err == nil || ctx.Err() != nil {
			return f.Entry, err
		}
		if f.current != nil { // there may be another one since
			return c.anew(ctx, k)
		}
		c.roster.use(k, nil)
		return Entry{}, err
	}
	return f, nil
}

// anew is get for an entry of which the roster has what was.
func (c *Cache) anew(ctx context.Context, k Key) (Entry, error) {
	c.roster.use(k, nil)
	e, raw, err := c.get(ctx, k)
	if err == nil {
		c.roster.use(k, raw)
	}
	return e, err
}

// read makes an entry of its manifest. Whether its layer is there is for check to say.
func (c *Cache) read(ctx context.Context, k Key, raw []byte) (e Entry, check func() error, err error) {
	d, err := parseManifest(raw, k)
	if err != nil {
		return Entry{}, nil, err
	}
	if ttl := c.opt.TTL; ttl > 0 {
		if age := c.opt.Now().Sub(d.created); age > ttl {
			return Entry{}, nil, &badEntryError{why: fmt.Sprintf("expired: made %v ago, entries are good for %v", age.Round(time.Second), ttl), kind: kindExpired}
		}
	}
	if d.empty {
		return Entry{Empty: true, Created: d.created}, func() error { return nil }, nil
	}
	l, isThere, err := c.store.layer(ctx, k, d.layer, d.diffID)
	if err != nil {
		return Entry{}, nil, gone(err)
	}
	e = Entry{Layer: l, Created: d.created, Contents: d.holds}
	if d.index != nil {
		e.Index = func() (io.ReadCloser, error) { return c.openIndex(ctx, k, *d.index) }
	}
	return e, func() error { return gone(isThere()) }, nil
}

// gone is the error of an entry whose layer is not there.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &badEntryError{why: "the entry's layer is gone"}
	}
	return err
}

// Probe looks up many keys at once. The result has every key; misses say why
// in Miss. When ctx is done the rest are misses.
//
// found is what the cache says it has. check finds out, in the background, whether
// the layers are there: there, which may be nil, is asked for each first, some at
// once, and what it knows to be where it is needed is not looked for in the cache.
// At the same time the cache is asked whether it still has what the roster says.
// verified waits for all that. It may have other entries than found, and misses.
func (c *Cache) Probe(ctx context.Context, keys []Key) (found map[Key]Entry, check func(there func(k Key, l v1.Layer) bool) (verified func() map[Key]Entry)) {
	findings := make([]finding, len(keys))
	slots, asking := make(chan struct{}, c.opt.Parallel), make(chan struct{}, c.opt.Parallel)
	var group sync.WaitGroup
	for i, k := range keys {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			findings[i] = c.lookFor(ctx, k)
		})
	}
	group.Wait()
	return byKey(keys, findings), func(there func(k Key, l v1.Layer) bool) func() map[Key]Entry {
		for i, k := range keys {
			if f := findings[i]; f.check != nil {
				group.Go(func() {
					current := f.ask(asking)
					slots <- struct{}{}
					defer func() { <-slots }()
					e, err := f.Entry, error(nil)
					if f.Layer == nil || there == nil || !there(k, f.Layer) {
						e, err = f.check()
					}
					if !<-current {
						e, err = c.anew(ctx, k)
					}
					findings[i].Entry = missed(c.judge(ctx, k, e, err))
				})
			}
		}
		return func() map[Key]Entry {
			group.Wait()
			return byKey(keys, findings)
		}
	}
}

// ask finds out in the background whether what the roster says is right.
func (f finding) ask(slots chan struct{}) <-chan bool {
	current := make(chan bool, 1)
	if f.current == nil {
		current <- true
		return current
	}
	go func() {
		slots <- struct{}{}
		defer func() { <-slots }()
		current <- f.current()
	}()
	return current
}

func byKey(keys []Key, findings []finding) map[Key]Entry {
	out := make(map[Key]Entry, len(keys))
	for i, k := range keys {
		out[k] = findings[i].Entry
	}
	return out
}

// lookFor is find for Probe.
func (c *Cache) lookFor(ctx context.Context, k Key) finding {
	if c.failures.Load() >= maxFailures {
		return finding{Entry: Entry{Miss: tooOften}}
	}
	f, err := c.find(ctx, k)
	if err == nil && ctx.Err() == nil {
		return f
	}
	return finding{Entry: missed(c.judge(ctx, k, f.Entry, err))}
}

// missed is the entry of a look-up, a miss also if it failed.
func missed(e Entry, _ string, err error) Entry {
	if err != nil {
		return Entry{Miss: err.Error()}
	}
	return e
}

// tooOften is why a cache is left alone.
const tooOften = "the cache failed too often and is not used any more"

// Put stores what a step made: a layer, whose digest must be known and whose
// bytes must be readable unless the store has them already, or nil if it made
// none. An error is for the log; the build goes on.
func (c *Cache) Put(ctx context.Context, k Key, l v1.Layer, meta Meta) error {
	raw, err := c.put(ctx, k, l, meta)
	if err == nil && raw != nil {
		c.roster.use(k, raw)
	}
	return err
}

// put stores an entry and returns its manifest; nil if the cache is left alone.
func (c *Cache) put(ctx context.Context, k Key, l v1.Layer, meta Meta) (raw []byte, err error) {
	if c.failures.Load() >= maxFailures {
		return nil, nil // said already
	}
	img, err := entryImage(k, l, meta, c.opt.Now())
	if err == nil {
		err = c.store.put(ctx, k, img)
	}
	if err == nil {
		raw, err = img.RawManifest()
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("store cache entry %s: %w", k, err)
	}
	return raw, nil
}
