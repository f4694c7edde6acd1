// Package launch runs builds as child processes on this machine: a bounded
// number at a time, the others waiting in a queue that is fair between tenants
// and survives a restart.
//
// Each build has a directory: log.ndjson holds what the executor said, one
// events.Progress a line, result.json what it claims, outcome.json what became
// of it. A build that was handed over and has not ended also has a file in
// live/. An executor dies with the stack, whatever kills the stack.
package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/fair"
)

const (
	logName     = "log.ndjson"
	resultName  = "result.json"
	outcomeName = "outcome.json"
	workName    = "work"
	liveName    = "live"
)

// Config says how to run executors. Dir, Executor, Now and Finish are required.
type Config struct {
	Dir             string         // of the builds
	Executor        []string       // the command: a path and first arguments
	Env             []string       // the executor's whole environment beside HOME and TMPDIR
	Parallel        int            // builds at a time; 0 is 2
	Capacity        fair.Resources // of this machine, for builds that say what they need; zero counts nothing
	MaxQueued       int            // builds that wait at most; 0 is fair.DefaultMax
	MaxTenantQueued int            // of one tenant; 0 is fair.DefaultTenantMax
	Timeout         time.Duration  // of a build whose request has none; 0 is one hour
	Grace           time.Duration  // from SIGTERM to SIGKILL; 0 is 20 seconds
	Store           string         // directory that the builds share; "" is none
	MaxLog          int64          // bytes of output kept of one build; 0 is 64 MiB
	Attempts        int            // how often a build is started at most when the stack dies under it; 0 is 3

	// Finish claims and announces the result of a build. It is tried again
	// until it succeeds or its error wraps fs.ErrNotExist.
	Finish func(ctx context.Context, buildID string, res events.Result) (events.Result, error)
	// Started announces that an executor runs; nil announces nothing.
	Started func(ctx context.Context, req events.Request, at time.Time) error
	// Context is where the executor gets the files now, and what its environment
	// needs for that; nil takes the request's.
	Context func(ctx context.Context, req events.Request) (from string, env []string, err error)
	// Flags are further flags for the executor. It may take its time, as when a
	// base image must be made first; say tells the build's log. nil adds none.
	Flags func(ctx context.Context, req events.Request, say func(text string)) ([]string, error)

	Now func() time.Time
	Log *slog.Logger // nil discards
}

// State is where a build stands.
type State string

// The states of a build that was handed over.
const (
	Queued    State = "queued"
	Running   State = "running"
	Finishing State = "finishing" // the executor has ended; its outcome is being announced
)

// Status describes a build that has not ended.
type Status struct {
	State    State     `json:"state"`
	Position int       `json:"position,omitempty"` // in the queue, from 1
	Attempt  int       `json:"attempt"`
	Since    time.Time `json:"since"` // when it entered the state
}

// build is one build that has not ended. Its fields are guarded by the
// Launcher's lock once it is known there, except Request, which never changes.
type build struct {
	live
	changed   chan struct{} // closed and replaced whenever log or state change
	whole     *whole        // that this is a part of; nil: of none
	stop      func(error)   // ends the running executor; nil if none runs
	cancelled bool
}

// Launcher runs executors. Its methods may be called concurrently.
type Launcher struct {
	cfg  Config
	wake chan struct{} // tells Run that there may be something to start
	oom  func() uint64

	mu     sync.Mutex
	queue  *fair.Queue
	builds map[string]*build // by id: queued, running, finishing
	last   int64             // order of the newest build in the queue
}

// errCancelled is why an executor is stopped when its build was cancelled.
var errCancelled = errors.New("the build was cancelled")

// Open takes up the directory where the last Launcher left it: builds that
// waited wait again in their order, outcomes that were not announced will be,
// and what is left of executors that died with the stack is killed and removed.
// Builds that ran then are not started again by themselves: a sweep hands them
// over once more, as another attempt.
func Open(cfg Config) (*Launcher, error) {
	if cfg.Dir == "" || len(cfg.Executor) == 0 || cfg.Now == nil || cfg.Finish == nil {
		return nil, errors.New("open launcher: Dir, Executor, Now and Finish are required")
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 2
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Hour
	}
	if cfg.Grace <= 0 {
		cfg.Grace = 20 * time.Second
	}
	if cfg.MaxLog <= 0 {
		cfg.MaxLog = 64 << 20
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = 3
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var err error
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open launcher: %w", err)
	}
	l := &Launcher{cfg: cfg, wake: make(chan struct{}, 1), oom: oomKills, builds: map[string]*build{}}
	l.queue = fair.New(fair.Config{
		Parallel: cfg.Parallel, Max: cfg.MaxQueued, TenantMax: cfg.MaxTenantQueued, Capacity: cfg.Capacity,
	})
	if err := os.MkdirAll(l.path(liveName), 0o700); err != nil {
		return nil, fmt.Errorf("open launcher: %w", err)
	}
	return l, l.recover()
}

func (l *Launcher) path(parts ...string) string {
	return filepath.Join(append([]string{l.cfg.Dir}, parts...)...)
}

// Launch hands over a build. Once it returned nil, the build will be started,
// also after a restart. The error wraps fs.ErrExist if the build waits, runs or
// has ended: launching twice is launching once. A request whose attempt is
// higher than the one that has ended here starts another. The error wraps
// fair.ErrFull if too many wait. A build that needs more than this machine has
// ends at once.
func (l *Launcher) Launch(_ context.Context, req events.Request) error {
	if err := req.Runnable(); err != nil {
		return fmt.Errorf("launch build: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.builds[req.BuildID]; b != nil {
		return fmt.Errorf("launch build %s: it is %s: %w", req.BuildID, b.State, fs.ErrExist)
	}
	if past, err := l.readOutcome(req.BuildID); err == nil && past.Attempt >= req.Attempt {
		return fmt.Errorf("launch build %s: it has ended: %w", req.BuildID, fs.ErrExist)
	}
	now := l.cfg.Now().UTC()
	l.last = max(l.last+1, now.UnixNano())
	b := l.newBuild(live{Request: req, State: Queued, Since: now, Order: l.last})
	err := l.queue.Push(itemOf(b))
	switch {
	case errors.Is(err, fair.ErrTooLarge):
		b.State = Finishing
		b.Outcome = &events.Result{
			Outcome: events.OutcomeError, Class: events.ClassPolicy, Reason: "not enough resources", FinishedAt: now,
			Message: "the build asks in run.resources for more than this machine has: lower it, or build on a larger one",
		}
	case err != nil:
		return fmt.Errorf("launch build %s: %w", req.BuildID, err)
	}
	if err = os.MkdirAll(l.path(req.BuildID), 0o700); err == nil {
		err = l.save(b)
	}
	if err != nil {
		l.queue.Remove(req.BuildID)
		return fmt.Errorf("launch build %s: %w", req.BuildID, err)
	}
	l.builds[req.BuildID] = b
	l.poke()
	return nil
}

// itemOf is what the queue must know of a build.
func itemOf(b *build) fair.Item {
	req := b.Request
	rank := slices.Index(events.Priorities(), req.Priority)
	if rank < 0 {
		rank = slices.Index(events.Priorities(), events.PriorityPush)
	}
	return fair.Item{
		ID: req.BuildID, Tenant: req.Tenant, Group: req.Group, Alone: req.Supersede == events.SupersedeQueue, Rank: rank, Since: b.Since,
		Need: fair.Resources{CPUMillis: req.Resources.CPUMillis, Memory: req.Resources.Memory, Disk: req.Resources.Disk},
	}
}

// Cancel stops a build: one that waits never starts, one that runs gets
// SIGTERM and, after the grace, SIGKILL with all its process group. It does
// not wait for that. A build that is not here is no error.
func (l *Launcher) Cancel(_ context.Context, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.builds[id]
	if b == nil {
		return nil
	}
	b.cancelled = true
	switch {
	case b.stop != nil:
		b.stop(errCancelled)
	case b.State == Queued && l.queue.Remove(id):
		now := l.cfg.Now().UTC()
		b.Outcome = &events.Result{
			Outcome: events.OutcomeCancelled, Reason: "cancelled",
			Message: "the build was cancelled before it started", FinishedAt: now,
		}
		b.State, b.Since = Finishing, now
		b.tell()
		l.poke()
		return l.save(b)
	}
	return nil
}

// Status says where a build stands; false if it is not here or has ended. One for
// several platforms stands where the part does that is furthest from its end, but
// runs as soon as one runs.
func (l *Launcher) Status(id string) (Status, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.builds[id]
	for _, part := range l.partsOf(id) {
		if b == nil || part.State == Running || part.State == Queued && b.State == Finishing {
			b = part
		}
	}
	if b == nil {
		return Status{}, false
	}
	st := Status{State: b.State, Attempt: b.Request.Attempt, Since: b.Since}
	if b.State == Queued {
		st.Position = 1
		for _, other := range l.builds {
			if other.State == Queued && other.Order < b.Order {
				st.Position++
			}
		}
	}
	return st, true
}

// Idle reports whether nothing waits, runs or is about to be announced.
func (l *Launcher) Idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.builds) == 0
}

// poke makes Run look again. It never blocks.
func (l *Launcher) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// watch reports whether a build is live and returns a channel that is closed
// when its log or its state changes.
func (l *Launcher) watch(id string) (live bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.builds[id]; b != nil {
		return true, b.changed
	}
	if parts := l.partsOf(id); len(parts) > 0 {
		return true, parts[0].whole.changed
	}
	return false, nil
}

// tell wakes those who watch the build. The caller holds the Launcher's lock.
func (b *build) tell() {
	close(b.changed)
	b.changed = make(chan struct{})
	if b.whole != nil {
		close(b.whole.changed)
		b.whole.changed = make(chan struct{})
	}
}

// Run starts what waits until ctx is done, and then stops what runs and waits
// for it. Builds stopped so are lost, not finished: the next Open leaves them
// for a sweep to launch again.
func (l *Launcher) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		for _, b := range l.toFinish() {
			wg.Go(func() { l.finish(ctx, b) })
		}
		for b := l.next(); b != nil; b = l.next() {
			wg.Go(func() { l.run(ctx, b) })
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// next takes the next build to start; nil if none may be started now.
func (l *Launcher) next() *build {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.cfg.Now().UTC()
	item, ok := l.queue.Start(now)
	if !ok {
		return nil
	}
	b := l.builds[item.ID]
	b.State, b.Since = Running, now
	b.tell()
	return b
}

// toFinish takes the builds whose outcome is known and that nobody announces.
func (l *Launcher) toFinish() []*build {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []*build
	for _, b := range l.builds {
		if b.State == Finishing && !b.announcing {
			b.announcing = true
			found = append(found, b)
		}
	}
	return found
}

// Load counts the builds that wait and those that run.
func (l *Launcher) Load() (queued, running int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.builds {
		switch b.State {
		case Queued:
			queued++
		case Running:
			running++
		}
	}
	return queued, running
}
