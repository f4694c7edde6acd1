package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

const platformsYAML = kilnYAML + "build: {platforms: [linux/arm64, linux/amd64]}\n"

// platformWorld has a dispatcher whose builds are for two platforms.
func (w *world) platforms(t testing.TB) *Dispatcher {
	t.Helper()
	return w.dispatcher(t, func(c *Config) { c.Triggers = triggers(t, platformsYAML) })
}

// partIDs are the ids of the two parts.
func partIDs(buildID string) (amd64, arm64 string) {
	return events.PartID(buildID, "linux/amd64"), events.PartID(buildID, "linux/arm64")
}

// ended is the data of a build's terminal event.
func (w *world) ended(t testing.TB, buildID string) events.Finished {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.published[events.FinishedID(buildID)]
	if !ok {
		t.Fatal("the build's end was not told")
	}
	var data events.Finished
	if err := json.Unmarshal(e.Data(), &data); err != nil {
		t.Fatal(err)
	}
	return data
}

// terminal is how many builds' ends were told.
func (w *world) terminal() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.published {
		if e.Type() == events.TypeBuildFinished {
			n++
		}
	}
	return n
}

// fail is what an executor and its launcher do when a build fails.
func (w *world) fail(t testing.TB, buildID string) {
	t.Helper()
	_, err := w.finisher(t).Finish(t.Context(), buildID, events.Result{
		Outcome: events.OutcomeFailed, Class: events.ClassBuild, Reason: "RUN failed", Message: "Dockerfile:3: RUN false",
	})
	if err != nil {
		t.Fatal(err)
	}
	w.lose(buildID)
}

// checkIndex looks whether a build ended well, once, with the index of both parts.
func (w *world) checkIndex(t testing.TB, what, buildID string) {
	t.Helper()
	data := w.ended(t, buildID)
	if data.Outcome != events.OutcomeSuccess || len(data.Image.Platforms) != 2 || data.Image.Platforms[0].Arch != "amd64" || data.Image.Platforms[1].Arch != "arm64" {
		t.Fatalf("%s: %+v, image %+v", what, data, data.Image)
	}
	if w.indexes[data.Image.Digest] != 1 || len(w.indexes) != 1 || w.tags["main"] != data.Image.Digest || !slices.Equal(data.Image.TagsMoved, []string{"main"}) {
		t.Errorf("%s: indexes %v, tags %v, moved %v, image %s", what, w.indexes, w.tags, data.Image.TagsMoved, data.Image.Digest)
	}
	if w.terminal() != 1 || len(w.keys(t, record.OpenPrefix)) != 0 || len(w.keys(t, record.IndexPrefix)) != 1 {
		t.Errorf("%s: %d ends, open %v, listed %v", what, w.terminal(), w.keys(t, record.OpenPrefix), w.keys(t, record.IndexPrefix))
	}
}

// A build for two platforms is launched twice, becomes one index, and is one build
// with one event.
func TestPlatforms(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.platforms(t)
	got := handle(t, d, ref(none, "a", 1))
	amd64, arm64 := partIDs(got.BuildID)
	if !slices.Equal(w.launches, []string{amd64, arm64}) || w.running[arm64].Platform != "linux/arm64" || w.running[arm64].PartOf != got.BuildID {
		t.Fatalf("launches %v, want %s and %s", w.launches, amd64, arm64)
	}
	handle(t, d, ref(none, "a", 1)) // once more, which launches nothing
	w.succeed(t, arm64)
	if outcome, _ := w.outcome(t, got.BuildID); outcome != "" || len(w.tags) != 0 || w.terminal() != 0 {
		t.Fatalf("one of two is done: outcome %s, tags %v", outcome, w.tags)
	}
	handle(t, d, ref(none, "a", 1))
	if err := d.Sweep(t.Context()); err != nil || len(w.launches) != 2 {
		t.Fatalf("a sweep launched %v, %v", w.launches[2:], err)
	}
	w.succeed(t, amd64)
	w.checkIndex(t, "both are done", got.BuildID)
	want := []string{events.TypeBuildFinished, events.TypeBuildQueued, events.TypeBuildRequested}
	if types := w.types(got.BuildID); !slices.Equal(types, want) || len(w.published) != 3 {
		t.Errorf("published %v of %d", types, len(w.published))
	}
	// The same commit again is tagged, and not built for any platform.
	handle(t, d, ref("a", "b", 2))
	again := handle(t, d, ref("b", "a", 3))
	if len(w.launches) != 4 {
		t.Errorf("launches %v", w.launches)
	}
	if data := w.ended(t, again.BuildID); data.Outcome != events.OutcomeSuccess || len(data.Image.Platforms) != 2 {
		t.Errorf("%+v", data)
	}
}

// A platform that fails is the build's end, with its name; the other is stopped.
func TestPlatformFails(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	got := handle(t, w.platforms(t), ref(none, "a", 1))
	amd64, arm64 := partIDs(got.BuildID)
	w.fail(t, arm64)
	data := w.ended(t, got.BuildID)
	if data.Outcome != events.OutcomeFailed || data.Class != events.ClassBuild || data.Message != "linux/arm64: Dockerfile:3: RUN false" || data.Reason != "linux/arm64: RUN failed" {
		t.Errorf("%+v", data)
	}
	if !slices.Equal(w.cancelled, []string{amd64}) || len(w.tags) != 0 || len(w.indexes) != 0 {
		t.Errorf("cancelled %v, tags %v", w.cancelled, w.tags)
	}
	// What the stopped one came to, or a success that was quicker, changes nothing.
	w.succeed(t, amd64)
	if w.terminal() != 1 || len(w.tags) != 0 || len(w.indexes) != 0 || len(w.keys(t, record.OpenPrefix)) != 0 {
		t.Errorf("%d ends, tags %v, indexes %v", w.terminal(), w.tags, w.indexes)
	}
}

// To cancel a build is to cancel all its platforms, and a newer one does so.
func TestCancelPlatforms(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.platforms(t)
	first := handle(t, d, ref(none, "a", 1))
	amd64, arm64 := partIDs(first.BuildID)
	w.succeed(t, amd64)
	second := handle(t, d, ref("a", "b", 2))
	if outcome, class := w.outcome(t, first.BuildID); outcome != events.OutcomeCancelled || class != events.ClassSuperseded || !slices.Equal(w.cancelled, []string{arm64}) {
		t.Errorf("%s %s, cancelled %v", outcome, class, w.cancelled)
	}
	w.cancelled = nil
	if err := d.Cancel(t.Context(), second.BuildID, "enough"); err != nil {
		t.Fatal(err)
	}
	amd64, arm64 = partIDs(second.BuildID)
	if !slices.Equal(w.cancelled, []string{amd64, arm64}) || len(w.running) != 0 || w.terminal() != 2 {
		t.Errorf("cancelled %v, %d ends", w.cancelled, w.terminal())
	}
}

// Only the platform whose executor is lost is launched again, and not for ever.
func TestPlatformLost(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.platforms(t)
	got := handle(t, d, ref(none, "a", 1))
	amd64, arm64 := partIDs(got.BuildID)
	w.succeed(t, amd64)
	for range 2 {
		w.lose(arm64)
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{amd64, arm64, arm64, arm64}; !slices.Equal(w.launches, want) || !slices.Equal(w.attempts, []int{1, 1, 2, 3}) {
		t.Fatalf("launches %v, attempts %v", w.launches, w.attempts)
	}
	w.lose(arm64)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if data := w.ended(t, got.BuildID); data.Outcome != events.OutcomeError || data.Reason != "executor lost" || data.Build.Attempt != 3 {
		t.Errorf("%+v", data)
	}
}

// A platform for which there is no node ends the build, and is named.
func TestPlatformNeverStarts(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t, func(c *Config) { c.Triggers, c.PendingTimeout = triggers(t, platformsYAML), time.Minute })
	got := handle(t, d, ref(none, "a", 1))
	amd64, arm64 := partIDs(got.BuildID)
	w.pending[arm64] = true
	w.sleep(2 * time.Minute)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	data := w.ended(t, got.BuildID)
	if data.Class != events.ClassInfraStart || !strings.HasPrefix(data.Message, "linux/arm64: no executor started within 1m") {
		t.Errorf("%+v", data)
	}
	if slices.Sort(w.cancelled); !slices.Equal(w.cancelled, slices.Sorted(slices.Values([]string{amd64, arm64}))) {
		t.Errorf("cancelled %v", w.cancelled)
	}
}

// Whatever step the dispatcher dies at, from the webhook to the end, and whether
// the launcher still knows what its executors came to: each platform is built
// once, the index pushed once, the end told once.
func TestPlatformsCrashAnywhere(t *testing.T) {
	died := errors.New("died here")
	for _, outcome := range []string{"success", "failure"} {
		steps := 0
		for crash := 0; ; crash++ {
			w := newWorld(new(ledger.Mem))
			n, where := 0, ""
			w.Fault = func(step string) error {
				if n++; n-1 == crash {
					where = step
				}
				if n-1 >= crash {
					return died // and stays dead
				}
				return nil
			}
			change := ref(none, "a", 1)
			decisions, err := w.platforms(t).Handle(t.Context(), change)
			for _, dec := range decisions {
				amd64, arm64 := partIDs(dec.BuildID)
				err = errors.Join(err, w.end(t.Context(), t, arm64, outcome), w.end(t.Context(), t, amd64, "success"))
			}
			if err == nil {
				steps = crash
				break
			}
			if !errors.Is(err, died) {
				t.Fatalf("died %s: %v", where, err)
			}
			w.Fault = nil
			w.repair(t, where, change, outcome)
		}
		if steps < 30 {
			t.Errorf("%s: only %d steps were tried", outcome, steps)
		}
	}
}

// end is what a launcher does with what became of a part; it does it again until
// that succeeds.
func (w *world) end(ctx context.Context, t testing.TB, buildID, outcome string) error {
	res := events.Result{Outcome: events.OutcomeFailed, Class: events.ClassBuild, Message: "RUN false"}
	if outcome == "success" {
		res = events.Result{Outcome: events.OutcomeSuccess, Digest: "sha256:" + strings.Repeat("0", 38) + strings.Repeat(hexOf(buildID), 13)}
		w.mu.Lock()
		w.digests[res.Digest] = true
		w.mu.Unlock()
	}
	if _, err := w.finisher(t).Finish(ctx, buildID, res); err != nil {
		return err
	}
	w.lose(buildID)
	return nil
}

// hexOf is two hex digits that tell parts apart.
func hexOf(id string) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[id[0]%16], digits[id[1]%16]})
}

// repair does what happens after a restart: the sender comes again, a sweep runs,
// and the launcher tells what its executors came to.
func (w *world) repair(t *testing.T, where string, change events.Change, outcome string) {
	t.Helper()
	d := w.platforms(t)
	w.sleep(time.Minute)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatalf("died %s: sweep: %v", where, err)
	}
	got := handle(t, d, change)
	amd64, arm64 := partIDs(got.BuildID)
	for part, how := range map[string]string{amd64: "success", arm64: outcome} {
		w.mu.Lock()
		_, running := w.running[part]
		w.mu.Unlock()
		if running {
			if err := w.end(t.Context(), t, part, how); err != nil {
				t.Fatalf("died %s: %v", where, err)
			}
		}
	}
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatalf("died %s: sweep: %v", where, err)
	}
	if len(w.running) != 0 {
		t.Errorf("died %s: %v run still", where, w.running)
	}
	launched := map[string]int{}
	for _, id := range w.launches {
		if launched[id]++; launched[id] > 1 {
			t.Errorf("died %s: %s was launched twice", where, id)
		}
	}
	if outcome == "success" {
		w.checkIndex(t, "died "+where, got.BuildID)
		return
	}
	if data := w.ended(t, got.BuildID); data.Outcome != events.OutcomeFailed || data.Message != "linux/arm64: RUN false" || w.terminal() != 1 || len(w.indexes) != 0 || len(w.tags) != 0 {
		t.Errorf("died %s: %+v, %d ends, indexes %v", where, data, w.terminal(), w.indexes)
	}
	if open := w.keys(t, record.OpenPrefix); len(open) != 0 {
		t.Errorf("died %s: %v is open", where, open)
	}
}
