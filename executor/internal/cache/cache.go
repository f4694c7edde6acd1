// Package cache remembers the layers that steps made. It may forget: whatever
// is wrong with a cache is a miss and a warning, never a failed build.
//
// An entry is an image with one layer, in a repository of a registry under the
// tag that is its key, or in a directory as an OCI image layout of its own.
package cache

import (
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
	e, err = c.get(ctx, k)
	return c.judge(ctx, k, e, err)
}

// get asks the store for an entry, and whether its layer is there.
func (c *Cache) get(ctx context.Context, k Key) (Entry, error) {
	raw, err := c.store.manifest(ctx, k)
	if err != nil {
		return Entry{}, err
	}
	e, check, err := c.read(ctx, k, raw)
	if err == nil {
		err = check()
	}
	return e, err
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

// find looks for an entry, in the roster first. Whether its layer is there is for
// check to say.
func (c *Cache) find(ctx context.Context, k Key) (e Entry, check func() (Entry, error), err error) {
	raw := c.roster.entry(ctx, k)
	known := raw != nil
	if known {
		_, err := parseManifest(raw, k)
		known = err == nil
	}
	if !known {
		if raw, err = c.store.manifest(ctx, k); err != nil {
			return Entry{}, nil, err
		}
	}
	e, isThere, err := c.read(ctx, k, raw)
	if err != nil {
		return Entry{}, nil, err
	}
	c.roster.use(k, raw)
	return e, func() (Entry, error) {
		err := isThere()
		if err == nil || ctx.Err() != nil {
			return e, err
		}
		c.roster.use(k, nil)
		if known { // there may be another one since
			return c.get(ctx, k)
		}
		return Entry{}, err
	}, nil
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
// verified waits for that. It may have other entries than found, and misses.
func (c *Cache) Probe(ctx context.Context, keys []Key) (found map[Key]Entry, check func(there func(k Key, l v1.Layer) bool) (verified func() map[Key]Entry)) {
	entries, checks := make([]Entry, len(keys)), make([]func() (Entry, error), len(keys))
	slots := make(chan struct{}, c.opt.Parallel)
	var finding, checking sync.WaitGroup
	for i, k := range keys {
		finding.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			entries[i], checks[i] = c.lookFor(ctx, k)
		})
	}
	finding.Wait()
	return byKey(keys, entries), func(there func(k Key, l v1.Layer) bool) func() map[Key]Entry {
		for i, k := range keys {
			if checks[i] == nil {
				continue
			}
			checking.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				if l := entries[i].Layer; l == nil || there == nil || !there(k, l) {
					e, err := checks[i]()
					entries[i] = missed(c.judge(ctx, k, e, err))
				}
			})
		}
		return func() map[Key]Entry {
			checking.Wait()
			return byKey(keys, entries)
		}
	}
}

func byKey(keys []Key, entries []Entry) map[Key]Entry {
	out := make(map[Key]Entry, len(keys))
	for i, k := range keys {
		out[k] = entries[i]
	}
	return out
}

// lookFor is find for Probe; check is nil for a miss.
func (c *Cache) lookFor(ctx context.Context, k Key) (e Entry, check func() (Entry, error)) {
	if c.failures.Load() >= maxFailures {
		e, _, _ = miss(tooOften)
		return e, nil
	}
	e, check, err := c.find(ctx, k)
	if err == nil && ctx.Err() == nil {
		return e, check
	}
	return missed(c.judge(ctx, k, e, err)), nil
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
