package bus

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
)

// A follower gets every event of its types once it was there, in order, and
// after a restart goes on where it was.
func TestFollower(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	publish(t, b, newEvent(t, "s", 0))
	f, err := NewFollower(b, "reports")
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, newEvent(t, "s", 1))
	publish(t, b, newEvent(t, "s", 2))
	var got []string
	stop := errors.New("enough")
	run := func(f *Follower, n int) error {
		return f.Run(t.Context(), func(_ context.Context, e event.Event) error {
			got = append(got, e.ID())
			if len(got) == n {
				return stop
			}
			return nil
		})
	}
	if err := run(f, 2); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir, Options{})
	publish(t, b, newEvent(t, "s", 3))
	if f, err = NewFollower(b, "reports"); err != nil {
		t.Fatal(err)
	}
	if err := run(f, 4); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if want := []string{"id-1", "id-2", "id-2", "id-3"}; !slices.Equal(got, want) { // "two" was not dealt with
		t.Errorf("got %v, want %v", got, want)
	}
	none, err := NewFollower(b, "others", events.TypeBuildStarted)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, newEvent(t, "s", 4))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := none.Run(ctx, func(_ context.Context, e event.Event) error {
		t.Errorf("got %s", e.ID())
		return nil
	}); err != nil {
		t.Error(err)
	}
}
