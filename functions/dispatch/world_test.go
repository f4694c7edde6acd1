package dispatch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/gitlab"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/finish"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/ledger/ledgertest"
)

const kilnYAML = `
name: app
tenant: acme
on: [{git: {repo: h/r}}, {object: {bucket: gs://b}}]
push: {image: reg.io/app, tags: ["{{ .Ref.Slug | default .Object.Stem }}"]}
`

// world is what a Dispatcher stands on, made of fakes around a real ledger. Everything that
// is done to the world is a step that may fail.
type world struct {
	ledgertest.Faulty
	mu sync.Mutex

	running   map[string]events.Request // exist with the launcher
	pending   map[string]bool           // of those, the ones that have not begun
	launches  []string                  // build id of every real launch
	attempts  []int                     // their attempts
	cancelled []string
	published map[string]event.Event // by id, as the bus keeps them
	digests   map[string]bool
	tags      map[string]string
	indexes   map[string]int    // how often each index was pushed
	remote    map[string]string // ref to id; nil: nobody can ask
	now       time.Time
}

func newWorld(l Ledger) *world {
	return &world{
		Faulty: ledgertest.Faulty{Store: l}, running: map[string]events.Request{}, pending: map[string]bool{}, published: map[string]event.Event{},
		digests: map[string]bool{}, tags: map[string]string{}, indexes: map[string]int{}, now: at(1000),
	}
}

func (w *world) publish(_ context.Context, e event.Event) error {
	return w.Step("publish "+e.Type(), func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, ok := w.published[e.ID()]; !ok {
			w.published[e.ID()] = e
		}
		return nil
	})
}

// Launch is a Launcher.
func (w *world) Launch(_ context.Context, req events.Request) error {
	return w.Step("launch", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, ok := w.running[req.BuildID]; ok {
			return fmt.Errorf("job: %w", ErrExists)
		}
		w.running[req.BuildID] = req
		w.launches = append(w.launches, req.BuildID)
		w.attempts = append(w.attempts, req.Attempt)
		return nil
	})
}

func (w *world) Cancel(_ context.Context, buildID string) error {
	return w.Step("cancel", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, ok := w.running[buildID]; ok {
			delete(w.running, buildID)
			w.cancelled = append(w.cancelled, buildID)
		}
		return nil
	})
}

// State makes the world a Prober.
func (w *world) State(_ context.Context, buildID string) (State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch _, ok := w.running[buildID]; {
	case !ok:
		return StateNone, nil
	case w.pending[buildID]:
		return StatePending, nil
	}
	return StateRunning, nil
}

func (w *world) resolve(_ context.Context, c events.Change) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.remote == nil {
		return "", errors.New("could not read from remote repository")
	}
	return w.remote[c.Name], nil
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) sleep(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// pushIndex is a registry's: what is there is not pushed again.
func (w *world) pushIndex(_ context.Context, _ string, platforms []events.PlatformInfo) (digest, mediaType string, err error) {
	digest = fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Append(nil, platforms)))
	err = w.Step("push index", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.digests[digest] {
			w.digests[digest] = true
			w.indexes[digest]++
		}
		return nil
	})
	return digest, "application/vnd.oci.image.index.v1+json", err
}

func (w *world) finisher(t testing.TB) *finish.Finisher {
	t.Helper()
	f, err := finish.New(finish.Config{
		Ledger: w, Publish: w.publish, Now: w.clock,
		CheckDigest: func(_ context.Context, _, digest string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !w.digests[digest] {
				return fs.ErrNotExist
			}
			return nil
		},
		PushIndex: w.pushIndex, Stop: w.Cancel,
		MoveTags: func(_ context.Context, _, digest string, tags []string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, tag := range tags {
				w.tags[tag] = digest
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (w *world) dispatcher(t testing.TB, edit ...func(*Config)) *Dispatcher {
	t.Helper()
	cfg := Config{
		Ledger: w, Triggers: triggers(t, kilnYAML), Launcher: w, Publish: w.publish, Install: "test",
		ResolveRef: w.resolve, Finisher: w.finisher(t), Now: w.clock, GitHubSecrets: [][]byte{[]byte("s3cr3t")},
		GitLabSecrets: gitlab.Secrets{Tokens: []string{"s3cr3t"}}, Bitbucket: bitbucket.Config{Secrets: [][]byte{[]byte("s3cr3t")}}, GiteaSecrets: [][]byte{[]byte("s3cr3t")},
	}
	for _, f := range edit {
		f(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func triggers(t testing.TB, yaml string) trigger.Set {
	t.Helper()
	set, err := trigger.Parse("kiln.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// succeed is what an executor and its launcher do when a build is done.
func (w *world) succeed(t testing.TB, buildID string) events.Result {
	t.Helper()
	digest := fmt.Sprintf("sha256:%064x", buildID[:16])
	w.mu.Lock()
	w.digests[digest] = true
	w.mu.Unlock()
	res, err := w.finisher(t).Finish(t.Context(), buildID, events.Result{Outcome: events.OutcomeSuccess, Digest: digest})
	if err != nil {
		t.Fatal(err)
	}
	w.lose(buildID)
	return res
}

// lose makes the launcher forget a build, as a restart does.
func (w *world) lose(buildID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, buildID)
}

// outcome is how a build ended, empty if it did not.
func (w *world) outcome(t testing.TB, buildID string) (events.Outcome, events.Class) {
	t.Helper()
	var claim record.Claim
	_, err := record.Load(t.Context(), w, record.ResultKey(buildID), &claim)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return claim.Outcome, claim.Class
}

// keys lists the ledger.
func (w *world) keys(t testing.TB, prefix string) []string {
	t.Helper()
	keys, err := w.List(t.Context(), prefix, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// types are the types of all events published about a build, sorted.
func (w *world) types(buildID string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var types []string
	for _, e := range w.published {
		if e.Extensions()["buildid"] == buildID {
			types = append(types, e.Type())
		}
	}
	slices.Sort(types)
	return types
}

// rejections are the rejected events published.
func (w *world) rejections() []event.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []event.Event
	for _, key := range slices.Sorted(maps.Keys(w.published)) {
		if e := w.published[key]; e.Type() == events.TypeTriggerRejected {
			list = append(list, e)
		}
	}
	return list
}

func handle(t testing.TB, d *Dispatcher, c events.Change) Decision {
	t.Helper()
	decisions, err := d.Handle(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(decisions) != 1 {
		t.Fatalf("decisions %+v", decisions)
	}
	return decisions[0]
}

func openDir(t testing.TB, dir string) *ledger.Dir {
	t.Helper()
	l, err := ledger.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
