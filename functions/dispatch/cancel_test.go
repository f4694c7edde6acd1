package dispatch

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

func TestCancel(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	buildID := handle(t, d, ref(none, "a", 1)).BuildID
	for range 2 { // twice is no error
		if err := d.Cancel(t.Context(), buildID, "asked to"); err != nil {
			t.Fatal(err)
		}
	}
	if outcome, _ := w.outcome(t, buildID); outcome != events.OutcomeCancelled || !slices.Equal(w.cancelled, []string{buildID}) {
		t.Errorf("outcome %s, cancelled %v", outcome, w.cancelled)
	}
	if types := w.types(buildID); !slices.Contains(types, events.TypeBuildFinished) || len(w.keys(t, record.OpenPrefix)) != 0 {
		t.Errorf("published %v, open %v", types, w.keys(t, record.OpenPrefix))
	}
	if again := handle(t, d, ref(none, "a", 1)); again.Status != StatusDuplicate || len(w.launches) != 1 {
		t.Errorf("a redelivery builds what was cancelled: %+v, launches %v", again, w.launches)
	}
	if res := w.succeed(t, buildID); res.Outcome != events.OutcomeCancelled || len(w.tags) != 0 {
		t.Errorf("the executor that was too late got %s, tags %v", res.Outcome, w.tags)
	}
}

func TestCancelOfFinishedAndUnknown(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	buildID := handle(t, d, ref(none, "a", 1)).BuildID
	w.succeed(t, buildID)
	if err := d.Cancel(t.Context(), buildID, "too late"); !errors.Is(err, ErrFinished) {
		t.Errorf("finished: %v", err)
	}
	if outcome, _ := w.outcome(t, buildID); outcome != events.OutcomeSuccess {
		t.Errorf("outcome %s", outcome)
	}
	if err := d.Cancel(t.Context(), events.BuildID("x"), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown: %v", err)
	}
}

// The cancellation dies at any point; a sweep ends it.
func TestCancelCrash(t *testing.T) {
	died := errors.New("died")
	for crash := 0; ; crash++ {
		w := newWorld(new(ledger.Mem))
		d := w.dispatcher(t)
		buildID := handle(t, d, ref(none, "a", 1)).BuildID
		n, where := 0, ""
		w.Fault = func(step string) error {
			if n++; n-1 == crash {
				where = step
				return died
			}
			return nil
		}
		err := d.Cancel(t.Context(), buildID, "asked to")
		w.Fault = nil
		if err == nil {
			break
		}
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		outcome, _ := w.outcome(t, buildID)
		_, runs := w.running[buildID]
		if outcome == "" && runs {
			continue // it died before the claim: nothing has happened
		}
		if outcome != events.OutcomeCancelled || runs || len(w.keys(t, record.OpenPrefix)) != 0 || !slices.Contains(w.types(buildID), events.TypeBuildFinished) {
			t.Errorf("died %s: outcome %s, runs %t, open %v", where, outcome, runs, w.keys(t, record.OpenPrefix))
		}
	}
}

// What becomes of the builds before, by policy.
func TestSupersede(t *testing.T) {
	for _, tc := range []struct {
		name, ref, run string
		cancelled      int // of three builds: one running, one pending, then the newest
	}{
		{"branch by default", "refs/heads/main", "", 2},
		{"tag by default", "refs/tags/v1", "", 0},
		{"cancel-in-progress", "refs/tags/v1", "run: {supersede: cancel-in-progress}", 2},
		{"cancel-pending", "refs/heads/main", "run: {supersede: cancel-pending}", 1},
		{"queue", "refs/heads/main", "run: {supersede: queue}", 0},
		{"keep-all", "refs/heads/main", "run: {supersede: keep-all}", 0},
	} {
		w := newWorld(new(ledger.Mem))
		yaml := "name: app\non: {git: {repo: h/r}}\n" + tc.run
		d := w.dispatcher(t, func(c *Config) { c.Triggers = triggers(t, yaml) })
		change := func(before, after string, sec int) events.Change {
			c := ref(before, after, sec)
			c.Name = tc.ref
			return c
		}
		a := handle(t, d, change(none, "a", 1)).BuildID
		// The second build is stored as if another process had accepted it
		// without getting as far as superseding the first.
		w.Fault = func(step string) error {
			if step == "after publish "+events.TypeBuildQueued {
				return errors.New("died")
			}
			return nil
		}
		if _, err := d.Handle(t.Context(), change("a", "b", 2)); err == nil {
			t.Fatal("did not die")
		}
		w.Fault = nil
		b := w.launches[1]
		w.pending[b] = true
		c := handle(t, d, change("b", "c", 3)).BuildID
		if len(w.cancelled) != tc.cancelled || slices.Contains(w.cancelled, c) {
			t.Errorf("%s: cancelled %v of %s %s %s", tc.name, w.cancelled, a, b, c)
		}
		for _, gone := range w.cancelled {
			if outcome, class := w.outcome(t, gone); outcome != events.OutcomeCancelled || class != events.ClassSuperseded {
				t.Errorf("%s: %s %s", tc.name, outcome, class)
			}
		}
		if tc.cancelled == 1 && w.cancelled[0] != b {
			t.Errorf("%s: cancelled the one that was running", tc.name)
		}
	}
}

// The older of two builds is recorded only after the newer one looked for
// builds to supersede: it finds the newer one itself and gives way.
func TestSupersededWhileBeingRecorded(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	old, young := ref(none, "a", 1), ref("a", "b", 2)
	inside := false
	w.Fault = func(step string) error {
		if strings.HasPrefix(step, "after swap refs/") && !inside {
			inside = true // the older is in the register; before it is recorded, the newer comes
			handle(t, d, young)
		}
		return nil
	}
	buildID := handle(t, d, old).BuildID
	if outcome, class := w.outcome(t, buildID); outcome != events.OutcomeCancelled || class != events.ClassSuperseded || len(w.running) != 1 {
		t.Errorf("older: %s %s, running %v", outcome, class, w.running)
	}
	if _, runs := w.running[buildID]; runs {
		t.Error("the older build runs")
	}
}

// A newer build of another ref, trigger or tenant supersedes nothing here.
func TestSupersedeKeepsToItsGroup(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	yaml := "- {name: one, tenant: a, on: {git: {repo: h/r}}}\n- {name: two, tenant: a, on: {git: {repo: h/r}}}\n"
	d := w.dispatcher(t, func(c *Config) { c.Triggers = triggers(t, yaml) })
	for _, name := range []string{"refs/heads/main", "refs/heads/dev"} {
		c := ref(none, "a", 1)
		c.Name = name
		if _, err := d.Handle(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.running) != 4 || len(w.cancelled) != 0 {
		t.Errorf("running %d, cancelled %v", len(w.running), w.cancelled)
	}
}

// A build that cannot be built supersedes nothing.
func TestUnbuildableSupersedesNothing(t *testing.T) {
	const yaml = "name: app\non: {object: {bucket: gs://b}}\npush: {image: reg.io/app, tags: ['{{ .Metadata.version }}']}"
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t, func(c *Config) { c.Triggers = triggers(t, yaml) })
	good := object("1", 1)
	good.Metadata = map[string]string{"version": "1"}
	first := handle(t, d, good).BuildID
	handle(t, d, object("2", 2))
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, runs := w.running[first]; !runs {
		t.Error("a build was cancelled in favour of one that cannot be built")
	}
}

// When a ref is deleted its builds are cancelled; when it comes back its
// sequence goes on; what was pushed before the deletion stays away.
func TestDeletedRef(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	w.remote = map[string]string{}
	d := w.dispatcher(t)
	created := ref(none, "a", 1)
	first := handle(t, d, created).BuildID
	for range 2 {
		got := handle(t, d, ref("a", none, 2))
		if got.Status != StatusIgnored || got.BuildID != "" {
			t.Errorf("%+v", got)
		}
	}
	if outcome, class := w.outcome(t, first); outcome != events.OutcomeCancelled || class != events.ClassDeleted {
		t.Errorf("%s %s", outcome, class)
	}
	if got := handle(t, d, created); got.Status != StatusStale {
		t.Errorf("the old creation again: %+v", got)
	}
	w.remote["refs/heads/main"] = id("a")
	again := handle(t, d, ref(none, "a", 3))
	if again.Status != StatusNew || again.BuildID == first {
		t.Errorf("%+v", again)
	}
	if seq := w.running[again.BuildID].Sequence; seq != 2 {
		t.Errorf("sequence %d, want 2", seq)
	}
	other := ref("a", none, 2)
	other.Name = "refs/heads/never-built"
	if got := handle(t, d, other); got.Status != StatusIgnored {
		t.Errorf("%+v", got)
	}
}

// A build whose executor is gone is launched again, with the next attempt; one
// that is there is left alone; after the last attempt it is given up.
func TestSweepRelaunches(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	buildID := handle(t, d, ref(none, "a", 1)).BuildID
	sweep := func() {
		t.Helper()
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if len(w.launches) != 1 {
		t.Fatalf("launched again while running: %v", w.launches)
	}
	for range 3 {
		w.lose(buildID)
		sweep()
		sweep()
	}
	if !slices.Equal(w.attempts, []int{1, 2, 3}) {
		t.Errorf("attempts %v", w.attempts)
	}
	outcome, class := w.outcome(t, buildID)
	if outcome != events.OutcomeError || class != events.ClassInfra {
		t.Errorf("%s %s", outcome, class)
	}
	var fin events.Finished
	e := w.published[buildID+".finished"]
	if err := e.DataAs(&fin); err != nil || fin.Build.Attempt != 3 {
		t.Errorf("attempt %d, %v", fin.Build.Attempt, err)
	}
	for _, n := range []string{"1", "2", "3"} {
		if _, ok := w.published[buildID+".queued."+n]; !ok {
			t.Errorf("no event for attempt %s", n)
		}
	}
}

// A launcher that cannot tell what it runs is asked to launch, and says that
// the build exists.
func TestSweepWithoutProber(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t, func(c *Config) { c.Launcher = struct{ Launcher }{w} })
	buildID := handle(t, d, ref(none, "a", 1)).BuildID
	for range 3 {
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(w.attempts, []int{1}) {
		t.Errorf("attempts %v", w.attempts)
	}
	for range 5 {
		w.lose(buildID)
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.attempts) != 6 || w.attempts[5] != 6 {
		t.Errorf("attempts %v", w.attempts)
	}
}

// A result that was claimed and never announced is finished by a sweep, with
// its tags.
func TestSweepFinishes(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	buildID := handle(t, d, ref(none, "a", 1)).BuildID
	digest := "sha256:" + strings.Repeat("d", 64)
	w.digests[digest] = true
	if _, _, err := w.finisher(t).Claim(t.Context(), buildID, events.Result{Outcome: events.OutcomeSuccess, Digest: digest}); err != nil {
		t.Fatal(err)
	}
	w.lose(buildID)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.tags["main"] != digest || len(w.keys(t, record.OpenPrefix)) != 0 || !slices.Contains(w.types(buildID), events.TypeBuildFinished) || len(w.launches) != 1 {
		t.Errorf("tags %v, open %v, launches %v", w.tags, w.keys(t, record.OpenPrefix), w.launches)
	}
}

// Two builds of one branch run because a dispatcher died before it superseded
// the older: the sweep does it.
func TestSweepEnforcesPolicy(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	first := handle(t, d, ref(none, "a", 1)).BuildID
	w.Fault = func(step string) error {
		if step == "after launch" {
			return errors.New("died")
		}
		return nil
	}
	if _, err := d.Handle(t.Context(), ref("a", "b", 2)); err == nil {
		t.Fatal("did not die")
	}
	w.Fault = nil
	if len(w.running) != 2 {
		t.Fatalf("running %v", w.running)
	}
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.cancelled, []string{first}) {
		t.Errorf("cancelled %v, want %s", w.cancelled, first)
	}
}

// What was written down and never accepted is forgotten, but not at once: its
// dispatcher may still be at it.
func TestSweepForgetsOrphans(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	w.Fault = func(step string) error {
		if strings.HasPrefix(step, "before swap refs/") {
			return errors.New("died")
		}
		return nil
	}
	if _, err := d.Handle(t.Context(), ref(none, "a", 1)); err == nil {
		t.Fatal("did not die")
	}
	w.Fault = nil
	if err := d.Sweep(t.Context()); err != nil || len(w.keys(t, record.OpenPrefix)) != 1 {
		t.Errorf("at once: %v, %v", w.keys(t, ""), err)
	}
	w.sleep(11 * time.Minute)
	if err := d.Sweep(t.Context()); err != nil || len(w.keys(t, "")) != 0 || len(w.launches) != 0 {
		t.Errorf("later: %v, %v", w.keys(t, ""), err)
	}
}

// A fault with one build does not keep the sweep from the others.
func TestSweepGoesOn(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	for _, name := range []string{"refs/heads/one", "refs/heads/two", "refs/heads/three"} {
		c := ref(none, "a", 1)
		c.Name = name
		w.lose(handle(t, d, c).BuildID)
	}
	failed := false
	w.Fault = func(step string) error {
		if step == "before launch" && !failed {
			failed = true
			return errors.New("no room")
		}
		return nil
	}
	if err := d.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("error %v", err)
	}
	if len(w.running) != 2 {
		t.Errorf("%d builds were launched again, want 2", len(w.running))
	}
}

// A build that is cancelled after it was seen to have no outcome and before it is launched does not
// run: who cancelled it had nothing to stop.
func TestCancelBeforeLaunch(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	cancelled := ""
	w.Fault = func(step string) error {
		if step != "before launch" || cancelled != "" {
			return nil
		}
		cancelled = record.IndexBuildID(w.keys(t, record.IndexPrefix)[0])
		return d.Cancel(t.Context(), cancelled, "nobody wants it")
	}
	handle(t, d, ref(none, "a", 1))
	if len(w.launches) != 1 || len(w.running) != 0 || !slices.Contains(w.cancelled, cancelled) {
		t.Errorf("launched %v, running %v, stopped %v, want that %s is stopped", w.launches, w.running, w.cancelled, cancelled)
	}
}
