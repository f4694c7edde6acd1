package console

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// pageSize is how many builds a page of the list has.
const pageSize = 50

// row is a build in the list.
type row struct {
	*summary
	Status   string // the outcome, or where the build stands
	Position int    // in the queue
	Took     string
	Source   string // what it was of: a repository, a bucket
	Ref      string // and what of that: a ref, an object
}

type listPage struct {
	page
	Query    query
	Rows     []row
	Found    found
	Triggers []string
	Outcomes []option
	Next     string // address of the next page
	Newest   string // address of the first page, if this is not it
	Live     bool   // something is going on
	Doors    []string
}

// option is one of a choice.
type option struct{ Value, Text string }

func outcomes() []option {
	return []option{
		{"", "any outcome"}, {outcomeOpen, "not ended"}, {string(events.OutcomeSuccess), "success"}, {string(events.OutcomeFailed), "failed"},
		{string(events.OutcomeCancelled), "cancelled"}, {string(events.OutcomeError), "error"},
	}
}

func (c *Console) serveList(w http.ResponseWriter, r *http.Request) error {
	v := r.URL.Query()
	q := query{
		Trigger: v.Get("trigger"), Outcome: v.Get("outcome"), Ref: strings.TrimSpace(v.Get("ref")), Text: strings.TrimSpace(v.Get("q")),
		After: v.Get("after"), Limit: pageSize,
	}
	if !c.index.listed.Load() {
		// The first to come while the ledger is read for the first time.
		keys, err := c.index.ledger.List(r.Context(), record.IndexPrefix, "", 0)
		if err != nil {
			return err
		}
		if !c.index.listed.Load() {
			c.index.merge(keys)
			c.index.listed.Store(true)
		}
	}
	f, err := c.index.find(r.Context(), q)
	if err != nil {
		return err
	}
	d := listPage{
		page: c.page("builds", "/"), Query: q, Found: f, Triggers: c.index.names(), Outcomes: outcomes(), Doors: c.cfg.Doors,
	}
	pairs := []string{"trigger", q.Trigger, "outcome", q.Outcome, "ref", q.Ref, "q", q.Text}
	if q.After != "" {
		d.Newest = link("/", pairs...)
	}
	if f.Next != "" {
		d.Next = link("/", append(pairs, "after", f.Next)...)
	}
	for _, s := range f.Builds {
		row := c.row(r.Context(), s)
		d.Rows = append(d.Rows, row)
		d.Live = d.Live || !s.Finished()
	}
	if d.Live && q.After == "" {
		d.Refresh = 10
	}
	return c.render(w, http.StatusOK, "list", d)
}

// row says of a build what a list shows.
func (c *Console) row(ctx context.Context, s *summary) row {
	out := row{summary: s, Status: string(s.Outcome), Source: strings.TrimPrefix(s.Location, "kiln://"), Ref: buildlog.Ref(s.Name)}
	if d := s.Took(); d > 0 {
		out.Took = buildlog.Duration(d.Milliseconds())
	}
	if s.Finished() {
		return out
	}
	out.Status = "pending"
	if c.cfg.State != nil {
		if st, ok := c.cfg.State(ctx, s.ID); ok {
			out.Status, out.Position = st.Name, st.Position
		}
	}
	if out.Status == "pending" && !s.Started.IsZero() {
		out.Status = "running"
	}
	if !s.Started.IsZero() {
		out.Took = buildlog.Duration(max(c.cfg.Now().Sub(s.Started), 0).Truncate(time.Second).Milliseconds())
	}
	return out
}
