package cache

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// A roster saves round trips to builds that are much like one before: it holds the
// manifests of the entries that the last build of a Dockerfile used, and the
// manifests and configs of its base images, in the manifest of an entry of its own.
// So one request, which goes at the same time as that for the base image, brings
// what would otherwise be asked for one after another.
//
// It says nothing that the cache does not: of an entry it holds what its manifest
// says, whose layer is looked for as ever, and a document counts by its digest. What
// is not in it, and what of it turns out to be gone, is asked for as if there were none.

// annotationRoster holds the content of a roster: JSON, zstd, base64.
const annotationRoster = "dev.kilnhook.cache.roster"

const (
	// maxRoster is how large the annotation may be, in bytes: registries limit
	// manifests to 4 MiB, or less.
	maxRoster = 512 << 10
	// maxRosterPlain is how large the content may be, in bytes.
	maxRosterPlain = 8 << 20
)

// RosterKey is the key of the roster for what parts say of a build.
func RosterKey(parts ...[]byte) Key {
	return NewKey(append([][]byte{[]byte("roster 1")}, parts...)...)
}

// roster is one that was read and one that is made.
type roster struct {
	key   Key
	repo  *repository
	asked chan struct{} // closed when the one that was read is there

	mu        sync.Mutex
	had, have rosterContent
}

// rosterContent is what is in a roster.
type rosterContent struct {
	Entries   map[string][]byte `json:"entries"`   // manifests, by key
	Documents map[string][]byte `json:"documents"` // by digest
}

func newRosterContent() rosterContent {
	return rosterContent{Entries: map[string][]byte{}, Documents: map[string][]byte{}}
}

func (c rosterContent) equal(d rosterContent) bool {
	return maps.EqualFunc(c.Entries, d.Entries, bytes.Equal) && maps.EqualFunc(c.Documents, d.Documents, bytes.Equal)
}

// Recall asks for a roster in the background, and calls done when it is there. It is
// called before anything else is asked of the cache, and once at most; in a
// directory, where nothing is saved by it, it does nothing.
func (c *Cache) Recall(ctx context.Context, k Key, done func()) {
	repo, far := c.store.(*repository)
	if !far {
		done()
		return
	}
	r := &roster{key: k, repo: repo, asked: make(chan struct{}), had: newRosterContent(), have: newRosterContent()}
	c.roster = r
	go func() {
		defer close(r.asked)
		defer done()
		raw, err := c.store.manifest(ctx, k)
		if err != nil {
			_, _, _ = c.judge(ctx, k, Entry{}, err)
			return
		}
		content, err := parseRoster(raw, k)
		if err != nil {
			c.opt.Log.Warn("what the last build used is not known", "err", err)
			return
		}
		r.had = content
	}()
}

// parseRoster reads the manifest of a roster.
func parseRoster(raw []byte, k Key) (rosterContent, error) {
	out := newRosterContent()
	if _, err := parseManifest(raw, k); err != nil {
		return out, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return out, fmt.Errorf("read roster: %w", err)
	}
	packed, err := base64.StdEncoding.DecodeString(m.Annotations[annotationRoster])
	if err != nil {
		return out, fmt.Errorf("read roster: %w", err)
	}
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRosterPlain))
	if err != nil {
		return out, fmt.Errorf("read roster: %w", err)
	}
	defer z.Close()
	plain, err := io.ReadAll(io.LimitReader(z, maxRosterPlain))
	if err == nil {
		err = json.Unmarshal(plain, &out)
	}
	if err != nil {
		return newRosterContent(), fmt.Errorf("read roster: %w", err)
	}
	return out, nil
}

// wait waits until it is known what the roster has; false if ctx is done before.
func (r *roster) wait(ctx context.Context) bool {
	if r == nil {
		return false
	}
	select {
	case <-r.asked:
		return true
	case <-ctx.Done():
		return false
	}
}

// entry returns the manifest of an entry that the roster has, nil if it has none.
func (r *roster) entry(ctx context.Context, k Key) []byte {
	if !r.wait(ctx) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.had.Entries[k.String()]
}

// use remembers the manifest of an entry for the next build, or with nil that there
// is none any more.
func (r *roster) use(k Key, raw []byte) {
	if r == nil || k == r.key {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if raw == nil {
		delete(r.had.Entries, k.String())
		delete(r.have.Entries, k.String())
		return
	}
	r.have.Entries[k.String()] = raw
}

// Document returns what the roster has under a digest, nil if it has nothing. It
// waits for the roster.
func (c *Cache) Document(ctx context.Context, digest v1.Hash) []byte {
	if !c.roster.wait(ctx) {
		return nil
	}
	c.roster.mu.Lock()
	defer c.roster.mu.Unlock()
	return c.roster.had.Documents[digest.String()]
}

// Note remembers a manifest or a config for the next build.
func (c *Cache) Note(digest v1.Hash, raw []byte) {
	if c.roster == nil {
		return
	}
	c.roster.mu.Lock()
	defer c.roster.mu.Unlock()
	c.roster.have.Documents[digest.String()] = raw
}

// errRosterSize is the error of a roster that is not stored.
var errRosterSize = errors.New("it is too large for a manifest")

// Keep stores the roster of this build, if there is another one or none. An error is
// for the log.
func (c *Cache) Keep(ctx context.Context) error {
	r := c.roster
	if !r.wait(ctx) || c.failures.Load() >= maxFailures {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.have.Entries) == 0 || r.have.equal(r.had) {
		return nil
	}
	img, err := r.image(c.opt)
	if err == nil {
		err = c.store.replace(ctx, r.key, img)
	}
	if err != nil {
		return fmt.Errorf("store roster: %w", err)
	}
	return nil
}

// image makes the entry of the roster.
func (r *roster) image(opt Options) (v1.Image, error) {
	plain, err := json.Marshal(r.have)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	content := base64.StdEncoding.EncodeToString(z.EncodeAll(plain, nil))
	if err := z.Close(); err != nil {
		return nil, err
	}
	if len(content) > maxRoster || len(plain) > maxRosterPlain {
		return nil, fmt.Errorf("%w: it has %d bytes", errRosterSize, len(content))
	}
	return entryImage(r.key, nil, Meta{CreatedBy: "roster", roster: content}, opt.Now())
}
