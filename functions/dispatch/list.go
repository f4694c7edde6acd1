package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/functions/record"
)

// States of a build, where Config.Describe knows no other.
const (
	BuildPending  = "pending"  // accepted, and without an outcome
	BuildFinished = "finished" // has its one outcome
)

// Build is a build as the API describes it.
type Build struct {
	ID       string           `json:"id"`
	State    string           `json:"state"`              // BuildPending, BuildFinished or what Config.Describe says
	Position int              `json:"position,omitempty"` // in a queue, from 1
	Request  events.Request   `json:"request"`
	Since    time.Time        `json:"since,omitzero"`   // when it entered a state before finished
	Result   *events.Result   `json:"result,omitempty"` // once it is finished
	Event    *json.RawMessage `json:"event,omitempty"`  // build.finished as structured JSON; of one build only, where it is kept
}

// Builds is a page of builds, newest first.
type Builds struct {
	Builds []Build `json:"builds"`
	Next   string  `json:"next,omitempty"` // for ?after=; empty if that was all
}

const (
	listLimit = 50   // builds of a page
	listMost  = 500  // that can be asked for at once
	listScan  = 5000 // looked through for one page
)

// Describe says what is known of a build whose id begins with abbreviated. The
// error wraps fs.ErrNotExist if there is none.
func (d *Dispatcher) Describe(ctx context.Context, abbreviated string) (Build, error) {
	id, err := d.findBuild(ctx, abbreviated)
	if err != nil {
		return Build{}, err
	}
	b, err := d.describe(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return b, fmt.Errorf("no build %s: %w", id, fs.ErrNotExist)
	}
	return b, err
}

func (d *Dispatcher) findBuild(ctx context.Context, abbreviated string) (string, error) {
	id, err := record.Find(ctx, d.cfg.Ledger, abbreviated)
	if wrong, ok := errors.AsType[*record.AbbreviationError](err); ok {
		return "", source.Malformed("request", "%w", wrong)
	}
	return id, err
}

// describe reads what the ledger says of a build, and asks who runs it.
func (d *Dispatcher) describe(ctx context.Context, id string) (Build, error) {
	b := Build{ID: id, State: BuildPending}
	if _, err := record.Load(ctx, d.cfg.Ledger, record.RequestKey(id), &b.Request); err != nil {
		return b, fmt.Errorf("read build %s: %w", id, err)
	}
	var claim record.Claim
	_, err := record.Load(ctx, d.cfg.Ledger, record.ResultKey(id), &claim)
	switch {
	case err == nil:
		b.State, b.Result = BuildFinished, &claim.Result
	case !errors.Is(err, fs.ErrNotExist):
		return b, fmt.Errorf("read build %s: %w", id, err)
	}
	if d.cfg.Describe == nil {
		return b, nil
	}
	if err := d.cfg.Describe(ctx, &b); err != nil {
		return b, fmt.Errorf("describe build %s: %w", id, err)
	}
	return b, nil
}

// List returns builds, newest first, from the place after on, that keep says are
// wanted: at most limit, and fewer if it had to look through many.
func (d *Dispatcher) List(ctx context.Context, after string, limit int, keep func(Build) bool) (Builds, error) {
	page := Builds{Builds: []Build{}}
	if after != "" {
		after = record.IndexPrefix + after
	}
	const most = 200 // keys at once
	for scanned := 0; ; {
		keys, err := d.cfg.Ledger.List(ctx, record.IndexPrefix, after, most)
		if err != nil {
			return page, fmt.Errorf("list builds: %w", err)
		}
		for i, key := range keys {
			after, scanned = key, scanned+1
			b, err := d.describe(ctx, record.IndexBuildID(key))
			if errors.Is(err, fs.ErrNotExist) {
				continue // noted, but not requested yet
			}
			if err != nil {
				return page, err
			}
			if b.Event = nil; keep(b) {
				page.Builds = append(page.Builds, b)
			}
			if len(page.Builds) == limit || scanned == listScan {
				if i < len(keys)-1 || len(keys) == most {
					page.Next = strings.TrimPrefix(after, record.IndexPrefix)
				}
				return page, nil
			}
		}
		if len(keys) < most {
			return page, nil
		}
	}
}

// filter makes a condition of the parameters of a query. One that is not known is
// an error, as a filter that does nothing would be a lie.
func filter(q url.Values) (func(Build) bool, error) {
	get := map[string]func(Build) []string{
		"state":   func(b Build) []string { return []string{b.State} },
		"trigger": func(b Build) []string { return []string{b.Request.Trigger} },
		"tenant":  func(b Build) []string { return []string{b.Request.Tenant} },
		"image":   func(b Build) []string { return []string{b.Request.Image} },
		"outcome": func(b Build) []string {
			if b.Result == nil {
				return nil
			}
			return []string{string(b.Result.Outcome)}
		},
		"name": func(b Build) []string {
			name := b.Request.Change.Name
			return []string{name, strings.TrimPrefix(strings.TrimPrefix(name, "refs/heads/"), "refs/tags/")}
		},
		"revision": func(b Build) []string { return []string{b.Request.Change.Revision(), b.Request.Change.Generation} },
	}
	for name := range q {
		if get[name] == nil && name != "after" && name != "limit" {
			return nil, source.Malformed("request", "there is no parameter %q", name)
		}
	}
	known := []events.Outcome{events.OutcomeSuccess, events.OutcomeFailed, events.OutcomeCancelled, events.OutcomeError}
	if o := q.Get("outcome"); o != "" && !slices.Contains(known, events.Outcome(o)) {
		return nil, source.Malformed("request", "outcome is %q, and may be success, failed, cancelled or error", o)
	}
	return func(b Build) bool {
		for name, have := range get {
			if want := q.Get(name); want != "" && !slices.Contains(have(b), want) {
				return false
			}
		}
		return true
	}, nil
}

// limitOf is the parameter limit.
func limitOf(q url.Values, usual int) (int, error) {
	text := q.Get("limit")
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, source.Malformed("request", "limit %q is not a number from 1 on", text)
	}
	return min(n, listMost), nil
}

func (d *Dispatcher) apiList(r *http.Request, _ []byte) (any, error) {
	q := r.URL.Query()
	limit, err := limitOf(q, listLimit)
	if err != nil {
		return nil, err
	}
	keep, err := filter(q)
	if err != nil {
		return nil, err
	}
	return d.List(r.Context(), q.Get("after"), limit, keep)
}

func (d *Dispatcher) apiDescribe(r *http.Request, _ []byte) (any, error) {
	return d.Describe(r.Context(), r.PathValue("id"))
}
