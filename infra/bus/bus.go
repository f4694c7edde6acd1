// Package bus carries events within one machine: from whoever publishes them
// to streams over HTTP and to webhooks, through a spool on disk, so that an
// event whose Publish returned is never lost.
//
// Delivery is at least once and in the order of publication. An event is
// identified by its source and id; one that is published again is the same
// one.
package bus

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/infra/local/exclusive"
)

// MaxEvent is the size in bytes of the largest event, as structured JSON, that
// the bus takes.
const MaxEvent = 1 << 20

// Errors of Publish and Open.
var (
	ErrClosed = errors.New("bus is closed")
	ErrInUse  = errors.New("spool is in use by another process")
)

// Options of a bus; the zero value works.
type Options struct {
	SegmentBytes int64         // size at which a file of the spool is full; 0 is 16 MiB
	KeepEvents   int           // how many of the newest events are kept at least; 0 is 50,000
	Heartbeat    time.Duration // silence after which a stream sends a comment; 0 is 15 s
	Log          *slog.Logger  // nil discards
}

func (o Options) withDefaults() Options {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 16 << 20
	}
	if o.KeepEvents <= 0 {
		o.KeepEvents = 50_000
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 15 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Stored is an event and its place in the bus. Places begin at 1, grow by one
// and are never used again.
type Stored struct {
	Seq   uint64
	Event event.Event
}

// Bus is the spool and those who wait for it to grow. All methods may be
// called at once from any number of goroutines.
type Bus struct {
	dir    string
	opts   Options
	lock   *os.File
	closed chan struct{}

	syncMu sync.Mutex // held while a file is synchronised; taken before mu

	mu       sync.Mutex
	segments []*segment          // in ascending order; the last is written to
	next     uint64              // place of the next event
	durable  uint64              // place of the last event that is on disk; only these are seen
	places   map[identity]uint64 // of the events in the spool
	pins     map[string]uint64   // place up to which a named reader has read
	grown    chan struct{}       // closed, and replaced, when durable grows
	broken   error               // why nothing can be published any more
}

// identity is what makes two events the same one: a hash of source and id.
type identity [16]byte

func identityOf(e event.Event) identity {
	h := sha256.New()
	fmt.Fprintf(h, "%d:%s%s", len(e.Source()), e.Source(), e.ID())
	return identity(h.Sum(nil)[:16])
}

// Open opens the spool in a directory, making it if it is not there, and
// repairs what a crash left at its end. The error wraps ErrInUse if another
// bus has it open. Close it when done.
func Open(dir string, opts Options) (*Bus, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make spool directory: %w", err)
	}
	lock, err := lockSpool(dir)
	if err != nil {
		return nil, fmt.Errorf("open spool %s: %w", dir, err)
	}
	b := &Bus{
		dir: dir, opts: opts.withDefaults(), lock: lock, closed: make(chan struct{}),
		places: map[identity]uint64{}, pins: map[string]uint64{}, grown: make(chan struct{}),
	}
	if err := b.load(); err != nil {
		return nil, fmt.Errorf("open spool %s: %w", dir, errors.Join(err, b.closeFiles()))
	}
	return b, nil
}

// lockSpool takes the spool for this process until the file is closed.
func lockSpool(dir string) (*os.File, error) {
	f, err := exclusive.Lock(filepath.Join(dir, "lock"))
	if errors.Is(err, exclusive.ErrLocked) {
		return nil, ErrInUse
	}
	return f, err
}

// Close ends all streams and watches and releases the spool. What was
// published stays. Closing twice is no error.
func (b *Bus) Close() error {
	b.syncMu.Lock()
	defer b.syncMu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil && errors.Is(b.broken, ErrClosed) {
		return nil
	}
	b.broken = ErrClosed
	close(b.closed)
	return b.closeFiles()
}

// closeFiles closes everything that is open.
func (b *Bus) closeFiles() error {
	var errs []error
	for _, s := range b.segments {
		errs = append(errs, s.close())
	}
	return errors.Join(append(errs, b.lock.Close())...)
}

// Publish puts an event on disk and returns its place. Once it returned the
// event is never lost. An event with the source and id of one that is already
// in the spool is not stored again: the place is that of the first. The error
// is about the event, or wraps ErrClosed, or says why the disk cannot be
// written; after an error of the last kind it is not known whether the event
// was stored, and publishing it again is right.
func (b *Bus) Publish(ctx context.Context, e event.Event) (seq uint64, err error) {
	if ctx.Err() != nil {
		return 0, fmt.Errorf("publish event: %w", context.Cause(ctx))
	}
	if err := e.Validate(); err != nil {
		return 0, fmt.Errorf("publish event %s: %w", e.ID(), err)
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return 0, fmt.Errorf("publish event %s: %w", e.ID(), err)
	}
	if len(raw) > MaxEvent {
		return 0, fmt.Errorf("publish event %s: its %d bytes are more than %d", e.ID(), len(raw), MaxEvent)
	}
	seq, err = b.append(identityOf(e), raw)
	if err == nil {
		err = b.sync(seq)
	}
	if err != nil {
		return 0, fmt.Errorf("publish event %s: %w", e.ID(), err)
	}
	return seq, nil
}

// append writes an event to the end of the spool, where it is neither durable
// nor seen before sync.
func (b *Bus) append(id identity, raw []byte) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		return 0, b.broken
	}
	if seq, ok := b.places[id]; ok {
		return seq, nil
	}
	if last := b.segments[len(b.segments)-1]; last.size >= b.opts.SegmentBytes {
		if err := b.rotate(last); err != nil {
			return 0, err
		}
	}
	seq := b.next
	if err := b.segments[len(b.segments)-1].append(seq, id, raw); err != nil {
		if errors.Is(err, errTorn) {
			b.broken = err
		}
		return 0, err
	}
	b.places[id] = seq
	b.next++
	return seq, nil
}

// rotate begins a new file and drops the oldest that nobody needs. The caller
// holds mu.
func (b *Bus) rotate(full *segment) error {
	if err := full.file.Sync(); err != nil {
		b.broken = fmt.Errorf("synchronise spool, which must be opened anew: %w", err)
		return b.broken
	}
	b.advance(b.next - 1)
	s, err := createSegment(b.dir, b.next)
	if err != nil {
		return err
	}
	b.segments = append(b.segments, s)
	b.drop()
	return nil
}

// drop removes the oldest files while enough events remain and every pinned
// reader is past them. The caller holds mu.
func (b *Bus) drop() {
	needed := b.next
	for _, read := range b.pins {
		needed = min(needed, read+1)
	}
	for len(b.segments) > 1 {
		oldest, following := b.segments[0], b.segments[1].first
		if b.next-following < uint64(b.opts.KeepEvents) || following > needed {
			return
		}
		for _, id := range oldest.ids {
			delete(b.places, id)
		}
		b.segments = b.segments[1:]
		if err := errors.Join(oldest.close(), os.Remove(oldest.file.Name())); err != nil {
			b.opts.Log.Warn("drop old part of spool", "file", oldest.file.Name(), "err", err)
		}
	}
}

// sync returns when the event at a place is on disk. Whoever comes first
// synchronises for all that wait meanwhile.
func (b *Bus) sync(seq uint64) error {
	b.syncMu.Lock()
	defer b.syncMu.Unlock()
	b.mu.Lock()
	if b.durable >= seq || b.broken != nil {
		defer b.mu.Unlock()
		if b.durable >= seq {
			return nil
		}
		return b.broken
	}
	written, file := b.next-1, b.segments[len(b.segments)-1].file
	b.mu.Unlock()

	err := file.Sync()

	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		// The kernel may have thrown the pages away: a second try would
		// succeed and mean nothing.
		b.broken = fmt.Errorf("synchronise spool, which must be opened anew: %w", err)
		return b.broken
	}
	b.advance(written)
	return nil
}

// advance makes the events up to a place seen. The caller holds mu.
func (b *Bus) advance(durable uint64) {
	if durable > b.durable {
		b.durable = durable
		close(b.grown)
		b.grown = make(chan struct{})
	}
}

// Last returns the place of the newest event, 0 if there never was one.
func (b *Bus) Last() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.durable
}

// pin says that a named reader has read up to a place, so that what follows is
// kept for it.
func (b *Bus) pin(name string, read uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pins[name] = read
}
