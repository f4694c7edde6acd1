package retain_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/finish"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/functions/retain"
	"github.com/kilnhook/kiln/infra/ledger"
)

// TestRetain proves, on every ledger, that logs and records of builds that ended long
// enough ago go, with all that is kept of them, and that nothing goes of a build that
// runs, of the newest of an object, or of what is of no build.
func TestRetain(t *testing.T) {
	for name, open := range ledgers() {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, l: open(t)}
			ancient := w.build("a", 51*day, 50*day)
			newest := w.build("a", 46*day, 45*day)
			platforms := w.build("p", 51*day, 50*day, "linux/amd64", "linux/arm64")
			w.build("p", day, day)
			middle := w.build("m", 21*day, 20*day, "linux/amd64", "linux/arm64")
			recent := w.build("r", 4*day, 3*day)
			running := w.build("run", 60*day, -1)
			parts := w.build("runs", 60*day, -1, "linux/amd64", "linux/arm64")
			late := w.build("late", 60*day, 2*time.Hour)
			w.build("late", day, -1)
			half := w.build("half", 51*day, 50*day)
			check(t, w.l.Delete(t.Context(), record.RequestKey(half.BuildID)))
			stays := []string{
				record.RegisterKey("acme", "app", ancient.Change), record.RegisterKey("acme", "app", running.Change), record.OpenKey(running),
				record.TagKey("r.io/app", "latest"), record.RateKey("acme", "app"), record.TimesKey("acme", "app", "@daily", "", ""), record.OutcomeKey(ancient),
				record.PoisonKey(record.Poison{At: now.Add(-39 * day)}), record.RefusedPrefix + "young.json",
			}
			goes := []string{record.PoisonKey(record.Poison{At: now.Add(-42 * day)}), record.RefusedPrefix + "old.json"}
			for i, key := range slices.Concat(stays[3:], goes) {
				w.put(key, map[string]any{"at": now.Add(-41 * day), "answer": i})
			}
			w.put(record.RefusedPrefix+"young.json", map[string]any{"at": now.Add(-39 * day)})
			rules := retain.Rules{Age: 40 * day, Logs: 7 * day}
			for range 2 {
				w.retain(rules, now)
				w.is("ancient", ancient, "nothing")
				w.is("newest", newest, "no log")
				w.is("platforms", platforms, "nothing")
				w.is("middle", middle, "no log")
				w.is("recent", recent, "all")
				w.is("running", running, "all")
				w.is("running parts", parts, "all")
				w.is("late", late, "all")
				if w.has(record.IndexKey(half)) {
					t.Error("a build that was half removed is in the list")
				}
				for _, key := range stays {
					if !w.has(key) {
						t.Errorf("%s is gone", key)
					}
				}
				for _, key := range goes {
					if w.has(key) {
						t.Errorf("%s is there", key)
					}
				}
			}
			w.retain(rules, now.Add(8*day))
			w.is("late", late, "no log")
			w.is("recent", recent, "no log")
			w.is("running", running, "all")
			w.retain(rules, now.Add(41*day))
			w.is("late", late, "nothing")
			w.is("newest", newest, "no log")
		})
	}
}

// TestBuilds proves that so many builds stay, the newest, and that the records of the
// others stay as long as they may be asked for.
func TestBuilds(t *testing.T) {
	w := &world{t: t, l: &ledger.Mem{}}
	var builds []events.Request
	for i := range 700 { // more than a page
		days := time.Duration(700-i) * day / 20
		builds = append(builds, w.build("one", days+time.Hour, days))
	}
	w.retain(retain.Rules{Builds: 520}, now)
	for i, req := range builds {
		switch age := time.Duration(700-i) * day / 20; {
		case i >= 180:
			w.is(fmt.Sprint(i), req, "all")
		case age > retain.Window:
			w.is(fmt.Sprint(i), req, "nothing")
		default:
			w.is(fmt.Sprint(i), req, "no log")
		}
	}
	w.retain(retain.Rules{Builds: 10}, now)
	for i, req := range builds[350:] {
		want := "no log"
		if i >= 340 {
			want = "all"
		} else if time.Duration(350-i)*day/20 > retain.Window {
			want = "nothing"
		}
		w.is(fmt.Sprint(350+i), req, want)
	}
}

// TestNothingTwice proves that what was removed is not looked for again, by the same
// dispatcher or the next, and that what failed is.
func TestNothingTwice(t *testing.T) {
	w := &world{t: t, l: &ledger.Mem{}}
	for i := range 700 {
		w.build(fmt.Sprint(i), 41*day, 40*day)
	}
	l := &watched{Store: w.l}
	away := errors.New("the bucket is away")
	lists := 0
	l.fail = func(op, _ string) error {
		if op == "list" {
			if lists++; lists == 2 {
				return away
			}
		}
		return nil
	}
	rules := retain.Rules{Logs: 30 * day}
	keeper := func() *retain.Keeper {
		k, err := retain.New(retain.Config{Ledger: l, Rules: rules, Now: func() time.Time { return now }})
		check(t, err)
		return k
	}
	k := keeper()
	if err := k.Retain(t.Context()); !errors.Is(err, away) || l.deletes != 500 {
		t.Errorf("%v, %d deleted", err, l.deletes)
	}
	l.fail = func(op, key string) error {
		if op == "delete" && strings.HasSuffix(key, "/log.gz") && l.deletes%100 == 0 {
			return away
		}
		return nil
	}
	if err := k.Retain(t.Context()); !errors.Is(err, away) {
		t.Error(err)
	}
	l.fail = nil
	check(t, k.Retain(t.Context()))
	if keys, err := l.List(t.Context(), record.BuildsPrefix, "", 0); err != nil || strings.Contains(strings.Join(keys, " "), "log.gz") {
		t.Errorf("%v, %d keys", err, len(keys))
	}
	for _, k := range []*retain.Keeper{k, keeper()} {
		l.gets, l.deletes = 0, 0
		check(t, k.Retain(t.Context()))
		if l.gets > 1 || l.deletes > 0 {
			t.Errorf("%d read, %d deleted again", l.gets, l.deletes)
		}
	}
	// All of them are the newest of something: that is found out once a day.
	rules = retain.Rules{Age: 35 * day}
	k = keeper()
	check(t, k.Retain(t.Context()))
	l.gets = 0
	check(t, k.Retain(t.Context()))
	if l.gets > 1 {
		t.Errorf("%d read again", l.gets)
	}
}

// TestForget proves that what is kept of a build elsewhere goes with its log, before it,
// and that the log stays if that fails.
func TestForget(t *testing.T) {
	w := &world{t: t, l: &ledger.Mem{}}
	req := w.build("a", 40*day, 40*day, "linux/amd64", "linux/arm64")
	var asked []string
	forget := errors.New("it is in use")
	k, err := retain.New(retain.Config{Ledger: w.l, Rules: retain.Rules{Age: 32 * day}, Now: func() time.Time { return now }, Forget: func(id string) error {
		asked = append(asked, id)
		return forget
	}})
	check(t, err)
	if err := k.Retain(t.Context()); !errors.Is(err, forget) {
		t.Error(err)
	}
	w.is("in use", req, "all")
	forget, asked = nil, nil
	check(t, k.Retain(t.Context()))
	w.is("not in use", req, "no log")
	if want := []string{req.Parts()[0].BuildID, req.Parts()[1].BuildID, req.BuildID}; !slices.Equal(asked, want) {
		t.Errorf("asked to forget %v, want %v", asked, want)
	}
}

// launcher notes what it is to launch.
type launcher struct{ launched []string }

func (l *launcher) Launch(_ context.Context, req events.Request) error {
	l.launched = append(l.launched, req.BuildID)
	return nil
}

func (l *launcher) Cancel(context.Context, string) error { return nil }

// TestRedelivery proves that no change is built again that a queue may deliver again,
// whatever the rules: not the last of an object, ever, and not one before, of an object
// each of whose generations is built, for as long as queues are patient.
func TestRedelivery(t *testing.T) {
	store, launches, clock := &ledger.Mem{}, &launcher{}, now
	publish := func(context.Context, event.Event) error { return nil }
	finisher, err := finish.New(finish.Config{Ledger: store, Publish: publish, Now: func() time.Time { return clock }})
	check(t, err)
	triggers, err := trigger.Parse("kiln.yaml", []byte("name: app\non: {object: {bucket: s3://b, everyGeneration: true}}\npush: {image: r.io/app}\n"))
	check(t, err)
	d, err := dispatch.New(dispatch.Config{
		Ledger: store, Triggers: triggers, Launcher: launches, Publish: publish, Finisher: finisher, Now: func() time.Time { return clock },
	})
	check(t, err)
	change := func(order string) events.Change {
		return events.Change{Kind: events.KindObject, Location: "s3://b", Name: "o.tar", Generation: "g" + order, Order: order}
	}
	deliver := func(order string) dispatch.Status {
		t.Helper()
		decisions, err := d.Handle(t.Context(), change(order))
		if err != nil || len(decisions) != 1 {
			t.Fatalf("%v, %v", decisions, err)
		}
		return decisions[0].Status
	}
	for _, order := range []string{"1", "2", "3"} {
		deliver(order)
		_, err := finisher.Finish(t.Context(), launches.launched[len(launches.launched)-1], events.Result{Outcome: events.OutcomeSuccess, FinishedAt: clock})
		check(t, err)
	}
	w := &world{t: t, l: store}
	rules := retain.Rules{Age: time.Hour, Builds: 1}
	for range 10 {
		clock = clock.Add(74 * time.Hour)
		w.retain(rules, clock)
		for _, order := range []string{"1", "2", "3"} {
			deliver(order)
		}
	}
	if len(launches.launched) != 3 {
		t.Errorf("launched %v", launches.launched)
	}
	clock = clock.Add(2 * day)
	w.retain(rules, clock)
	if keys, err := store.List(t.Context(), record.IndexPrefix, "", 0); err != nil || len(keys) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
	if status := deliver("3"); status != dispatch.StatusDuplicate || len(launches.launched) != 3 {
		t.Errorf("%s, launched %v", status, launches.launched)
	}
}
