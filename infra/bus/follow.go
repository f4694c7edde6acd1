package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cloudevents/sdk-go/v2/event"
)

// Follower is a reader of the bus within this program. How far it has come is
// kept, as of a webhook.
type Follower struct {
	bus   *Bus
	r     *reader
	types []string
}

// NewFollower prepares a reader of events of some types; none is all. From here
// on the bus keeps what it has not got. A new one begins with what is published
// from now on.
func NewFollower(b *Bus, name string, types ...string) (*Follower, error) {
	if err := os.MkdirAll(filepath.Join(b.dir, cursorDir), 0o700); err != nil {
		return nil, fmt.Errorf("follow events: %w", err)
	}
	r, err := newReader(b, Subscriber{Name: name})
	if err != nil {
		return nil, fmt.Errorf("follow events: %w", err)
	}
	return &Follower{bus: b, r: r, types: types}, nil
}

// Run hands every event to do, in order and at least once, until the context
// ends or the bus is closed, and then returns nil. do returns an error only to
// end that.
func (f *Follower) Run(ctx context.Context, do func(ctx context.Context, e event.Event) error) error {
	for stored, err := range f.bus.Watch(ctx, f.r.read) {
		if err == nil && len(f.types) > 0 && !slices.Contains(f.types, stored.Event.Type()) {
			f.r.skip(stored.Seq)
			continue
		}
		if err == nil {
			err = do(ctx, stored.Event)
		}
		if err == nil {
			err = f.r.advance(stored.Seq)
		}
		if err != nil {
			if errors.Is(err, ErrClosed) || ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("follow events as %s: %w", f.r.sub.Name, err)
		}
	}
	return nil
}
