package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// Sweep looks at every build that is not finished and does what a crash, here
// or of an executor, left undone: it finishes those that have a result, records
// and launches those that were accepted, launches again those whose executor is
// gone, gives up those that wait too long for one, enforces the policy of each
// group, and forgets what was never accepted. Then it builds again what is due,
// by a schedule or for a base image, and asks the repositories of triggers that
// heal for refs whose webhook was lost.
// It should run when a program starts and every few minutes. Errors about one
// build do not keep it from the others; they are returned together.
func (d *Dispatcher) Sweep(ctx context.Context) error {
	newest := map[string]events.Request{} // of those that go on, by the prefix of their group
	err := d.eachOpen(ctx, record.OpenPrefix, func(open record.Open) error {
		req := open.Request
		goesOn, err := d.sweep(ctx, open)
		if err != nil {
			return fmt.Errorf("build %s: %w", req.BuildID, err)
		}
		group := record.GroupPrefix(req.Tenant, req.Group)
		if known, ok := newest[group]; goesOn && (!ok || before(known, req)) {
			newest[group] = req
		}
		return nil
	})
	errs := []error{err}
	for _, req := range newest {
		errs = append(errs, d.supersede(ctx, req))
	}
	errs = append(errs, d.sweepLater(ctx), d.sweepSchedules(ctx), d.sweepHeads(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}

// sweep looks at one build and reports whether it goes on.
func (d *Dispatcher) sweep(ctx context.Context, open record.Open) (goesOn bool, err error) {
	id := open.Request.BuildID
	recorded, err := d.accepted(ctx, open.Request)
	if errors.Is(err, fs.ErrNotExist) {
		return false, d.forget(ctx, open)
	}
	if err != nil {
		return false, err
	}
	res, err := d.result(ctx, id)
	switch {
	case err == nil && (res.Outcome == events.OutcomeCancelled || len(open.Request.Platforms) > 0):
		return false, d.stop(ctx, id, res)
	case err == nil:
		_, err := d.cfg.Finisher.Finish(ctx, id, res)
		return false, err
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	case !recorded || open.Problem != "":
		return open.Problem == "", d.drive(ctx, open)
	}
	stored, err := d.record(ctx, open.Request)
	if err != nil {
		return false, err
	}
	if err := d.announce(ctx, stored); err != nil {
		return false, err
	}
	if len(open.Request.Platforms) > 0 {
		return d.sweepParts(ctx, open)
	}
	return d.relaunch(ctx, open)
}

// accepted reports whether a build's request is recorded. The error matches
// fs.ErrNotExist if it is not and no register names the build either.
func (d *Dispatcher) accepted(ctx context.Context, req events.Request) (recorded bool, err error) {
	_, _, err = d.cfg.Ledger.Get(ctx, record.RequestKey(req.BuildID))
	if !errors.Is(err, fs.ErrNotExist) {
		return err == nil, err
	}
	reg, _, err := d.register(ctx, record.RegisterKey(req.Tenant, req.Trigger, req.Change))
	if err != nil {
		return false, err
	}
	if reg == nil || reg.BuildID != req.BuildID {
		return false, fs.ErrNotExist
	}
	return false, nil
}

// forget removes a build that was written down and never accepted, once it is
// certain that nobody is still at it.
func (d *Dispatcher) forget(ctx context.Context, open record.Open) error {
	if d.cfg.Now().Sub(open.Request.RequestedAt) < d.cfg.OrphanAge {
		return nil
	}
	return d.cfg.Ledger.Delete(ctx, record.OpenKey(open.Request))
}

// relaunch launches a build that has no result, unless it exists, and reports
// whether it goes on. If it was launched too often already, it is given up.
func (d *Dispatcher) relaunch(ctx context.Context, open record.Open) (goesOn bool, err error) {
	req := open.Request
	if _, canTell := d.cfg.Launcher.(Prober); canTell {
		state, err := d.state(ctx, req.BuildID)
		if err != nil {
			return false, err
		}
		if state == StatePending {
			return d.overdue(ctx, req, req)
		}
		if state != StateNone {
			return true, nil
		}
		if req.Attempt >= d.cfg.MaxAttempts {
			return false, d.giveUp(ctx, req)
		}
	}
	req.Attempt++
	err = d.cfg.Launcher.Launch(ctx, req)
	if errors.Is(err, fs.ErrExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("launch: %w", err)
	}
	return true, d.launchedAgain(ctx, open, req)
}

// launchedAgain notes and tells that a build was launched once more.
func (d *Dispatcher) launchedAgain(ctx context.Context, open record.Open, req events.Request) error {
	d.cfg.Log.Warn("build launched again", "build", req.BuildID, "attempt", req.Attempt)
	if err := d.countAttempt(ctx, open, req); err != nil {
		return err
	}
	return d.queued(ctx, req)
}

// Waiter is what a Prober may be besides: it says since when a build waits for
// its executor to start, and for what.
type Waiter interface {
	Waiting(ctx context.Context, buildID string) (since time.Time, reason string, err error)
}

// overdue ends a build if an executor has not started in time, its own or that of
// a part, and reports whether the build goes on.
func (d *Dispatcher) overdue(ctx context.Context, req, waits events.Request) (goesOn bool, err error) {
	limit := req.PendingTimeout
	if limit == 0 {
		limit = d.cfg.PendingTimeout
	}
	if limit <= 0 {
		return true, nil
	}
	since, reason := req.RequestedAt, ""
	if w, ok := d.cfg.Launcher.(Waiter); ok {
		if since, reason, err = w.Waiting(ctx, waits.BuildID); err != nil {
			return true, err
		}
	}
	if d.cfg.Now().Sub(since) < limit {
		return true, nil
	}
	message := fmt.Sprintf("no executor started within %s", limit)
	if waits.PartOf != "" {
		message = waits.Platform + ": " + message
	}
	if reason != "" {
		message += ": " + reason
	}
	claimed, _, err := d.cfg.Finisher.Claim(ctx, req.BuildID, events.Result{
		Outcome: events.OutcomeFailed, Class: events.ClassInfraStart, Reason: "pending too long", Message: message,
		FinishedAt: d.cfg.Now().UTC(),
	})
	if err != nil {
		return false, err
	}
	return false, d.stop(ctx, req.BuildID, claimed)
}

// giveUp ends a build whose executor was lost too often.
func (d *Dispatcher) giveUp(ctx context.Context, req events.Request) error {
	_, err := d.cfg.Finisher.Finish(ctx, req.BuildID, events.Result{
		Outcome: events.OutcomeError, Class: events.ClassInfra, Reason: "executor lost",
		Message:    fmt.Sprintf("the executor was lost %d times without a result", req.Attempt),
		FinishedAt: d.cfg.Now().UTC(),
	})
	return err
}

// countAttempt writes down which attempt was launched. If somebody else did or
// the build finished meanwhile, there is nothing to count.
func (d *Dispatcher) countAttempt(ctx context.Context, open record.Open, req events.Request) error {
	key := record.OpenKey(req)
	var stored record.Open
	version, err := record.Load(ctx, d.cfg.Ledger, key, &stored)
	if errors.Is(err, fs.ErrNotExist) || err == nil && stored.Request.Attempt != open.Request.Attempt {
		return nil
	}
	if err != nil {
		return err
	}
	stored.Request = req
	data, err := record.Encode(stored)
	if err != nil {
		return err
	}
	if _, err := d.cfg.Ledger.Swap(ctx, key, version, data); err != nil && !errors.Is(err, ledger.ErrConflict) {
		return err
	}
	return nil
}
