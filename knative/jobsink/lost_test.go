package jobsink

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/finish"
	"github.com/kilnhook/kiln/infra/ledger"
)

// TestLostSecret proves that a build whose JobSink made a Job and lost its event
// (it makes the Job first and the Secret with the event second, so that the pod
// waits for ever) ends all the same: each attempt is bounded by its deadline, the
// sweep makes as many as it may, and then tells that the executor was lost, once.
func TestLostSecret(t *testing.T) {
	s := newSink(t) // accepts everything and runs nothing
	store := &ledger.Mem{}
	now := time.Unix(1795400000, 0).UTC()
	clock := func() time.Time { return now }
	var mu sync.Mutex
	finished := map[string]event.Event{}
	publish := func(_ context.Context, e event.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if e.Type() == events.TypeBuildFinished {
			finished[e.ID()] = e
		}
		return nil
	}
	finisher, err := finish.New(finish.Config{Ledger: store, Publish: publish, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	triggers, err := trigger.Parse("kiln.yaml", []byte("name: app\non: [{object: {bucket: s3://b}}]\npush: {image: r.io/app}\n"))
	if err != nil {
		t.Fatal(err)
	}
	const attempts = 3
	d, err := dispatch.New(dispatch.Config{
		Ledger: store, Triggers: triggers, Launcher: newLauncher(t, s, store, clock), Publish: publish, Finisher: finisher,
		MaxAttempts: attempts, Now: clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := d.Handle(t.Context(), request().Change)
	if err != nil || len(decisions) != 1 {
		t.Fatalf("%v, %v", decisions, err)
	}
	for range 10 {
		for range 3 { // a sweep before the deadline does nothing
			if err := d.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(70 * time.Minute)
	}
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(s.ids) != attempts {
		t.Errorf("the JobSink got %v, want %d attempts", s.ids, attempts)
	}
	e, ok := finished[events.FinishedID(decisions[0].BuildID)]
	if len(finished) != 1 || !ok {
		t.Fatalf("finished: %v", finished)
	}
	var data events.Finished
	if err := e.DataAs(&data); err != nil || data.Outcome != events.OutcomeError || data.Class != events.ClassInfra {
		t.Errorf("%v, %+v", err, data)
	}
}
