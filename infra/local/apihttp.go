package local

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/api"
)

const (
	pageSize = 50   // builds of a page
	maxLimit = 500  // that a client may ask for at once
	maxScan  = 5000 // looked through for a search
)

func (s *Stack) serveHealth(w http.ResponseWriter, _ *http.Request) error {
	h := api.Health{Status: "ok", Version: s.cfg.Version, Install: s.install}
	h.Queued, h.Running = s.launcher.Load()
	writeJSON(w, http.StatusOK, h)
	return nil
}

// serveBuilds lists builds, newest first: ?limit= of them from ?after= on,
// those only whose ?state=, ?name= and ?revision= are the ones given.
func (s *Stack) serveBuilds(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit := pageSize
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return &badRequestError{fmt.Sprintf("limit %q is not a number from 1 on", text)}
		}
		limit = min(n, maxLimit)
	}
	is := func(want, have string) bool { return want == "" || want == have }
	keep := func(b api.Build) bool {
		c := b.Request.Change
		revision := c.Revision()
		if c.Kind == events.KindObject {
			revision = c.Generation
		}
		return is(q.Get("state"), b.State) && is(q.Get("name"), c.Name) && is(q.Get("revision"), revision)
	}
	l, err := s.list(r.Context(), q.Get("after"), limit, maxScan, keep)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, l)
	return nil
}

func (s *Stack) serveBuild(w http.ResponseWriter, r *http.Request) error {
	b, err := s.buildWithEvent(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, b)
	return nil
}

func (s *Stack) buildWithEvent(ctx context.Context, abbreviated string) (api.Build, error) {
	id, err := s.findBuild(ctx, abbreviated)
	if err != nil {
		return api.Build{}, err
	}
	b, err := s.build(ctx, id)
	if err == nil && b.Finished() {
		b.Event, err = s.finishedEvent(id)
	}
	return b, err
}

// logOver says whether a build has no more to say: it has an outcome, and its
// executor is gone. One whose log has begun and that the launcher does not know any
// more has none to come either, unless it is of several platforms: then one part has
// ended before the next was handed over.
func (s *Stack) logOver(ctx context.Context, id string, begun bool) (bool, error) {
	if _, live := s.launcher.Status(id); live {
		return false, nil
	}
	b, err := s.build(ctx, id)
	return b.Finished() || begun && len(b.Request.Platforms) == 0, err
}

func (s *Stack) serveCancel(w http.ResponseWriter, r *http.Request) error {
	b, err := s.cancelBuild(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, b)
	return nil
}

func (s *Stack) cancelBuild(r *http.Request) (api.Build, error) {
	id, err := s.findBuild(r.Context(), r.PathValue("id"))
	if err != nil {
		return api.Build{}, err
	}
	if err := s.dispatcher.Cancel(context.WithoutCancel(r.Context()), id, "cancelled by a person"); err != nil {
		return api.Build{}, err
	}
	return s.build(r.Context(), id)
}

// serveEvents lists the events kept after ?after=, of the types ?type=, as
// JSON lines of seq, type and event.
func (s *Stack) serveEvents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	after, err := strconv.ParseUint("0"+q.Get("after"), 10, 64)
	if err != nil {
		return &badRequestError{fmt.Sprintf("after %q is not a place in the stream", q.Get("after"))}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	for {
		stored, err := s.bus.Read(r.Context(), after, 200)
		if err != nil || len(stored) == 0 {
			return err
		}
		for _, e := range stored {
			after = e.Seq
			if types := q["type"]; len(types) > 0 && !slices.Contains(types, e.Event.Type()) {
				continue
			}
			line := struct {
				Seq   uint64 `json:"seq"`
				Type  string `json:"type"`
				Event any    `json:"event"`
			}{e.Seq, e.Event.Type(), e.Event}
			if err := enc.Encode(line); err != nil {
				return nil //nolint:nilerr // the client is gone
			}
		}
	}
}
