package console

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

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
