package finish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/ledger/ledgertest"
)

const image = "reg.io/acme/app"

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

// world is what a Finisher stands on, made of fakes. Everything that is done to the world
// is a step that may fail.
type world struct {
	ledgertest.Faulty
	mu        sync.Mutex
	published []event.Event
	digests   map[string]bool   // in the registry
	tags      map[string]string // tag to digest
	moves     []string          // in order
	now       time.Time
	slow      func(tag, digest string) // runs before a tag is moved
}

func newWorld() *world {
	return &world{Faulty: ledgertest.Faulty{Store: &ledger.Mem{}}, digests: map[string]bool{}, tags: map[string]string{}, now: time.Unix(1795400000, 0).UTC()}
}

func (w *world) publish(_ context.Context, e event.Event) error {
	return w.Step("publish", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.published = append(w.published, e)
		return nil
	})
}

func (w *world) checkDigest(_ context.Context, repository, d string) error {
	return w.Step("check digest", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if repository != image || !w.digests[d] {
			return fmt.Errorf("manifest unknown: %w", fs.ErrNotExist)
		}
		return nil
	})
}

func (w *world) moveTags(_ context.Context, _, d string, tags []string) error {
	return w.Step("move tags", func() error {
		for _, tag := range tags {
			if w.slow != nil {
				w.slow(tag, d)
			}
			w.mu.Lock()
			w.tags[tag] = d
			w.moves = append(w.moves, tag+"="+d[len(d)-2:])
			w.mu.Unlock()
		}
		return nil
	})
}

func (w *world) finisher(t testing.TB) *Finisher {
	t.Helper()
	f, err := New(Config{
		Ledger: w, Publish: w.publish, CheckDigest: w.checkDigest, MoveTags: w.moveTags,
		Now: func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// request records a build of sequence seq, as a dispatcher does.
func (w *world) request(t testing.TB, seq uint64) events.Request {
	t.Helper()
	req := events.Request{
		Install: "i", Tenant: "acme", Trigger: "app", Sequence: seq, Group: "app/refs/heads/main",
		Change: events.Change{
			Kind: events.KindGit, Location: "h/r", Name: "refs/heads/main",
			Before: strings.Repeat("0", 40), After: strings.Repeat("a", 40), Delivery: "d",
		},
		Context: "git://h/r.git", Image: image, Tags: []string{"main", "latest"},
		RequestedAt: w.now.Add(time.Duration(seq) * time.Second), Attempt: 1,
	}
	req.BuildID = req.DeriveBuildID()
	w.store(t, req)
	return req
}

func (w *world) store(t testing.TB, req events.Request) {
	t.Helper()
	for key, v := range map[string]any{record.RequestKey(req.BuildID): req, record.OpenKey(req): record.Open{Request: req}} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Store.Create(t.Context(), key, data); err != nil {
			t.Fatal(err)
		}
	}
}

// success is the result of a build whose digest is in the registry.
func (w *world) success(n int) events.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.digests[digest(n)] = true
	return events.Result{Outcome: events.OutcomeSuccess, Digest: digest(n), FinishedAt: w.now}
}

func lost() events.Result {
	return events.Result{Outcome: events.OutcomeError, Class: events.ClassInfra, Reason: "executor lost"}
}

func (w *world) exists(t testing.TB, key string) bool {
	t.Helper()
	_, _, err := w.Get(t.Context(), key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func mustFinish(t *testing.T, f *Finisher, id string, res events.Result) events.Result {
	t.Helper()
	got, err := f.Finish(t.Context(), id, res)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFinishSuccess(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	got := mustFinish(t, w.finisher(t), req.BuildID, w.success(1))
	if got.Outcome != events.OutcomeSuccess || got.Digest != digest(1) || got.Repository != image {
		t.Errorf("result %+v", got)
	}
	if w.tags["main"] != digest(1) || w.tags["latest"] != digest(1) {
		t.Errorf("tags %v", w.tags)
	}
	if len(w.published) != 1 || w.published[0].ID() != req.BuildID+".finished" || w.published[0].Subject() != image+"@"+digest(1) {
		t.Errorf("published %v", w.published)
	}
	var fin events.Finished
	if err := w.published[0].DataAs(&fin); err != nil || !slices.Equal(fin.Image.TagsMoved, []string{"main", "latest"}) {
		t.Errorf("data %+v, %v", fin, err)
	}
	if !w.exists(t, record.EmittedKey(req.BuildID)) || w.exists(t, record.OpenKey(req)) {
		t.Error("the build is not marked as finished")
	}
}

// A second finish, with whatever it says, changes nothing.
func TestFirstClaimCounts(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	f := w.finisher(t)
	mustFinish(t, f, req.BuildID, w.success(1))
	for _, res := range []events.Result{lost(), w.success(2), w.success(1)} {
		if got := mustFinish(t, f, req.BuildID, res); got.Outcome != events.OutcomeSuccess || got.Digest != digest(1) {
			t.Errorf("result %+v", got)
		}
	}
	if len(w.published) != 1 || w.tags["main"] != digest(1) {
		t.Errorf("published %d, tags %v", len(w.published), w.tags)
	}
}

// A cancellation that was claimed wins over a success that comes later, and no
// tag is moved.
func TestCancelWins(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	f := w.finisher(t)
	cancelled := events.Result{Outcome: events.OutcomeCancelled, Class: events.ClassSuperseded}
	if got, won, err := f.Claim(t.Context(), req.BuildID, cancelled); err != nil || !won || got.Outcome != events.OutcomeCancelled {
		t.Fatalf("%+v, %t, %v", got, won, err)
	}
	if _, won, err := f.Claim(t.Context(), req.BuildID, w.success(1)); err != nil || won {
		t.Errorf("a second claim won: %v", err)
	}
	got := mustFinish(t, f, req.BuildID, w.success(1))
	if got.Outcome != events.OutcomeCancelled || len(w.tags) != 0 || w.published[0].Extensions()["outcome"] != "cancelled" {
		t.Errorf("result %+v, tags %v", got, w.tags)
	}
}

// A digest that is not in the registry is an error of class push, moves no
// tag, and is not in the event.
func TestMissingDigest(t *testing.T) {
	for name, res := range map[string]events.Result{
		"missing":   {Outcome: events.OutcomeSuccess, Digest: digest(9)},
		"none":      {Outcome: events.OutcomeSuccess},
		"malformed": {Outcome: events.OutcomeSuccess, Digest: "sha256:../x"},
		"elsewhere": {Outcome: events.OutcomeSuccess, Digest: digest(9), Repository: "evil.io/x"},
	} {
		w := newWorld()
		req := w.request(t, 1)
		got := mustFinish(t, w.finisher(t), req.BuildID, res)
		if got.Outcome != events.OutcomeError || name != "malformed" && got.Class != events.ClassPush || got.Digest != "" || got.Message == "" {
			t.Errorf("%s: %+v", name, got)
		}
		if len(w.tags) != 0 || len(w.published) != 1 || w.published[0].Extensions()["imagedigest"] != nil {
			t.Errorf("%s: tags %v, published %v", name, w.tags, w.published)
		}
	}
}

// A success that was written into the ledger without us, as a forged one would
// be, is verified before anybody hears of it.
func TestForgedResult(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	if _, err := w.Store.Create(t.Context(), record.ResultKey(req.BuildID), []byte(`{"outcome":"success","digest":"`+digest(9)+`"}`)); err != nil {
		t.Fatal(err)
	}
	got := mustFinish(t, w.finisher(t), req.BuildID, lost())
	if got.Outcome != events.OutcomeError || got.Class != events.ClassPush {
		t.Errorf("%+v", got)
	}
	var claim record.Claim
	if _, err := record.Load(t.Context(), w, record.ResultKey(req.BuildID), &claim); err != nil || claim.Outcome != events.OutcomeError || !claim.Verified {
		t.Errorf("in the ledger: %+v, %v", claim, err)
	}
}

// A result that makes no sense ends the build all the same.
func TestInvalidResult(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	got := mustFinish(t, w.finisher(t), req.BuildID, events.Result{Outcome: "splendid", Message: "https://u:hunter2@h/"})
	if got.Outcome != events.OutcomeError || got.Class != events.ClassInfra || strings.Contains(got.Message, "hunter2") {
		t.Errorf("%+v", got)
	}
}

// While the registry cannot be asked nothing is claimed; afterwards the build
// finishes.
func TestRegistryDown(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	down := errors.New("connection refused")
	w.Fault = func(step string) error {
		if step == "before check digest" {
			return down
		}
		return nil
	}
	f := w.finisher(t)
	if _, err := f.Finish(t.Context(), req.BuildID, w.success(1)); !errors.Is(err, down) {
		t.Errorf("error %v", err)
	}
	if w.exists(t, record.ResultKey(req.BuildID)) || len(w.published) != 0 {
		t.Error("something was claimed or published without verification")
	}
	w.Fault = nil
	mustFinish(t, f, req.BuildID, w.success(1))
}

// Within its grace a missing digest is not yet an outcome.
func TestDigestGrace(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	f := w.finisher(t)
	f.cfg.DigestGrace = 10 * time.Minute
	res := events.Result{Outcome: events.OutcomeSuccess, Digest: digest(1), FinishedAt: w.now}
	w.now = w.now.Add(9 * time.Minute)
	if _, err := f.Finish(t.Context(), req.BuildID, res); err == nil {
		t.Error("finished within the grace")
	}
	w.now = w.now.Add(2 * time.Minute)
	if got := mustFinish(t, f, req.BuildID, res); got.Class != events.ClassPush {
		t.Errorf("%+v", got)
	}
}

// Builds that push nothing need no registry; those that do cannot be finished
// without one, rather than be finished unverified.
func TestWithoutRegistry(t *testing.T) {
	w := newWorld()
	pushes := w.request(t, 1)
	quiet := w.request(t, 2)
	quiet.Image, quiet.Tags = "", nil
	quiet.Trigger = "quiet"
	quiet.BuildID = quiet.DeriveBuildID()
	w.store(t, quiet)
	f, err := New(Config{Ledger: w, Publish: w.publish, Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	if got := mustFinish(t, f, quiet.BuildID, events.Result{Outcome: events.OutcomeSuccess, Digest: digest(3)}); got.Outcome != events.OutcomeSuccess {
		t.Errorf("%+v", got)
	}
	if _, err := f.Finish(t.Context(), pushes.BuildID, w.success(1)); err == nil {
		t.Error("finished without verification")
	}
	if got := mustFinish(t, f, pushes.BuildID, lost()); got.Outcome != events.OutcomeError {
		t.Errorf("%+v", got)
	}
}

func TestUnknownBuild(t *testing.T) {
	w := newWorld()
	for _, id := range []string{events.BuildID("nothing"), "../../etc/passwd", ""} {
		if _, err := w.finisher(t).Finish(t.Context(), id, lost()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// The event tells the attempt of the last launch.
func TestAttemptOfLastLaunch(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	_, version, err := w.Get(t.Context(), record.OpenKey(req))
	if err != nil {
		t.Fatal(err)
	}
	again := req
	again.Attempt = 3
	data, err := record.Encode(record.Open{Request: again})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Swap(t.Context(), record.OpenKey(req), version, data); err != nil {
		t.Fatal(err)
	}
	mustFinish(t, w.finisher(t), req.BuildID, lost())
	var fin events.Finished
	if err := w.published[0].DataAs(&fin); err != nil || fin.Build.Attempt != 3 {
		t.Errorf("attempt %d, %v", fin.Build.Attempt, err)
	}
}

// The finisher dies before or after each thing it does to the world; another,
// which knows nothing and takes the executor for lost, finishes. However often
// and wherever that happens, there is one outcome, one event id, and the tags
// are where they belong.
func TestCrashAnywhere(t *testing.T) {
	died := errors.New("died here")
	for crash := 0; ; crash++ {
		w := newWorld()
		req := w.request(t, 1)
		n, where := 0, ""
		w.Fault = func(step string) error {
			if n++; n-1 == crash {
				where = step
				return died
			}
			return nil
		}
		res := w.success(1)
		if _, err := w.finisher(t).Finish(t.Context(), req.BuildID, res); err == nil {
			if crash < 10 {
				t.Errorf("only %d steps were tried", crash)
			}
			return // there are no more steps to die at
		} else if !errors.Is(err, died) {
			t.Fatalf("died %s: %v", where, err)
		}
		claimed := w.exists(t, record.ResultKey(req.BuildID))
		w.Fault = nil
		got := mustFinish(t, w.finisher(t), req.BuildID, lost())
		again := mustFinish(t, w.finisher(t), req.BuildID, w.success(7))
		want := events.OutcomeError
		if claimed {
			want = events.OutcomeSuccess
		}
		if got.Outcome != want || again.Outcome != want {
			t.Errorf("died %s: outcome %s, then %s, want %s", where, got.Outcome, again.Outcome, want)
		}
		w.checkOnce(t, where, req, want)
	}
}

// checkOnce checks that the world shows one outcome.
func (w *world) checkOnce(t *testing.T, where string, req events.Request, want events.Outcome) {
	t.Helper()
	ids := map[string]bool{}
	for _, e := range w.published {
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		ids[string(raw)] = true
		if e.ID() != req.BuildID+".finished" || e.Extensions()["outcome"] != string(want) {
			t.Errorf("died %s: published %s", where, e)
		}
	}
	if len(ids) != 1 || len(w.published) > 2 {
		t.Errorf("died %s: %d different of %d events", where, len(ids), len(w.published))
	}
	wantTag := digest(1)
	if want != events.OutcomeSuccess {
		wantTag = ""
	}
	if w.tags["main"] != wantTag || w.tags["latest"] != wantTag {
		t.Errorf("died %s: tags %v", where, w.tags)
	}
	if w.exists(t, record.OpenKey(req)) || !w.exists(t, record.EmittedKey(req.BuildID)) {
		t.Errorf("died %s: the build is still open", where)
	}
}

// Many finish the same build at once, with different results: one counts for
// all of them.
func TestConcurrentFinish(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	var wg sync.WaitGroup
	outcomes := make([]events.Result, 20)
	for i := range outcomes {
		res := lost()
		if i%2 == 0 {
			res = w.success(i)
		}
		f := w.finisher(t) // each as in its own process
		wg.Go(func() {
			got, err := f.Finish(t.Context(), req.BuildID, res)
			if err != nil {
				t.Error(err)
			}
			outcomes[i] = got
		})
	}
	wg.Wait()
	for _, got := range outcomes {
		if got.Outcome != outcomes[0].Outcome || got.Digest != outcomes[0].Digest {
			t.Fatalf("two outcomes: %+v and %+v", got, outcomes[0])
		}
	}
	for _, e := range w.published {
		if e.Extensions()["outcome"] != string(outcomes[0].Outcome) {
			t.Errorf("published %s", e)
		}
	}
	if w.tags["main"] != outcomes[0].Digest {
		t.Errorf("tags %v, outcome %s", w.tags, outcomes[0].Digest)
	}
}
