package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// summary is what lists and trends show of a build. A build whose Outcome is empty
// has not ended.
type summary struct {
	ID, Tenant, Trigger       string
	Kind, Location, Name, Rev string // of the change
	Image                     string // repository
	Outcome                   events.Outcome
	Reason, Digest            string
	Size                      int64 // bytes, compressed
	Hits, Misses              int   // of the cache
	Requested, Started, Ended time.Time

	search string // lower case
}

// Finished reports whether the build has its outcome.
func (s *summary) Finished() bool { return s.Outcome != "" }

// Took is how long the build ran; 0 if it did not, or still does.
func (s *summary) Took() time.Duration {
	if s.Started.IsZero() || s.Ended.Before(s.Started) {
		return 0
	}
	return s.Ended.Sub(s.Started)
}

// entry is a build in the index.
type entry struct {
	key string // in the ledger's index
	id  string
	sum *summary // nil until it was read
	seq uint64   // of the note that made it known, if one did
}

// index knows all builds of a ledger, newest first, so that a list need not read
// them. It is read from the ledger once and kept up to date by note.
type index struct {
	ledger Ledger
	log    func(msg string, args ...any)

	mu       sync.RWMutex
	entries  []*entry // by key: newest first
	byID     map[string]*entry
	triggers map[string]bool
	seq      uint64       // of the last note
	unread   atomic.Int64 // entries without a summary
	listed   atomic.Bool  // the ledger was listed once
}

func newIndex(l Ledger, log func(string, ...any)) *index {
	return &index{ledger: l, log: log, byID: map[string]*entry{}, triggers: map[string]bool{}}
}

// readers is how many builds are read from the ledger at once.
const readers = 8

// refresh lists the ledger and reads what is new there, newest first, and what had
// not ended.
func (x *index) refresh(ctx context.Context) error {
	todo, err := x.list(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, e := range todo {
		group.Go(func() error { return x.read(ctx, e) })
	}
	return group.Wait()
}

// list lists the ledger, and returns what is to be read of it.
func (x *index) list(ctx context.Context) (todo []*entry, err error) {
	x.mu.RLock()
	seq := x.seq
	x.mu.RUnlock()
	keys, err := x.ledger.List(ctx, record.IndexPrefix, "", 0)
	if err != nil {
		return nil, fmt.Errorf("list builds: %w", err)
	}
	todo = x.merge(keys, seq)
	x.listed.Store(true)
	return todo, nil
}

// merge takes over what the ledger had after the note seq. What was noted since may
// not be among it.
func (x *index) merge(keys []string, seq uint64) (todo []*entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.entries {
		if e.seq > seq {
			if at, there := slices.BinarySearch(keys, e.key); !there {
				keys = slices.Insert(keys, at, e.key)
			}
		}
	}
	known := make(map[string]*entry, len(x.entries))
	for _, e := range x.entries {
		known[e.key] = e
	}
	entries := make([]*entry, 0, len(keys))
	byID := make(map[string]*entry, len(keys))
	var unread int64
	for _, key := range keys {
		e := known[key]
		if e == nil {
			e = &entry{key: key, id: record.IndexBuildID(key)}
		}
		if e.sum == nil {
			unread++
		}
		if e.sum == nil || !e.sum.Finished() {
			todo = append(todo, e)
		}
		entries = append(entries, e)
		byID[e.id] = e
	}
	x.entries, x.byID = entries, byID
	x.unread.Store(unread)
	return todo
}

// read reads a build from the ledger. One that is not requested yet, or not any
// more, stays without a summary.
func (x *index) read(ctx context.Context, e *entry) error {
	s, err := loadSummary(ctx, x.ledger, e.id)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			x.log("read a build for the page", "build", e.id, "err", err)
		}
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.put(e, s)
	return nil
}

// put sets the summary of an entry. The caller holds mu.
func (x *index) put(e *entry, s *summary) {
	if e.sum == nil {
		x.unread.Add(-1)
	} else if s.Started.IsZero() {
		s.Started = e.sum.Started // of an event; the ledger has it with the outcome
	}
	e.sum = s
	x.triggers[s.Trigger] = true
}

func loadSummary(ctx context.Context, l Ledger, id string) (*summary, error) {
	var req events.Request
	if _, err := record.Load(ctx, l, record.RequestKey(id), &req); err != nil {
		return nil, err
	}
	var claim record.Claim
	if _, err := record.Load(ctx, l, record.ResultKey(id), &claim); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return summarise(req, claim.Result), nil
}

func summarise(req events.Request, res events.Result) *summary {
	c := req.Change
	one := func(text string) string { return unique.Make(text).Value() } // many builds have the same
	s := &summary{
		ID: req.BuildID, Tenant: one(req.Tenant), Trigger: one(req.Trigger), Kind: one(c.Kind), Location: one(c.Location), Name: one(c.Name),
		Rev: cmp.Or(c.Revision(), c.Generation), Image: one(req.Image), Requested: req.RequestedAt,
		Outcome: events.Outcome(one(string(res.Outcome))), Reason: events.CleanText(cmp.Or(res.Message, res.Reason), events.MaxReason), Digest: res.Digest, Size: res.Size,
		Hits: res.Cache.Hits, Misses: res.Cache.Misses, Started: res.StartedAt, Ended: res.FinishedAt,
	}
	s.search = strings.ToLower(strings.Join([]string{s.ID, s.Trigger, s.Location, s.Name, s.Rev, s.Image, s.Digest, string(s.Outcome), s.Reason}, "\n"))
	return s
}

// note reads a build again of which something was told. started is when its
// executor started, if that is what was told.
func (x *index) note(ctx context.Context, id string, started time.Time) error {
	s, err := loadSummary(ctx, x.ledger, id)
	if err != nil {
		return err
	}
	if s.Started.IsZero() {
		s.Started = started
	}
	var req events.Request
	req.BuildID, req.RequestedAt = id, s.Requested
	key := record.IndexKey(req)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seq++
	e := x.byID[id]
	if e == nil {
		e = &entry{key: key, id: id, seq: x.seq}
		at := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].key >= key })
		x.entries = slices.Insert(x.entries, at, e)
		x.byID[id] = e
		x.unread.Add(1)
	}
	x.put(e, s)
	return nil
}
