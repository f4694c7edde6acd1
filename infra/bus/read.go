package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sort"
)

// batch is how many events are read at a time.
const batch = 128

// Read returns at most limit events that come after a place, oldest first, and
// none if there is none yet. Events that the spool no longer keeps are passed
// over.
func (b *Bus) Read(ctx context.Context, after uint64, limit int) ([]Stored, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read events after %d: %w", after, context.Cause(ctx))
	}
	records, err := b.read(after, limit)
	if err != nil {
		return nil, fmt.Errorf("read events after %d: %w", after, err)
	}
	stored := make([]Stored, len(records))
	for i, r := range records {
		stored[i].Seq = r.seq
		if err := json.Unmarshal(r.raw, &stored[i].Event); err != nil {
			return nil, fmt.Errorf("read event %d: %w", r.seq, err)
		}
	}
	return stored, nil
}

// record is an event as it is in the spool.
type record struct {
	seq uint64
	raw []byte // structured JSON in one line
}

// read returns events without taking them apart.
func (b *Bus) read(after uint64, limit int) ([]record, error) {
	var records []record
	for len(records) < limit {
		s, offset, seq, err := b.locate(after)
		if err != nil || s == nil {
			return records, err
		}
		raw, err := s.read(offset)
		if errors.Is(err, fs.ErrClosed) {
			continue // dropped between the two calls: look again
		}
		if err != nil {
			return records, fmt.Errorf("event %d: %w", seq, err)
		}
		records = append(records, record{seq: seq, raw: raw})
		after = seq
	}
	return records, nil
}

// locate finds the first durable event after a place; the segment is nil if
// there is none.
func (b *Bus) locate(after uint64) (s *segment, offset int64, seq uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.broken, ErrClosed) {
		return nil, 0, 0, ErrClosed
	}
	seq = max(after, b.segments[0].first-1) + 1
	if seq > b.durable {
		return nil, 0, 0, nil
	}
	i := sort.Search(len(b.segments), func(i int) bool { return b.segments[i].first > seq }) - 1
	s = b.segments[i]
	return s, s.offsets[seq-s.first], seq, nil
}

// growth returns a channel that is closed when there is an event that the
// spool does not show now.
func (b *Bus) growth() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.grown
}

// Watch yields the events after a place, those that are there and then those
// that come, until the context or the loop ends or the bus is closed. If it
// ends for an error, that of the context included, the error is yielded last.
func (b *Bus) Watch(ctx context.Context, after uint64) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		for {
			growth := b.growth() // before reading, so that nothing falls in between
			stored, err := b.Read(ctx, after, batch)
			if err != nil {
				yield(Stored{}, err)
				return
			}
			for _, s := range stored {
				if !yield(s, nil) {
					return
				}
				after = s.Seq
			}
			if len(stored) > 0 {
				continue
			}
			select {
			case <-growth:
			case <-ctx.Done():
			case <-b.closed:
			}
		}
	}
}
