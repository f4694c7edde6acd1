// Package finish turns what became of a build into its one outcome: the result
// is claimed, the digest verified, the tags moved if the build is the newest,
// and the terminal event published.
//
// Every step can be done again, by the same process or another, and what comes
// out is the same: the first claim counts, the event has one id, and a tag ends
// at the newest build whoever is last to move it.
package finish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// Ledger is where builds are recorded.
type Ledger interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	Create(ctx context.Context, key string, data []byte) (version string, err error)
	Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error)
	Delete(ctx context.Context, key string) error
}

// Config of a Finisher.
type Config struct {
	Ledger Ledger // required
	// Publish hands an event to something durable; required. It may be called
	// with the same event again.
	Publish func(ctx context.Context, e event.Event) error
	// CheckDigest asks the registry for a manifest. An error that matches
	// fs.ErrNotExist says that it is not there; any other says nothing and is
	// asked again later. Required to finish builds that push.
	CheckDigest func(ctx context.Context, repository, digest string) error
	// MoveTags makes tags name a manifest. An error that matches
	// fs.ErrPermission says that the registry will never do it (tags that
	// cannot be overwritten), and the build is finished without; any other is
	// tried again later. Required to finish builds that ask for tags.
	MoveTags func(ctx context.Context, repository, digest string, tags []string) error
	// PushIndex makes an image index of manifests that a repository has, one for
	// each platform, and pushes it by digest unless it is there. An error that
	// matches fs.ErrNotExist or fs.ErrInvalid says that it never can; any other is
	// tried again later. Required to finish builds for several platforms that push.
	PushIndex func(ctx context.Context, repository string, platforms []events.PlatformInfo) (digest, mediaType string, err error)
	// Stop stops the executor of a part of a build that has its outcome, as the
	// launcher's Cancel does; nil lets it run to its end.
	Stop func(ctx context.Context, buildID string) error
	// DigestGrace is how long after a build finished its digest may be missing
	// from the registry without that being its outcome. 0 is not at all.
	DigestGrace time.Duration
	Now         func() time.Time // required
	Log         *slog.Logger     // nil discards
}

// Finisher finishes builds. Its methods may be called at once from any number
// of goroutines, and by several processes on one ledger.
type Finisher struct {
	cfg   Config
	moves [64]sync.Mutex // keep moves of one tag within this process apart
	joins [64]sync.Mutex // likewise, what the platforms of one build come to
}

// New returns a Finisher.
func New(cfg Config) (*Finisher, error) {
	if cfg.Ledger == nil || cfg.Publish == nil || cfg.Now == nil {
		return nil, errors.New("finisher needs a ledger, a place to publish to and a clock")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Finisher{cfg: cfg}, nil
}

// Finish brings a build to its end with the result it came to, and returns the
// result that counts, which is another's if that was claimed first. Calling it
// again, with whatever result, goes on where an earlier call stopped and
// changes nothing once all is done. The error wraps fs.ErrNotExist if no such
// build was requested; otherwise it says what could not be done now and is
// worth another try. What became of one platform of a build for several is
// claimed, and ends the whole if it decides that; see Advance.
func (f *Finisher) Finish(ctx context.Context, buildID string, res events.Result) (events.Result, error) {
	final, err := f.finish(ctx, buildID, res)
	if err != nil {
		return events.Result{}, fmt.Errorf("finish build %s: %w", buildID, err)
	}
	return final, nil
}

func (f *Finisher) finish(ctx context.Context, buildID string, res events.Result) (events.Result, error) {
	req, err := f.request(ctx, buildID)
	if err != nil {
		return events.Result{}, err
	}
	if req.PartOf != "" {
		return f.finishPart(ctx, req, res)
	}
	claimed, first, err := f.claim(ctx, req, res)
	if err != nil {
		return events.Result{}, err
	}
	emitted, err := f.isEmitted(ctx, buildID)
	if err != nil {
		return events.Result{}, err
	}
	if !emitted {
		if err := f.emit(ctx, req, claimed, first); err != nil {
			return events.Result{}, err
		}
	}
	if err := f.cfg.Ledger.Delete(ctx, record.OpenKey(req)); err != nil {
		return events.Result{}, err
	}
	return claimed, nil
}

// request reads what was to be built. The attempt is that of the last launch.
func (f *Finisher) request(ctx context.Context, buildID string) (events.Request, error) {
	if !events.IsBuildID(buildID) {
		return events.Request{}, fmt.Errorf("%q is not a build id: %w", buildID, fs.ErrNotExist)
	}
	var req events.Request
	if _, err := record.Load(ctx, f.cfg.Ledger, record.RequestKey(buildID), &req); err != nil {
		return events.Request{}, err
	}
	var open record.Open
	switch _, err := record.Load(ctx, f.cfg.Ledger, record.OpenKey(req), &open); {
	case err == nil:
		req.Attempt = max(req.Attempt, open.Request.Attempt)
	case !errors.Is(err, fs.ErrNotExist):
		return events.Request{}, err
	}
	return req, nil
}

// Claim makes a result the outcome of a build if it has none yet, and returns
// the outcome it has. won says whether it is the one given. A success is
// verified before it is claimed. Errors are as of Finish.
func (f *Finisher) Claim(ctx context.Context, buildID string, res events.Result) (claimed events.Result, won bool, err error) {
	req, err := f.request(ctx, buildID)
	if err == nil {
		claimed, won, err = f.claim(ctx, req, res)
	}
	if err != nil {
		return events.Result{}, false, fmt.Errorf("claim result of build %s: %w", buildID, err)
	}
	return claimed, won, nil
}

// claim returns the verified outcome of a build, which is res if there was none.
func (f *Finisher) claim(ctx context.Context, req events.Request, res events.Result) (claimed events.Result, won bool, err error) {
	key := record.ResultKey(req.BuildID)
	for {
		var found record.Claim
		version, err := record.Load(ctx, f.cfg.Ledger, key, &found)
		switch {
		case err == nil && found.Verified:
			return found.Result, false, nil
		case err == nil:
			res = found.Result
		case !errors.Is(err, fs.ErrNotExist):
			return events.Result{}, false, err
		}
		verified, err := f.verify(ctx, req, res)
		if err != nil {
			return events.Result{}, false, err
		}
		data, err := record.Encode(record.Claim{Result: verified, Verified: true})
		if err != nil {
			return events.Result{}, false, err
		}
		if version == "" {
			_, err = f.cfg.Ledger.Create(ctx, key, data)
		} else {
			_, err = f.cfg.Ledger.Swap(ctx, key, version, data)
		}
		if err == nil {
			return verified, version == "", nil
		}
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, ledger.ErrConflict) {
			return events.Result{}, false, err
		}
	}
}

// verify returns the result as it can be believed.
func (f *Finisher) verify(ctx context.Context, req events.Request, res events.Result) (events.Result, error) {
	res = res.Clean()
	if res.FinishedAt.IsZero() {
		res.FinishedAt = f.cfg.Now().UTC()
	}
	if err := res.Validate(); err != nil {
		return refused(res, events.ClassInfra, "invalid result", err.Error()), nil
	}
	res.Repository, res.Tags = req.Image, slices.Clone(req.Tags)
	if res.Outcome != events.OutcomeSuccess || req.Image == "" {
		return res, nil
	}
	if res.Digest == "" {
		return refused(res, events.ClassPush, "no digest", "the executor reported success without the digest of an image"), nil
	}
	if f.cfg.CheckDigest == nil {
		return events.Result{}, errors.New("no registry is configured to verify the digest with")
	}
	err := f.cfg.CheckDigest(ctx, req.Image, res.Digest)
	switch {
	case err == nil:
		return res, nil
	case !errors.Is(err, fs.ErrNotExist):
		return events.Result{}, fmt.Errorf("verify digest %s in %s: %w", res.Digest, req.Image, err)
	case f.cfg.Now().Sub(res.FinishedAt) < f.cfg.DigestGrace:
		return events.Result{}, fmt.Errorf("digest %s is not in %s yet: %w", res.Digest, req.Image, errTooEarly)
	}
	return refused(res, events.ClassPush, "digest missing",
		fmt.Sprintf("the executor reported %s, which is not in %s", res.Digest, req.Image)), nil
}

// errTooEarly says that a digest may still appear.
var errTooEarly = errors.New("it may still appear")

// refused is the outcome instead of a result that cannot be believed.
func refused(res events.Result, class events.Class, reason, message string) events.Result {
	return events.Result{
		Outcome: events.OutcomeError, Class: class, Reason: reason, Message: message,
		StartedAt: res.StartedAt, FinishedAt: res.FinishedAt, ExitCode: res.ExitCode,
	}.Clean()
}

func (f *Finisher) isEmitted(ctx context.Context, buildID string) (bool, error) {
	_, _, err := f.cfg.Ledger.Get(ctx, record.EmittedKey(buildID))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// emit moves the tags, publishes the terminal event and marks that it did.
// first says that nobody has come this far with the build before.
func (f *Finisher) emit(ctx context.Context, req events.Request, res events.Result, first bool) error {
	moved, err := f.moveTags(ctx, req, res, first)
	if err != nil {
		return err
	}
	if err := f.noteBases(ctx, req, res); err != nil {
		return fmt.Errorf("remember base images: %w", err)
	}
	if err := f.noteSame(ctx, req, res); err != nil {
		return fmt.Errorf("remember what was built: %w", err)
	}
	e, err := events.FinishedEvent(req, res, moved)
	if err != nil {
		return err
	}
	if err := f.cfg.Publish(ctx, e); err != nil {
		return fmt.Errorf("publish %s: %w", e.ID(), err)
	}
	data, err := record.Encode(record.Emitted{At: f.cfg.Now().UTC(), EventID: e.ID(), TagsMoved: moved})
	if err != nil {
		return err
	}
	_, err = f.cfg.Ledger.Create(ctx, record.EmittedKey(req.BuildID), data)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f.cfg.Log.Info("build finished", "build", req.BuildID, "outcome", string(res.Outcome),
		"class", string(res.Class), "digest", res.Digest, "tags", moved)
	return nil
}
