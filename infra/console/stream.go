package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/kilnhook/kiln/infra/local/buildlog"
	"github.com/kilnhook/kiln/infra/wait"
)

const (
	maxChunk   = 2000                   // lines that are given at once
	tellEvery  = 250 * time.Millisecond // at most so often how far a build is
	waitSilent = 10 * time.Second       // for a silent log, until something is said anyway
	waitStart  = time.Second            // for a build that is not handed over yet
)

// number reads a parameter that is a number from 0 on.
func number(r *http.Request, name string, otherwise int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, badRequest("%s %q is not a number from 0 on", name, text)
	}
	return n, nil
}

// stepOf returns the step that a request asks for, with the build's story.
func (c *Console) stepOf(r *http.Request) (id string, s *story, st step, err error) {
	if id, err = c.index.complete(r.Context(), r.PathValue("id")); err != nil {
		return id, nil, st, err
	}
	n, err := number(r, "step", 0)
	if err != nil {
		return id, nil, st, err
	}
	if s, err = c.stories.get(r.Context(), c.cfg.Logs, id); err != nil {
		return id, nil, st, err
	}
	steps, _ := s.snapshot()
	if n >= len(steps) {
		return id, nil, st, notFound(fmt.Sprintf("the build has no step %d", n))
	}
	return id, s, steps[n], nil
}

// lines is an answer to a request for some of a log.
type lines struct {
	From  int    `json:"from"`  // lines before these
	Total int    `json:"total"` // lines of the step
	Lines []line `json:"lines"`
}

func (c *Console) serveLines(w http.ResponseWriter, r *http.Request) error {
	id, s, st, err := c.stepOf(r)
	if err != nil {
		return err
	}
	from, err := number(r, "from", 0)
	if err != nil {
		return err
	}
	count, err := number(r, "count", maxChunk)
	if err != nil {
		return err
	}
	text, err := s.text(r.Context(), c.cfg.Logs, id, st, from, min(count, maxChunk))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(lines{From: from, Total: len(st.Lines), Lines: text}) // the client has gone
	return nil
}

// logPageLines is how many lines a page of the log has.
const logPageLines = 1000

type logPage struct {
	page
	ID             string
	Step           step
	Steps          []step
	Text           []line
	Number, Pages  int // of this page from 1; how many there are
	First, Last    int // lines
	Older, Newer   string
	Oldest, Newest string
}

// serveLog shows the log of a step in pages, for those without JavaScript and for
// links.
func (c *Console) serveLog(w http.ResponseWriter, r *http.Request) error {
	id, s, st, err := c.stepOf(r)
	if err != nil {
		return err
	}
	pages := max((len(st.Lines)+logPageLines-1)/logPageLines, 1)
	n, err := number(r, "page", pages)
	if err != nil {
		return err
	}
	n = min(max(n, 1), pages)
	text, err := s.text(r.Context(), c.cfg.Logs, id, st, (n-1)*logPageLines, logPageLines)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	steps, _ := s.snapshot()
	d := logPage{page: c.page("log of "+st.Name, ""), ID: id, Step: st, Steps: steps, Text: text, Number: n, Pages: pages}
	if len(text) > 0 {
		d.First, d.Last = text[0].N, text[len(text)-1].N
	}
	to := func(n int) string {
		return link("/builds/"+id+"/log", "step", strconv.Itoa(st.Number), "page", strconv.Itoa(n))
	}
	if n > 1 {
		d.Oldest, d.Older = to(1), to(n-1)
	}
	if n < pages {
		d.Newer, d.Newest = to(n+1), to(pages)
	}
	return c.render(w, http.StatusOK, "log", d)
}

// told is an event of the stream: how far each step of a build is.
type told struct {
	Status string     `json:"status"`
	Say    string     `json:"say"` // in a sentence
	Ended  bool       `json:"ended"`
	Steps  []stepTold `json:"steps"`
}

type stepTold struct {
	N     int    `json:"n"`
	State string `json:"state"`
	Lines int    `json:"lines"`
}

// serveStream tells how far a build is whenever that has changed, until it has
// ended.
func (c *Console) serveStream(w http.ResponseWriter, r *http.Request) error {
	id, err := c.index.complete(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	last := ""
	for {
		now, offset, err := c.tell(r.Context(), id)
		if err != nil {
			c.cfg.Log.Debug("stream build", "build", id, "err", err)
			return nil // what was said is said; the browser comes again
		}
		data, err := json.Marshal(now)
		if err != nil {
			return nil //nolint:nilerr // a struct of plain fields: cannot happen
		}
		text := ": still here\n\n"
		if string(data) != last {
			last = string(data)
			text = "event: progress\ndata: " + last + "\n\n"
		}
		if _, err := w.Write([]byte(text)); err != nil || flush() != nil || now.Ended {
			return nil //nolint:nilerr // the client has gone
		}
		if err := c.wait(r.Context(), id, offset); err != nil {
			return nil //nolint:nilerr // the client has gone
		}
	}
}

// tell says how far a build is, and up to where its log was read for that.
func (c *Console) tell(ctx context.Context, id string) (told, int64, error) {
	b, err := c.load(ctx, id)
	if err != nil {
		return told{}, 0, err
	}
	s, err := c.stories.get(ctx, c.cfg.Logs, id)
	if err != nil {
		return told{}, 0, err
	}
	steps, _ := s.snapshot()
	t := told{Status: b.Status(), Say: announcement(b, steps), Ended: b.Ended()}
	for _, st := range steps {
		t.Steps = append(t.Steps, stepTold{N: st.Number, State: st.State, Lines: len(st.Lines)})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return t, s.offset, nil
}

// wait returns when the log has more than it had, or after a while.
func (c *Console) wait(ctx context.Context, id string, offset int64) error {
	if err := wait.For(ctx, tellEvery); err != nil {
		return err
	}
	if c.cfg.Logs == nil {
		return wait.For(ctx, waitStart)
	}
	silent, cancel := context.WithTimeoutCause(ctx, waitSilent, buildlog.ErrSilent)
	defer cancel()
	_, err := c.cfg.Logs.Log(silent, id, offset, true, func([]byte) error { return errEnough })
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errEnough), errors.Is(err, buildlog.ErrSilent):
		return nil
	}
	// It is not handed over yet, or has ended and is about to be announced.
	return wait.For(ctx, waitStart)
}
