package console

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// build is what the ledger has of a build.
type build struct {
	Request  events.Request
	Result   *events.Result // nil until it has one
	Verified bool
	Emitted  *record.Emitted // nil until its event was published
	State    State           // while it has no result
}

// load reads a build.
func (c *Console) load(ctx context.Context, text string) (build, error) {
	var b build
	id, err := c.index.complete(ctx, text)
	if err != nil {
		return b, err
	}
	if _, err := record.Load(ctx, c.cfg.Ledger, record.RequestKey(id), &b.Request); err != nil {
		return b, fmt.Errorf("read build %s: %w", id, err)
	}
	var claim record.Claim
	switch _, err := record.Load(ctx, c.cfg.Ledger, record.ResultKey(id), &claim); {
	case err == nil:
		b.Result, b.Verified = &claim.Result, claim.Verified
	case !errors.Is(err, fs.ErrNotExist):
		return b, fmt.Errorf("read build %s: %w", id, err)
	}
	var emitted record.Emitted
	switch _, err := record.Load(ctx, c.cfg.Ledger, record.EmittedKey(id), &emitted); {
	case err == nil:
		b.Emitted = &emitted
	case !errors.Is(err, fs.ErrNotExist):
		return b, fmt.Errorf("read build %s: %w", id, err)
	}
	b.State = State{Name: "pending"}
	if c.cfg.State != nil {
		if st, ok := c.cfg.State(ctx, id); ok {
			b.State = st
			b.Request.Attempt = max(b.Request.Attempt, st.Attempt)
		}
	}
	return b, nil
}

// Ended reports whether nothing more will be said of the build.
func (b build) Ended() bool { return b.Result != nil && b.Emitted != nil }

// Status is the word that the build is known by.
func (b build) Status() string {
	if b.Result != nil {
		return string(b.Result.Outcome)
	}
	return b.State.Name
}

type buildPage struct {
	page
	B        build
	ID       string
	Status   string
	Source   string
	Ref      string
	Rev      string // short, if it is a commit
	FullRev  string
	Took     string
	Pull     string // the command
	Rerun    bool   // it can be built again
	Nonce    string // cause of a rebuild by this page
	Steps    []stepView
	Axis     []tick
	Legend   []option
	Layers   []layerView
	Previous *comparison
	Change   string // the triggering event, JSON
	Event    string // the terminal event, JSON
	Phases   []phaseRow
	NoLogs   string // why there is no log
	Look     bool   // layers can be looked into
}

func (c *Console) serveBuild(w http.ResponseWriter, r *http.Request) error {
	b, err := c.load(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	story, err := c.stories.get(r.Context(), c.cfg.Logs, b.Request.BuildID)
	if err != nil {
		return err
	}
	steps, layers := story.snapshot()
	previous, err := c.previous(r.Context(), b)
	if err != nil {
		return err
	}
	d := c.describe(b)
	d.Steps, d.Axis = c.timeline(b, steps, previous.story)
	d.Phases = phaseRows(d.Steps)
	d.Layers = layerViews(b, steps, layers, previous)
	if d.Event, err = c.eventOf(r.Context(), b); err != nil {
		return err
	}
	if previous.sum != nil && b.Result != nil && b.Result.Outcome == events.OutcomeSuccess {
		d.Previous = c.compare(r.Context(), b, previous)
	}
	if r.URL.Query().Get("part") == "live" {
		return c.render(w, http.StatusOK, "build", d) // a script has the text already
	}
	if err := c.fillText(r.Context(), &d, story, steps); err != nil {
		return err
	}
	return c.render(w, http.StatusOK, "build", d)
}

// describe says what the ledger knows of a build.
func (c *Console) describe(b build) buildPage {
	id, ch := b.Request.BuildID, b.Request.Change
	d := buildPage{
		page: c.page("build "+buildlog.Short(id), ""), B: b, ID: id, Status: b.Status(), Source: trimKiln(ch.Location), Ref: buildlog.Ref(ch.Name),
		Rev: cmp.Or(brief(ch.Revision()), ch.Generation), FullRev: cmp.Or(ch.Revision(), ch.Generation),
		Rerun: c.cfg.Actions != nil && b.Result != nil, Nonce: rand.Text(), Legend: legend(), Change: indented(ch),
	}
	if c.cfg.Logs == nil {
		d.NoLogs = "Logs are not kept here."
		if c.cfg.LogsElsewhere != nil {
			d.NoLogs = c.cfg.LogsElsewhere(id)
		}
	}
	if !b.Ended() {
		d.Refresh = 3
	}
	res := b.Result
	if res == nil {
		return d
	}
	d.Look = c.cfg.Image != nil && res.Digest != ""
	if res.Digest != "" && b.Request.Image != "" {
		d.Pull = "docker pull " + b.Request.Image + "@" + res.Digest
	}
	if !res.StartedAt.IsZero() && !res.FinishedAt.Before(res.StartedAt) {
		d.Took = buildlog.Duration(res.FinishedAt.Sub(res.StartedAt).Milliseconds())
	}
	return d
}

// tailLines is how many of the last lines of a step a page has, and pageLines of all
// steps.
const (
	tailLines = 200
	pageLines = 1000
)

// fillText gives the steps of a page the ends of their logs, the last steps first.
func (c *Console) fillText(ctx context.Context, d *buildPage, s *story, steps []step) error {
	left := pageLines
	for i := len(d.Steps) - 1; i >= 0; i-- {
		st := steps[d.Steps[i].Number]
		n := min(tailLines, left, len(st.Lines))
		text, err := s.text(ctx, c.cfg.Logs, d.ID, st, len(st.Lines)-n, n)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		left -= len(text)
		d.Steps[i].Text = text
		d.Steps[i].Left = len(st.Lines) - len(text)
	}
	return nil
}

// announcement says in a sentence where a build is.
func announcement(b build, steps []step) string {
	if res := b.Result; res != nil {
		text := "Build " + string(res.Outcome)
		if why := cmp.Or(res.Reason, string(res.Class)); why != "" && res.Outcome != events.OutcomeSuccess {
			text += ": " + why
		}
		return text
	}
	running, over := "", 0
	for _, s := range steps {
		switch s.State {
		case events.StepStarted:
			running = s.Name
		case "":
		default:
			over++
		}
	}
	switch {
	case b.State.Name == "queued" && b.State.Position > 0:
		return fmt.Sprintf("Build queued, number %d in line", b.State.Position)
	case running != "":
		return fmt.Sprintf("Build %s, %d steps done: %s", b.State.Name, over, running)
	}
	return "Build " + b.State.Name
}

// eventOf is the terminal event of a build as indented JSON; "" if there is none.
func (c *Console) eventOf(ctx context.Context, b build) (string, error) {
	if c.cfg.Event != nil {
		data, err := c.cfg.Event(ctx, b.Request.BuildID)
		if err != nil || data == nil {
			return "", err
		}
		var out bytes.Buffer
		if err := json.Indent(&out, data, "", "  "); err != nil {
			return "", fmt.Errorf("show event of build %s: %w", b.Request.BuildID, err)
		}
		return out.String(), nil
	}
	if !b.Ended() {
		return "", nil
	}
	e, err := events.FinishedEvent(b.Request, *b.Result, b.Emitted.TagsMoved)
	if err != nil {
		return "", fmt.Errorf("show event of build %s: %w", b.Request.BuildID, err)
	}
	return indented(e), nil
}

func (c *Console) serveCancel(w http.ResponseWriter, r *http.Request) error {
	id, err := c.actOn(r)
	if err == nil {
		err = refused(c.cfg.Actions.Cancel(context.WithoutCancel(r.Context()), id, "cancelled by a person"))
	}
	if err == nil {
		http.Redirect(w, r, "/builds/"+url.PathEscape(id), http.StatusSeeOther)
	}
	return err
}

func (c *Console) serveRebuild(w http.ResponseWriter, r *http.Request) error {
	id, err := c.actOn(r)
	if err != nil {
		return err
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLogin)
	if err := r.ParseForm(); err != nil {
		return badRequest("the form could not be read")
	}
	// The form's own word makes pressing the button twice one build.
	cause := "request " + events.CleanText(cmp.Or(r.PostForm.Get("nonce"), rand.Text()), 100)
	again, err := c.cfg.Actions.Rebuild(context.WithoutCancel(r.Context()), id, cause)
	if err = refused(err); err == nil {
		http.Redirect(w, r, "/builds/"+url.PathEscape(again), http.StatusSeeOther)
	}
	return err
}

// actOn is the build that somebody wants to do something to.
func (c *Console) actOn(r *http.Request) (id string, err error) {
	if c.cfg.Actions == nil {
		return "", &statusError{http.StatusForbidden, "builds cannot be changed here"}
	}
	return c.index.complete(r.Context(), r.PathValue("id"))
}

// refused makes an answer of an error of Actions.
func refused(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return &statusError{http.StatusConflict, events.CleanText(err.Error(), events.MaxMessage)}
}
