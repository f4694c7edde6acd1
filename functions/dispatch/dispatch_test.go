package dispatch

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// A new change is recorded, listed, launched and announced.
func TestNewChange(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	got := handle(t, w.dispatcher(t), ref(none, "a", 1))
	if got.Status != StatusNew || got.Trigger != "app" || !events.IsBuildID(got.BuildID) {
		t.Fatalf("%+v", got)
	}
	var req events.Request
	if _, err := record.Load(t.Context(), w, record.RequestKey(got.BuildID), &req); err != nil {
		t.Fatal(err)
	}
	if req.Sequence != 1 || req.Install != "test" || req.Tenant != "acme" || req.Image != "reg.io/app" || req.Tags[0] != "main" ||
		req.Context != "git://h/r.git#refs/heads/main#"+id("a") || !req.RequestedAt.Equal(w.now) || req.Validate() != nil {
		t.Errorf("request %+v, %v", req, req.Validate())
	}
	if len(w.launches) != 1 || w.launches[0] != got.BuildID {
		t.Errorf("launches %v", w.launches)
	}
	if keys := w.keys(t, record.IndexPrefix); len(keys) != 1 || record.IndexBuildID(keys[0]) != got.BuildID {
		t.Errorf("index %v", keys)
	}
	want := []string{events.TypeBuildQueued, events.TypeBuildRequested}
	if types := w.types(got.BuildID); !slices.Equal(types, want) {
		t.Errorf("published %v", types)
	}
}

// A change that no trigger matches is no error and leaves no trace.
func TestUnmatched(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	c := ref(none, "a", 1)
	c.Location = "h/other"
	decisions, err := w.dispatcher(t).Handle(t.Context(), c)
	if err != nil || len(decisions) != 0 || len(w.keys(t, "")) != 0 {
		t.Errorf("%+v, %v, %v", decisions, err, w.keys(t, ""))
	}
	if _, err := w.dispatcher(t).Handle(t.Context(), events.Change{}); err == nil {
		t.Error("an empty change was accepted")
	}
}

// The same change a hundred times at once, in four dispatchers with a ledger
// directory each opened for itself, is one build.
func TestHundredAtOnce(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(openDir(t, dir))
	var dispatchers []*Dispatcher
	for range 4 {
		own := openDir(t, dir)
		dispatchers = append(dispatchers, w.dispatcher(t, func(c *Config) { c.Ledger = own }))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids, statuses := map[string]bool{}, map[Status]int{}
	for i := range 100 {
		wg.Go(func() {
			c := ref(none, "a", 1)
			c.Delivery = fmt.Sprint("delivery ", i)
			decisions, err := dispatchers[i%4].Handle(t.Context(), c)
			if err != nil || len(decisions) != 1 {
				t.Errorf("%+v, %v", decisions, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[decisions[0].BuildID] = true
			statuses[decisions[0].Status]++
		})
	}
	wg.Wait()
	if len(ids) != 1 || statuses[StatusNew] != 1 || statuses[StatusDuplicate] != 99 {
		t.Errorf("ids %v, statuses %v", ids, statuses)
	}
	if len(w.launches) != 1 || len(w.keys(t, record.IndexPrefix)) != 1 || len(w.keys(t, record.OpenPrefix)) != 1 || len(w.published) != 2 {
		t.Errorf("launches %v, index %v, open %v, %d events", w.launches, w.keys(t, record.IndexPrefix), w.keys(t, record.OpenPrefix), len(w.published))
	}
	if err := w.dispatcher(t).Sweep(t.Context()); err != nil || len(w.launches) != 1 {
		t.Errorf("after a sweep: launches %v, %v", w.launches, err)
	}
}

// Different changes of one ref at once leave it at one of them, with as many
// builds as were accepted, all of different sequence.
func TestConcurrentDifferentChanges(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t, func(c *Config) { c.ResolveRef = nil })
	handle(t, d, ref(none, "a", 1))
	var wg sync.WaitGroup
	for _, after := range strings.Split("123456789bcdef", "") {
		wg.Go(func() {
			c := ref("a", after, 0)
			if _, err := d.Handle(t.Context(), c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[uint64]bool{}
	for _, key := range w.keys(t, record.IndexPrefix) {
		buildID := record.IndexBuildID(key)
		var req events.Request
		if _, err := record.Load(t.Context(), w, record.RequestKey(buildID), &req); err != nil {
			t.Fatal(err)
		}
		if seen[req.Sequence] {
			t.Errorf("two builds have sequence %d", req.Sequence)
		}
		seen[req.Sequence] = true
	}
	if len(seen) != 15 || !seen[15] {
		t.Errorf("%d builds", len(seen))
	}
	// Each was superseded by a later one, before or after it was launched,
	// except the last.
	if len(w.running) != 1 {
		t.Errorf("%d builds run", len(w.running))
	}
}

// a→b→a→b is four builds and the tag ends at the last; redeliveries add none.
func TestFourTransitions(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	ids := map[string]bool{}
	for i, c := range []events.Change{ref(none, "a", 1), ref("a", "b", 2), ref("b", "a", 3), ref("a", "b", 4)} {
		got := handle(t, d, c)
		ids[got.BuildID] = true
		w.succeed(t, got.BuildID)
		again := handle(t, d, c)
		if again.Status != StatusDuplicate || again.BuildID != got.BuildID {
			t.Errorf("change %d again: %+v", i, again)
		}
	}
	// The third and the fourth are what was built before: they are tagged, and
	// told, and no executor runs.
	if len(ids) != 4 || len(w.launches) != 2 || len(w.keys(t, record.OpenPrefix)) != 0 {
		t.Errorf("%d builds, launches %v, open %v", len(ids), w.launches, w.keys(t, record.OpenPrefix))
	}
	for buildID := range ids {
		if outcome, _ := w.outcome(t, buildID); outcome != events.OutcomeSuccess || !slices.Contains(w.types(buildID), events.TypeBuildFinished) {
			t.Errorf("build %s: %s, told %v", buildID, outcome, w.types(buildID))
		}
	}
	if want := fmt.Sprintf("sha256:%064x", w.launches[1][:16]); w.tags["main"] != want {
		t.Errorf("tag %s, want %s", w.tags["main"], want)
	}
	// Asked for once more, it is built once more; and after a day too.
	last := w.keys(t, "index/")[0]
	if _, err := d.Rebuild(t.Context(), record.IndexBuildID(last), "again"); err != nil || len(w.launches) != 3 {
		t.Errorf("%v, launches %v", err, w.launches)
	}
	w.sleep(25 * time.Hour)
	if handle(t, d, ref("b", "a", 5)); len(w.launches) != 4 {
		t.Errorf("after a day: launches %v", w.launches)
	}
}

// Pushes a→b→c delivered in the order c, b: only c has the tag.
func TestOutOfOrder(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	w.remote = map[string]string{"refs/heads/main": id("c")}
	d := w.dispatcher(t)
	w.succeed(t, handle(t, d, ref(none, "a", 1)).BuildID)
	c := handle(t, d, ref("b", "c", 3))
	b := handle(t, d, ref("a", "b", 2))
	if c.Status != StatusNew || b.Status != StatusStale || b.BuildID != "" {
		t.Fatalf("c %+v, b %+v", c, b)
	}
	res := w.succeed(t, c.BuildID)
	if w.tags["main"] != res.Digest {
		t.Errorf("tags %v, want %s", w.tags, res.Digest)
	}
	rejected := w.rejections()
	if len(rejected) != 1 || rejected[0].Extensions()["trigger"] != "app" {
		t.Errorf("rejections %v", rejected)
	}
}

// The dispatcher dies before or after each thing it does. Whether the sender
// repeats the change or only a sweep comes by, the end is the same: one build,
// launched once, with its request, and no rest.
func TestCrashAnywhere(t *testing.T) {
	died := errors.New("died here")
	for _, repair := range []string{"redelivery", "sweep", "both"} {
		for crash := 0; ; crash++ {
			w := newWorld(new(ledger.Mem))
			n, where := 0, ""
			w.Fault = func(step string) error {
				if n++; n-1 == crash {
					where = step
					return died
				}
				return nil
			}
			_, err := w.dispatcher(t).Handle(t.Context(), ref(none, "a", 1))
			if err == nil {
				if crash < 10 {
					t.Errorf("only %d steps were tried", crash)
				}
				break
			}
			if !errors.Is(err, died) {
				t.Fatalf("died %s: %v", where, err)
			}
			w.Fault = nil
			afterCrash(t, w, repair, where)
		}
	}
}

// afterCrash repairs and checks.
func afterCrash(t *testing.T, w *world, repair, where string) {
	t.Helper()
	accepted := len(w.keys(t, "refs/")) == 1 // otherwise only the sender can bring the change back
	if repair != "redelivery" {
		w.sleep(time.Hour)
		if err := w.dispatcher(t).Sweep(t.Context()); err != nil {
			t.Fatalf("died %s: sweep: %v", where, err)
		}
		if !accepted && len(w.keys(t, "")) != 0 {
			t.Errorf("died %s: the sweep left %v", where, w.keys(t, ""))
		}
	}
	if repair != "sweep" {
		handle(t, w.dispatcher(t), ref(none, "a", 1))
		accepted = true
	}
	if !accepted {
		return
	}
	if len(w.launches) != 1 || len(w.running) != 1 {
		t.Fatalf("died %s, %s: launches %v", where, repair, w.launches)
	}
	buildID := w.launches[0]
	for _, key := range []string{record.RequestKey(buildID)} {
		if _, _, err := w.Get(t.Context(), key); err != nil {
			t.Errorf("died %s, %s: %v", where, repair, err)
		}
	}
	types := slices.Compact(w.types(buildID))
	if !slices.Contains(types, events.TypeBuildRequested) {
		t.Errorf("died %s, %s: published %v", where, repair, types)
	}
	w.succeed(t, buildID)
	if keys := w.keys(t, record.OpenPrefix); len(keys) != 0 || len(w.keys(t, record.IndexPrefix)) != 1 {
		t.Errorf("died %s, %s: left %v, index %v", where, repair, keys, w.keys(t, record.IndexPrefix))
	}
}

// A change whose template has no value is a build with the outcome error, so
// that somebody sees it; no executor is started.
func TestUnbuildable(t *testing.T) {
	const yaml = "name: app\non: {object: {bucket: gs://b}}\npush: {image: reg.io/app, tags: ['{{ .Metadata.version }}']}"
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t, func(c *Config) { c.Triggers = triggers(t, yaml) })
	got := handle(t, d, object("1", 1))
	outcome, class := w.outcome(t, got.BuildID)
	if outcome != events.OutcomeError || class != events.ClassConfig || len(w.launches) != 0 {
		t.Errorf("outcome %s %s, launches %v", outcome, class, w.launches)
	}
	if types := w.types(got.BuildID); !slices.Contains(types, events.TypeBuildFinished) {
		t.Errorf("published %v", types)
	}
	if again := handle(t, d, object("1", 1)); again.BuildID != got.BuildID || len(w.launches) != 0 {
		t.Errorf("again: %+v", again)
	}
	d = w.dispatcher(t, func(c *Config) {
		c.Context = func(events.Change) (string, error) { return "", errors.New("no such bucket here") }
	})
	got = handle(t, d, object("2", 2))
	if outcome, class := w.outcome(t, got.BuildID); outcome != events.OutcomeError || class != events.ClassConfig {
		t.Errorf("without a context: %s %s", outcome, class)
	}
}

// One of two triggers cannot be served now: the change is not accepted, and
// when it comes again the other's build is not repeated.
func TestTwoTriggersOneFails(t *testing.T) {
	const yaml = "- {name: one, on: {git: {repo: h/r}}}\n- {name: two, on: {git: {repo: h/r}}}\n"
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t, func(c *Config) { c.Triggers = triggers(t, yaml) })
	n := 0
	w.Fault = func(step string) error {
		if step == "before launch" {
			if n++; n == 2 {
				return errors.New("api server is down")
			}
		}
		return nil
	}
	if _, err := d.Handle(t.Context(), ref(none, "a", 1)); err == nil || !strings.Contains(err.Error(), "trigger two") {
		t.Errorf("error %v", err)
	}
	w.Fault = nil
	decisions, err := d.Handle(t.Context(), ref(none, "a", 1))
	if err != nil || len(decisions) != 2 || len(w.launches) != 2 || decisions[0].BuildID == decisions[1].BuildID {
		t.Errorf("%+v, %v, launches %v", decisions, err, w.launches)
	}
}

// The trace of a delivery reaches the request.
func TestTraceIsKept(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	decisions, err := w.dispatcher(t).handle(t.Context(), ref(none, "a", 1), delivery{traceParent: trace})
	if err != nil || w.running[decisions[0].BuildID].TraceParent != trace {
		t.Errorf("%+v, %v", w.running, err)
	}
}

// A context that ends stops the dispatcher before it accepts anything.
func TestEndedContext(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	why := errors.New("client went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := w.dispatcher(t).Handle(ctx, ref(none, "a", 1)); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
}

// inS3 is an object in S3 of a version.
func inS3(generation string) events.Change {
	c := object(generation, 1)
	c.Location = "s3://b"
	return c
}

func TestDefaultContext(t *testing.T) {
	for want, c := range map[string]events.Change{
		"git://h/r.git#refs/heads/main#" + id("a"): ref(none, "a", 1),
		"gs://b/k#1": object("1", 1),
		"s3://b/k?versionId=096fKKXTRTtl3on89fVO.nfljtsv6qko":     inS3("096fKKXTRTtl3on89fVO.nfljtsv6qko"),
		"s3://b/k?versionId=57d0b0d6-8e8c-4a4e-9d4b-0b6c2b1b0a55": inS3("57d0b0d6-8e8c-4a4e-9d4b-0b6c2b1b0a55"),
		"s3://b/k": inS3("d41d8cd98f00b204e9800998ecf8427e-0055AED6DCD90281E5"),
	} {
		if got, err := DefaultContext(c); err != nil || got != want {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
	c := ref(none, "a", 1)
	c.Name = "refs/heads/a#b"
	own := object("1", 1)
	own.Location = "kiln://contexts"
	for _, c := range []events.Change{c, own} {
		if got, err := DefaultContext(c); err == nil {
			t.Errorf("%s %s gives %s", c.Location, c.Name, got)
		}
	}
}

func TestNewChecksConfig(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	full := Config{Ledger: w, Launcher: w, Publish: w.publish, Now: w.clock}
	for name, edit := range map[string]func(*Config){
		"ledger": func(c *Config) { c.Ledger = nil }, "launcher": func(c *Config) { c.Launcher = nil },
		"publish": func(c *Config) { c.Publish = nil }, "clock": func(c *Config) { c.Now = nil },
	} {
		cfg := full
		edit(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("no %s is no error", name)
		}
	}
	if _, err := New(full); err != nil {
		t.Error(err)
	}
}

func BenchmarkHandle(b *testing.B) {
	w := newWorld(openDir(b, b.TempDir()))
	d := w.dispatcher(b)
	for i := 0; b.Loop(); i++ {
		c := object("1", 1)
		c.Name = fmt.Sprint("key", i)
		if _, err := d.Handle(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// An upload of nothing is no change; what is uploaded then is one build.
func TestEmptyThenReal(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	h := w.dispatcher(t).Handler()
	notification := func(generation, size string) request {
		return request{"/events/in", map[string]string{"Content-Type": "application/json"}, `{"subscription":"s","message":{"attributes":{"eventType":"OBJECT_FINALIZE","bucketId":"b","objectId":"k","objectGeneration":"` + generation +
			`","payloadFormat":"JSON_API_V1"},"data":"` + base64.StdEncoding.EncodeToString([]byte(`{"bucket":"b","name":"k","generation":"`+generation+`","size":"`+size+`"}`)) + `"}}`}
	}
	if status, a, _ := send(t, h, notification("1", "0")); status != 200 || len(a.Builds) != 0 {
		t.Errorf("empty: %d %+v", status, a)
	}
	if status, a, _ := send(t, h, notification("2", "10")); status != 202 || len(a.Builds) != 1 {
		t.Errorf("real: %d %+v", status, a)
	}
	if len(w.launches) != 1 {
		t.Errorf("launches %v", w.launches)
	}
}
