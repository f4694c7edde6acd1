// Package report tells people what became of a build where they look: on the
// commit, by the status of five forges, and in a chat, by a webhook.
//
// It is one more listener to events. Each build makes at most two statuses of a
// commit: one when its executor starts, unless it has finished by the time that
// is looked at, and one when it has finished. A build never overwrites the
// status of a newer one of the same commit.
package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// Ledger is where builds are recorded, and what was told of them.
type Ledger interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	Create(ctx context.Context, key string, data []byte) (version string, err error)
	Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error)
}

// Options of a Reporter. Ledger and Now are required.
type Options struct {
	Config Config
	Ledger Ledger
	Client *http.Client // nil: one with a time limit of 10 s that follows no redirects
	// Attempts is how often a request is tried; 0 is 6. MinBackoff and MaxBackoff
	// are the pauses in between, 0 is 1 s and 2 min; a longer one that a server
	// asks for with Retry-After is kept up to an hour.
	Attempts               int
	MinBackoff, MaxBackoff time.Duration
	Now                    func() time.Time
	Log                    *slog.Logger // nil discards
}

// maxRetryAfter is the longest pause that a server is granted.
const maxRetryAfter = time.Hour

// Reporter tells of builds. Its methods may be called concurrently.
type Reporter struct {
	opts Options
	mu   sync.Mutex
	next map[string]time.Time // when a host may be asked again, by host
}

// New returns a Reporter.
func New(opts Options) (*Reporter, error) {
	if opts.Ledger == nil || opts.Now == nil {
		return nil, errors.New("reporter needs a ledger and a clock")
	}
	if opts.Client == nil {
		opts.Client = &http.Client{
			Timeout:       10 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if opts.Attempts <= 0 {
		opts.Attempts = 6
	}
	if opts.MinBackoff <= 0 {
		opts.MinBackoff = time.Second
	}
	if opts.MaxBackoff < opts.MinBackoff {
		opts.MaxBackoff = max(opts.MinBackoff, 2*time.Minute)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Reporter{opts: opts, next: map[string]time.Time{}}, nil
}

// Types are the events that a Reporter has something to say about.
func Types() []string { return []string{events.TypeBuildStarted, events.TypeBuildFinished} }

// Handle tells of a build what its event gives reason to. It may be given the
// same event again, and tells once. That nobody listens in the end is logged,
// not an error; the error says that the ledger does not answer, or why the
// context ended, and the event should come again.
func (r *Reporter) Handle(ctx context.Context, e event.Event) error {
	return errors.Join(r.HandleStatus(ctx, e), r.HandleNotify(ctx, e))
}

// HandleStatus is the part of Handle that is about commits.
func (r *Reporter) HandleStatus(ctx context.Context, e event.Event) error {
	req, ok, err := r.request(ctx, e)
	if err != nil || !ok || !req.Report.Status || req.Change.Kind != events.KindGit {
		return err
	}
	if err := r.status(ctx, e, req); err != nil {
		return fmt.Errorf("status of commit for build %s: %w", req.BuildID, err)
	}
	return nil
}

// HandleNotify is the part of Handle that is about notifications.
func (r *Reporter) HandleNotify(ctx context.Context, e event.Event) error {
	if e.Type() != events.TypeBuildFinished {
		return nil
	}
	req, ok, err := r.request(ctx, e)
	if err != nil || !ok {
		return err
	}
	var data events.Finished
	if err := json.Unmarshal(e.Data(), &data); err != nil {
		r.opts.Log.Error("event cannot be read", "event", e.ID(), "err", err)
		return nil
	}
	changed, err := r.outcomeChanged(ctx, req, data.Outcome)
	if err != nil {
		return fmt.Errorf("notify of build %s: %w", req.BuildID, err)
	}
	for _, n := range r.opts.Config.Notifications {
		if !slices.Contains(req.Report.Notify, n.Name) || !n.When.matches(data, changed) {
			continue
		}
		if err := r.notify(ctx, n, req, data, changed); err != nil {
			return fmt.Errorf("notify %s of build %s: %w", n.Name, req.BuildID, err)
		}
	}
	return nil
}

// request is the build that an event is about; false if it is about none.
func (r *Reporter) request(ctx context.Context, e event.Event) (events.Request, bool, error) {
	id, _ := e.Extensions()[events.ExtBuildID].(string)
	if !slices.Contains(Types(), e.Type()) || !events.IsBuildID(id) {
		return events.Request{}, false, nil
	}
	var req events.Request
	_, err := record.Load(ctx, r.opts.Ledger, record.RequestKey(id), &req)
	if errors.Is(err, fs.ErrNotExist) {
		r.opts.Log.Warn("event of a build that is not in the ledger", "event", e.ID())
		return req, false, nil
	}
	return req, err == nil, err
}

// contextOf names a status among those of its commit: by the trigger, and by the
// tag if it is one, as that is built besides the branch.
func contextOf(req events.Request) string {
	name := "kiln/" + req.Trigger
	if tag, ok := strings.CutPrefix(req.Change.Name, "refs/tags/"); ok {
		name += ":" + tag
	}
	return name
}

// Phases of a commit's status.
const (
	phasePending = 1
	phaseFinal   = 2
)

// status tells the forge, if this build is the newest of the commit.
func (r *Reporter) status(ctx context.Context, e event.Event, req events.Request) error {
	forge, ok := r.opts.Config.forge(req.Change.Location)
	if !ok {
		r.opts.Log.Warn("no forge is configured for the status of a commit", "repository", req.Change.Location, "build", req.BuildID)
		return nil
	}
	s := status{
		State: statePending, Context: contextOf(req), Ref: req.Change.Name,
		Commit: req.Change.Revision(), URL: r.opts.Config.detailsURL(req.BuildID), Description: "the image is being built",
	}
	phase := phasePending
	if e.Type() == events.TypeBuildFinished {
		var data events.Finished
		if err := json.Unmarshal(e.Data(), &data); err != nil {
			r.opts.Log.Error("event cannot be read", "event", e.ID(), "err", err)
			return nil
		}
		phase = phaseFinal
		s.State, s.Description = finalState(data)
	} else if _, _, err := r.opts.Ledger.Get(ctx, record.ResultKey(req.BuildID)); err == nil {
		return nil // it has finished meanwhile, and that is told at once
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	mine, err := r.take(ctx, req, phase)
	if err != nil || !mine {
		return err
	}
	_, repo, err := forge.split(req.Change.Location)
	if err != nil {
		r.opts.Log.Warn("status of commit", "build", req.BuildID, "err", err)
		return nil
	}
	make := func(ctx context.Context) (*http.Request, error) { return forge.request(ctx, repo, s) }
	return r.send(ctx, forge.host(), forge.spacing(), "status of commit", req.BuildID, make)
}

// take enters in the record of a commit that a build is about to tell, and
// reports whether it may: no newer build of the commit, and not this one, has
// told as much.
func (r *Reporter) take(ctx context.Context, req events.Request, phase int) (bool, error) {
	key := record.StatusKey(req)
	for {
		var have record.Status
		version, err := record.Load(ctx, r.opts.Ledger, key, &have)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if version != "" {
			older := req.Sequence < have.Sequence || req.Sequence == have.Sequence && req.Nonce < have.Nonce
			if older || have.BuildID == req.BuildID && have.Phase >= phase {
				return false, nil
			}
		}
		data, err := record.Encode(record.Status{BuildID: req.BuildID, Sequence: req.Sequence, Nonce: req.Nonce, Phase: phase})
		if err != nil {
			return false, err
		}
		_, err = r.opts.Ledger.Swap(ctx, key, version, data)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, ledger.ErrConflict) {
			return false, err
		}
	}
}

// finalState is what a forge is told of a build that has finished.
func finalState(data events.Finished) (state, description string) {
	switch data.Outcome {
	case events.OutcomeSuccess:
		description = "the image was built"
		if data.Image != nil && data.Image.Digest != "" {
			description = "built " + data.Image.Digest
		}
		return stateSuccess, description
	case events.OutcomeCancelled:
		return stateCancelled, orText(data.Reason, "cancelled")
	case events.OutcomeError:
		return stateError, orText(orText(data.Message, data.Reason), "the build could not be run")
	}
	return stateFailure, orText(orText(data.Message, data.Reason), "the build failed")
}

func orText(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}
