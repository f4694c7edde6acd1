package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/gitremote"
	"github.com/kilnhook/kiln/infra/ledger"
)

// repos are Repositories of one repository.
type repos struct {
	refs    map[string]gitremote.Ref
	changed map[string][]string // by "from..to", in one digit each
	files   map[string]string   // by path
	err     error
	onRefs  func() // called before Refs answers
}

func (r *repos) Refs(context.Context, string) (map[string]gitremote.Ref, error) {
	if r.onRefs != nil {
		r.onRefs()
	}
	return r.refs, r.err
}

func (r *repos) Changed(_ context.Context, _, from, to string) ([]string, error) {
	files, ok := r.changed[from[:1]+".."+to[:1]]
	if !ok || r.err != nil {
		return nil, errors.Join(r.err, errors.New("unknown commits"))
	}
	return files, nil
}

func (r *repos) ReadFile(_ context.Context, _, _, path string, _ int) ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	if text, ok := r.files[path]; ok {
		return []byte(text), nil
	}
	return nil, fs.ErrNotExist
}

// with makes a dispatcher with other triggers and repositories.
func with(t testing.TB, w *world, yaml string, r *repos) *Dispatcher {
	t.Helper()
	return w.dispatcher(t, func(c *Config) {
		c.Triggers = triggers(t, yaml)
		if r != nil {
			c.Repositories = r
		}
	})
}

func head(c string) gitremote.Ref { return gitremote.Ref{Head: id(c)} }

func TestPathFilter(t *testing.T) {
	const yaml = "name: app\non: {git: {repo: h/r, paths: ['app/**']}}\npush: {image: reg.io/app}\n"
	w := newWorld(openDir(t, t.TempDir()))
	r := &repos{changed: map[string][]string{"a..b": {"README.md"}, "b..c": {"app/x", "README.md"}, "c..d": {}}}
	d := with(t, w, yaml, r)
	first := handle(t, d, ref(none, "a", 1))
	if first.Status != StatusNew {
		t.Errorf("the first push of a ref: %+v", first)
	}
	for range 2 { // and a redelivery
		if got := handle(t, d, ref("a", "b", 2)); got.Status != StatusIgnored || !strings.Contains(got.Reason, "app/**") {
			t.Errorf("no file of the filter: %+v", got)
		}
	}
	if outcome, _ := w.outcome(t, first.BuildID); outcome != "" {
		t.Errorf("what runs was ended by a push that is not built: %s", outcome)
	}
	second := handle(t, d, ref("b", "c", 3))
	if second.Status != StatusNew {
		t.Errorf("a file of the filter: %+v", second)
	}
	if got := handle(t, d, ref("c", "d", 4)); got.Status != StatusIgnored {
		t.Errorf("no file at all: %+v", got)
	}
	// What cannot be compared is built, unless the sender said which files.
	if got := handle(t, d, ref("d", "e", 5)); got.Status != StatusNew {
		t.Errorf("unknown difference: %+v", got)
	}
	told := ref("e", "f", 6)
	told.Files = []string{"docs/x"}
	if got := handle(t, d, told); got.Status != StatusIgnored {
		t.Errorf("the sender's files: %+v", got)
	}
	if n := len(w.launches); n != 3 {
		t.Errorf("%d launches", n)
	}
	var req events.Request
	if _, err := record.Load(t.Context(), w, record.RequestKey(second.BuildID), &req); err != nil || req.Sequence != 2 || req.Change.Files != nil {
		t.Errorf("request %+v, %v", req, err)
	}
}

func TestNarrowingFile(t *testing.T) {
	const yaml = "name: app\non: {git: {repo: h/r, narrowedBy: .kiln.yaml}}\npush: {image: reg.io/app, tags: [latest, x]}\nrun: {timeout: 30m}\n"
	w := newWorld(openDir(t, t.TempDir()))
	r := &repos{files: map[string]string{}}
	d := with(t, w, yaml, r)
	r.files[".kiln.yaml"] = "refs: [release/*]"
	if got := handle(t, d, ref(none, "a", 1)); got.Status != StatusIgnored {
		t.Errorf("narrowed away: %+v", got)
	}
	r.files[".kiln.yaml"] = "tags: [x]\ntimeout: 5m"
	got := handle(t, d, ref("a", "b", 2))
	var req events.Request
	if _, err := record.Load(t.Context(), w, record.RequestKey(got.BuildID), &req); err != nil || !slices.Equal(req.Tags, []string{"x"}) || req.Timeout != 5*time.Minute {
		t.Errorf("request %+v, %v", req, err)
	}
	// Widening is the build's own error, which its author sees.
	for i, text := range []string{"timeout: 2h", "image: evil.io/x"} {
		r.files[".kiln.yaml"] = text
		got := handle(t, d, ref(string("bcd"[i]), string("bcd"[i+1]), 3+i))
		if outcome, class := w.outcome(t, got.BuildID); outcome != events.OutcomeError || class != events.ClassConfig {
			t.Errorf("%s: %s/%s", text, outcome, class)
		}
	}
	// A repository that does not answer is asked again.
	r.err = errors.New("503")
	if _, err := d.Handle(t.Context(), ref("d", "e", 9)); err == nil {
		t.Error("a change was accepted without its narrowing file")
	}
}

// A webhook that was lost is found, once, and what was there before is not built.
func TestHeal(t *testing.T) {
	const yaml = "name: app\non: {git: {repo: h/r, heal: true, refs: [main, 'f/*']}}\npush: {image: reg.io/app}\n"
	w := newWorld(openDir(t, t.TempDir()))
	r := &repos{refs: map[string]gitremote.Ref{"refs/heads/main": head("a"), "refs/heads/f/old": head("1"), "refs/heads/other": head("2")}}
	d := with(t, w, yaml, r)
	sweep := func() {
		t.Helper()
		w.sleep(6 * time.Minute)
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if len(w.launches) != 0 {
		t.Fatalf("what was there before is built: %v", w.launches)
	}
	handle(t, d, ref(none, "a", 1)) // told
	r.refs["refs/heads/main"], r.refs["refs/heads/f/new"], r.refs["refs/heads/other"] = head("b"), head("3"), head("4")
	sweep()
	if len(w.launches) != 3 { // a, b and f/new
		t.Fatalf("launches %v", w.launches)
	}
	sweep()
	// The webhooks arrive after all, and again.
	for range 2 {
		if got := handle(t, d, ref("a", "b", 2)); got.Status != StatusDuplicate {
			t.Errorf("late webhook: %+v", got)
		}
	}
	if len(w.launches) != 3 {
		t.Errorf("launches %v", w.launches)
	}
	delete(r.refs, "refs/heads/main")
	sweep()
	var reg record.Register
	if _, err := record.Load(t.Context(), w, record.RegisterKey("default", "app", ref("a", "b", 1)), &reg); err != nil || reg.Head != "" {
		t.Errorf("a lost deletion was not found: %+v, %v", reg, err)
	}
}

// A webhook that is faster than the answer of the repository wins.
func TestHealRaces(t *testing.T) {
	const yaml = "name: app\non: {git: {repo: h/r, heal: true}}\npush: {image: reg.io/app}\n"
	w := newWorld(openDir(t, t.TempDir()))
	w.remote = map[string]string{"refs/heads/main": id("b")}
	r := &repos{refs: map[string]gitremote.Ref{"refs/heads/main": head("a")}}
	d := with(t, w, yaml, r)
	handle(t, d, ref(none, "a", 1))
	asked := 0
	r.onRefs = func() {
		if asked++; asked == 1 { // while the repository answers "a"
			handle(t, d, ref("a", "b", 2))
			return
		}
		r.refs = map[string]gitremote.Ref{"refs/heads/main": head("b")}
	}
	w.sleep(6 * time.Minute)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.launches) != 2 {
		t.Errorf("an old answer was built: %v", w.launches)
	}
}

func TestSchedule(t *testing.T) {
	const yaml = "name: app\non: [{git: {repo: h/r, refs: main}}, {schedule: '0 3 * * *'}]\npush: {image: reg.io/app}\n"
	w := newWorld(openDir(t, t.TempDir()))
	w.remote = map[string]string{"refs/heads/main": id("a")}
	d := with(t, w, yaml, nil)
	first := handle(t, d, ref(none, "a", 1))
	w.succeed(t, first.BuildID)
	sweep := func(sleep time.Duration) {
		t.Helper()
		w.sleep(sleep)
		for range 2 {
			if err := d.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweep(0)
	sweep(24 * time.Hour)
	if len(w.launches) != 2 {
		t.Fatalf("after a day: launches %v", w.launches)
	}
	second := w.launches[1]
	var req events.Request
	if _, err := record.Load(t.Context(), w, record.RequestKey(second), &req); err != nil ||
		req.Nonce != 1 || req.Sequence != 1 || req.Priority != events.PriorityScheduled || !strings.HasPrefix(req.Cause, "schedule 0 3 * * * at ") {
		t.Errorf("request %+v, %v", req, err)
	}
	w.succeed(t, second)
	// Days that passed unnoticed are one build, and a push nobody told of is found.
	w.remote["refs/heads/main"] = id("b")
	sweep(72 * time.Hour)
	if len(w.launches) != 3 {
		t.Fatalf("after three days: launches %v", w.launches)
	}
	if got := handle(t, d, ref("a", "b", 2)); got.Status != StatusDuplicate || got.BuildID != w.launches[2] {
		t.Errorf("the webhook of what the schedule found: %+v", got)
	}
}

func TestBaseImages(t *testing.T) {
	const yaml = `
- name: app
  on: [{git: {repo: h/r}}, {base: {images: auto, rate: 1/h}}]
  push: {image: reg.io/app, tags: [latest]}
- name: web
  on: [{git: {repo: h/r}}]
  push: {image: reg.io/web}
`
	w := newWorld(openDir(t, t.TempDir()))
	d := with(t, w, yaml, nil)
	digest := func(n int) string { return fmt.Sprintf("sha256:%064x", n) }
	succeed := func(buildID string, base int) {
		t.Helper()
		w.digests[digest(1000)] = true
		_, err := w.finisher(t).Finish(t.Context(), buildID, events.Result{
			Outcome: events.OutcomeSuccess, Digest: digest(1000),
			Bases: []events.BaseInfo{{Ref: "golang:1.26", Digest: digest(base)}, {Ref: "../etc", Digest: digest(base)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.lose(buildID)
	}
	decisions, err := d.Handle(t.Context(), ref(none, "a", 1))
	if err != nil || len(decisions) != 2 {
		t.Fatalf("%+v, %v", decisions, err)
	}
	for _, dec := range decisions {
		succeed(dec.BuildID, 1)
	}
	push := func(n int) []Decision {
		t.Helper()
		decisions, err := d.Handle(t.Context(), events.Change{Kind: events.KindImage, Location: "docker.io/library/golang", Name: "1.26", Generation: digest(n)})
		if err != nil {
			t.Fatal(err)
		}
		return decisions
	}
	if got := push(1); len(got) != 1 || got[0].Status != StatusIgnored {
		t.Errorf("the digest that it stands on: %+v", got)
	}
	rebuilt := push(2)
	if len(rebuilt) != 1 || rebuilt[0].Status != StatusNew || rebuilt[0].Trigger != "app" {
		t.Fatalf("a new base: %+v", rebuilt)
	}
	if again := push(2); len(again) != 1 || again[0].Status != StatusDuplicate && again[0].Status != StatusIgnored {
		t.Errorf("the same push again: %+v", again)
	}
	launches := len(w.launches)
	succeed(rebuilt[0].BuildID, 2)
	// A second within the hour waits its turn.
	if got := push(3); got[0].Status != StatusIgnored || !strings.Contains(got[0].Reason, "waits its turn") {
		t.Errorf("too soon: %+v", got)
	}
	sweep := func(sleep time.Duration) {
		t.Helper()
		w.sleep(sleep)
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sweep(time.Minute)
	if len(w.launches) != launches {
		t.Errorf("launches %v", w.launches)
	}
	sweep(2 * time.Hour)
	sweep(time.Minute)
	if len(w.launches) != launches+1 || len(w.keys(t, record.LaterPrefix)) != 0 {
		t.Errorf("launches %v, waiting %v", w.launches, w.keys(t, record.LaterPrefix))
	}
	for _, id := range w.launches {
		var req events.Request
		if _, err := record.Load(t.Context(), w, record.RequestKey(id), &req); err != nil || req.Nonce > 0 && req.Priority != events.PriorityRebuild {
			t.Errorf("request %+v, %v", req, err)
		}
	}
}

func TestRebuild(t *testing.T) {
	w := newWorld(openDir(t, t.TempDir()))
	d := w.dispatcher(t)
	a := handle(t, d, ref(none, "a", 1))
	w.succeed(t, a.BuildID)
	var ids []string
	for _, cause := range []string{"one", "one", "two"} {
		got, err := d.Rebuild(t.Context(), a.BuildID, cause)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, got.BuildID)
	}
	if ids[0] != ids[1] || ids[0] == ids[2] || ids[0] == a.BuildID || len(w.launches) != 3 {
		t.Errorf("builds %v, launches %v", ids, w.launches)
	}
	if outcome, _ := w.outcome(t, ids[0]); outcome != events.OutcomeCancelled {
		t.Errorf("an older repetition was not superseded: %q", outcome)
	}
	w.succeed(t, ids[2])
	if w.tags["main"] == "" {
		t.Error("a repetition moved no tag")
	}
	handle(t, d, ref("a", "b", 2))
	if _, err := d.Rebuild(t.Context(), a.BuildID, "three"); !errors.Is(err, ErrOutdated) {
		t.Errorf("a build of an old change: %v", err)
	}
	if _, err := d.Rebuild(t.Context(), strings.Repeat("0", 26), "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such build: %v", err)
	}
}

// A repetition survives a crash at every step of it.
func TestRebuildCrash(t *testing.T) {
	for at := 1; ; at++ {
		w := newWorld(openDir(t, t.TempDir()))
		d := w.dispatcher(t)
		a := handle(t, d, ref(none, "a", 1))
		w.succeed(t, a.BuildID)
		step := 0
		w.Fault = func(string) error {
			if step++; step == at {
				return errors.New("crash")
			}
			return nil
		}
		_, err := d.Rebuild(t.Context(), a.BuildID, "cause")
		w.Fault = nil
		if _, err := d.Rebuild(t.Context(), a.BuildID, "cause"); err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
		if len(w.launches) != 2 {
			t.Errorf("step %d: launches %v", at, w.launches)
		}
		if err == nil {
			if at < 8 {
				t.Errorf("only %d steps", at)
			}
			return
		}
	}
}

func TestPendingTimeout(t *testing.T) {
	w := newWorld(openDir(t, t.TempDir()))
	w.pending = map[string]bool{}
	d := with(t, w, "name: app\non: {git: {repo: h/r}}\npush: {image: reg.io/app}\nrun: {pendingTimeout: 10m}\n", nil)
	a := handle(t, d, ref(none, "a", 1))
	w.pending[a.BuildID] = true
	sweep := func(d2 time.Duration) {
		t.Helper()
		w.sleep(d2)
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sweep(9 * time.Minute)
	if outcome, _ := w.outcome(t, a.BuildID); outcome != "" {
		t.Fatalf("ended too soon: %s", outcome)
	}
	sweep(2 * time.Minute)
	if outcome, class := w.outcome(t, a.BuildID); outcome != events.OutcomeFailed || class != events.ClassInfraStart {
		t.Errorf("%s/%s", outcome, class)
	}
	if !slices.Contains(w.cancelled, a.BuildID) {
		t.Error("its executor was left waiting")
	}
}

// With everyGeneration late uploads are built too, and take no tag from later ones.
func TestEveryGeneration(t *testing.T) {
	w := newWorld(openDir(t, t.TempDir()))
	d := with(t, w, "name: app\non: {object: {bucket: gs://b, everyGeneration: true}}\npush: {image: reg.io/app, tags: [latest, '{{ .Generation }}']}\n", nil)
	newer := handle(t, d, object("20", 2))
	late := handle(t, d, object("10", 1))
	if late.Status != StatusNew || handle(t, d, object("10", 1)).BuildID != late.BuildID || len(w.launches) != 2 {
		t.Errorf("%+v, launches %v", late, w.launches)
	}
	latest := w.succeed(t, newer.BuildID).Digest
	old := w.succeed(t, late.BuildID).Digest
	if w.tags["latest"] != latest || w.tags["10"] != old {
		t.Errorf("tags %v", w.tags)
	}
}

// What a register names is never forgotten when the next change comes before
// its request was recorded.
func TestNextChangeAfterCrash(t *testing.T) {
	w := newWorld(&ledger.Mem{})
	d := with(t, w, "name: app\non: {git: {repo: h/r}}\npush: {image: reg.io/app}\nrun: {supersede: keep-all}\n", nil)
	w.Fault = func(step string) error {
		if strings.HasPrefix(step, "before create builds/") {
			return errors.New("crash")
		}
		return nil
	}
	if _, err := d.Handle(t.Context(), ref(none, "a", 1)); err == nil {
		t.Fatal("no crash")
	}
	w.Fault = nil
	handle(t, d, ref("a", "b", 2))
	w.sleep(time.Hour)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.launches) != 2 {
		t.Errorf("launches %v", w.launches)
	}
}
