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

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// summary is what lists and trends show of a build. A build whose Outcome is empty
// has not ended.
type summary struct {
	ID, Tenant, Trigger, Group string
	Kind, Location, Name, Rev  string // of the change
	Image                      string // repository
	Outcome                    events.Outcome
	Reason, Digest             string
	Size                       int64 // bytes, compressed
	Hits, Misses               int   // of the cache
	Requested, Started, Ended  time.Time

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
	keys, err := x.ledger.List(ctx, record.IndexPrefix, "", 0)
	if err != nil {
		return fmt.Errorf("list builds: %w", err)
	}
	todo := x.merge(keys)
	x.listed.Store(true)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, e := range todo {
		group.Go(func() error { return x.read(ctx, e) })
	}
	return group.Wait()
}

// merge takes over what the ledger has, and returns what is to be read.
func (x *index) merge(keys []string) (todo []*entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
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
	s := &summary{
		ID: req.BuildID, Tenant: req.Tenant, Trigger: req.Trigger, Group: req.Group, Kind: c.Kind, Location: c.Location, Name: c.Name,
		Rev: cmp.Or(c.Revision(), c.Generation), Image: req.Image, Requested: req.RequestedAt,
		Outcome: res.Outcome, Reason: events.CleanText(cmp.Or(res.Message, res.Reason), events.MaxReason), Digest: res.Digest, Size: res.Size,
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
	e := x.byID[id]
	if e == nil {
		e = &entry{key: key, id: id}
		at := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].key >= key })
		x.entries = slices.Insert(x.entries, at, e)
		x.byID[id] = e
		x.unread.Add(1)
	}
	x.put(e, s)
	return nil
}

// query is what a list asks for.
type query struct {
	Trigger, Outcome, Ref, Text string
	After                       string // key of the last build of the page before
	Limit                       int
}

// outcomeOpen asks for builds that have not ended.
const outcomeOpen = "open"

func (q query) all() bool { return q.Trigger == "" && q.Outcome == "" && q.Ref == "" && q.Text == "" }

// matches reports whether a build is asked for. Text holds words, all of which must
// be found.
func (q query) matches(s *summary, words []string) bool {
	switch {
	case q.Trigger != "" && s.Trigger != q.Trigger,
		q.Outcome == outcomeOpen && s.Finished(),
		q.Outcome != "" && q.Outcome != outcomeOpen && string(s.Outcome) != q.Outcome,
		q.Ref != "" && !strings.Contains(s.Name, q.Ref):
		return false
	}
	for _, w := range words {
		if !strings.Contains(s.search, w) {
			return false
		}
	}
	return true
}

// found is a page of a list.
type found struct {
	Builds []*summary
	Next   string // After of the next page; empty on the last
	Total  int    // builds that match, on all pages
	All    int    // builds there are
	Unread int64  // of them not read yet, which a filter does not see
}

// find returns a page. Builds of the page that were not read yet are read now.
func (x *index) find(ctx context.Context, q query) (found, error) {
	page, f := x.pick(q)
	f.Builds = make([]*summary, 0, len(page))
	for _, e := range page {
		x.mu.RLock()
		s := e.sum
		x.mu.RUnlock()
		if s == nil {
			if err := x.read(ctx, e); err != nil {
				return f, err
			}
			x.mu.RLock()
			s = e.sum
			x.mu.RUnlock()
		}
		if s != nil {
			f.Builds = append(f.Builds, s)
		}
	}
	return f, nil
}

func (x *index) pick(q query) (page []*entry, f found) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	f.All, f.Unread = len(x.entries), x.unread.Load()
	begin := 0
	if q.After != "" {
		begin = sort.Search(len(x.entries), func(i int) bool { return x.entries[i].key > q.After })
	}
	if q.all() {
		f.Total = f.All
		end := min(begin+q.Limit, f.All)
		page = slices.Clone(x.entries[begin:end])
		if end < f.All {
			f.Next = page[len(page)-1].key
		}
		return page, f
	}
	words := strings.Fields(strings.ToLower(q.Text))
	for i, e := range x.entries {
		if e.sum == nil || !q.matches(e.sum, words) {
			continue
		}
		f.Total++
		if i < begin {
			continue
		}
		if len(page) < q.Limit {
			page = append(page, e)
		} else if f.Next == "" {
			f.Next = page[len(page)-1].key
		}
	}
	return page, f
}

// names are the triggers that builds were of, sorted.
func (x *index) names() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	names := make([]string, 0, len(x.triggers))
	for n := range x.triggers {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// previous is the newest build before one of the same trigger, for the same image,
// that succeeded; nil if there is none.
func (x *index) previous(s *summary) *summary {
	x.mu.RLock()
	defer x.mu.RUnlock()
	e := x.byID[s.ID]
	if e == nil {
		return nil
	}
	at := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].key > e.key })
	for _, other := range x.entries[at:] {
		o := other.sum
		if o != nil && o.Outcome == events.OutcomeSuccess && o.Trigger == s.Trigger && o.Tenant == s.Tenant && o.Image == s.Image {
			return o
		}
	}
	return nil
}

// latest are the newest builds of a trigger that have ended, oldest first.
func (x *index) latest(trigger string, limit int) []*summary {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []*summary
	for _, e := range x.entries {
		if len(out) == limit {
			break
		}
		if e.sum != nil && e.sum.Finished() && e.sum.Trigger == trigger {
			out = append(out, e.sum)
		}
	}
	slices.Reverse(out)
	return out
}

// complete returns the build whose id begins so. The error wraps fs.ErrNotExist if
// there is none, or more than one.
func (x *index) complete(ctx context.Context, text string) (string, error) {
	id := strings.ToLower(strings.TrimSpace(text))
	if events.IsBuildID(id) {
		if _, _, err := x.ledger.Get(ctx, record.RequestKey(id)); err != nil {
			return "", fmt.Errorf("no build %s: %w", id, err)
		}
		return id, nil
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	full := ""
	if len(id) >= 4 {
		for _, e := range x.entries {
			if strings.HasPrefix(e.id, id) {
				if full != "" {
					return "", fmt.Errorf("several builds begin with %q: %w", id, fs.ErrNotExist)
				}
				full = e.id
			}
		}
	}
	if full == "" {
		return "", fmt.Errorf("no build begins with %q: %w", id, fs.ErrNotExist)
	}
	return full, nil
}
