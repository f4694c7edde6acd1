package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

const (
	pageSize  = 50               // builds of a page
	maxLimit  = 500              // that a client may ask for at once
	maxScan   = 5000             // looked through for a search
	keepAlive = 15 * time.Second // between empty lines on a silent log stream
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

// serveLog streams a log: events.Progress as JSON lines from byte ?offset= on,
// or text with ?format=text. With ?follow=1 it goes on until the build has
// ended; the trailer Kiln-Log: end says that it has.
func (s *Stack) serveLog(w http.ResponseWriter, r *http.Request) error {
	id, err := s.findBuild(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	q := r.URL.Query()
	offset, err := strconv.ParseInt("0"+q.Get("offset"), 10, 64)
	if err != nil {
		return &badRequestError{fmt.Sprintf("offset %q is not a number of bytes", q.Get("offset"))}
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Trailer", "Kiln-Log")
	out := &logStream{w: w, flush: http.NewResponseController(w).Flush}
	if q.Get("format") == "text" {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		out.text = &buildlog.Reader{}
		offset = 0
	}
	w.WriteHeader(http.StatusOK)
	ended, err := s.streamLog(r.Context(), id, offset, q.Get("follow") == "1", out)
	if err != nil {
		s.cfg.Log.Debug("stream log", "build", id, "err", err)
	} else if ended {
		h.Set("Kiln-Log", "end")
	}
	return nil
}

// streamLog passes on a log; ended says that the build has no more to say.
func (s *Stack) streamLog(ctx context.Context, id string, offset int64, follow bool, out *logStream) (ended bool, err error) {
	for {
		wait, cancel := context.WithTimeoutCause(ctx, keepAlive, errSilent)
		offset, err = s.launcher.Log(wait, id, offset, follow, out.lines)
		cancel()
		switch {
		case errors.Is(err, errSilent) && ctx.Err() == nil:
			if err := out.ping(); err != nil {
				return false, err
			}
			continue
		case errors.Is(err, fs.ErrNotExist):
			// Requested, but not handed to the launcher yet; or it never ran.
			b, berr := s.build(ctx, id)
			if berr != nil || b.Finished() || !follow {
				return berr == nil && b.Finished(), berr
			}
			if err := sleep(ctx, 200*time.Millisecond); err != nil {
				return false, err
			}
			continue
		case err != nil:
			return false, err
		}
		if _, live := s.launcher.Status(id); live {
			return false, nil
		}
		b, err := s.build(ctx, id)
		if err == nil && follow && len(b.Request.Platforms) > 0 && !b.Finished() {
			// One part has ended before the next was handed over.
			if err = sleep(ctx, 200*time.Millisecond); err == nil {
				continue
			}
		}
		return true, err
	}
}

// errSilent is why waiting for a log is interrupted.
var errSilent = errors.New("the log is silent")

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// logStream writes a log to a client as it comes.
type logStream struct {
	w     http.ResponseWriter
	flush func() error
	text  *buildlog.Reader // nil: as it is
}

func (o *logStream) lines(p []byte) error {
	if o.text == nil {
		if _, err := o.w.Write(p); err != nil {
			return err
		}
		return o.flush()
	}
	var b strings.Builder
	for line := range strings.Lines(string(p)) {
		for _, text := range o.text.Add(buildlog.Parse([]byte(line))) {
			b.WriteString(text + "\n")
		}
	}
	if _, err := o.w.Write([]byte(b.String())); err != nil {
		return err
	}
	return o.flush()
}

// ping keeps a silent connection alive. JSON lines may be empty; text is left
// alone.
func (o *logStream) ping() error {
	if o.text != nil {
		return nil
	}
	if _, err := o.w.Write([]byte("\n")); err != nil {
		return err
	}
	return o.flush()
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
