package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// Cancel ends a build that has no outcome: it claims the outcome cancelled,
// stops the executor and publishes. An executor that succeeds meanwhile finds
// the claim taken, and its tags are not moved. The error matches ErrFinished if
// the build had another outcome, fs.ErrNotExist if there is no such build.
// Cancelling twice is no error.
func (d *Dispatcher) Cancel(ctx context.Context, buildID, reason string) error {
	if err := d.cancel(ctx, buildID, events.ClassNone, reason); err != nil {
		return fmt.Errorf("cancel build %s: %w", buildID, err)
	}
	return nil
}

func (d *Dispatcher) cancel(ctx context.Context, buildID string, class events.Class, reason string) error {
	claimed, _, err := d.cfg.Finisher.Claim(ctx, buildID, events.Result{
		Outcome: events.OutcomeCancelled, Class: class, Reason: reason, FinishedAt: d.cfg.Now().UTC(),
	})
	if err != nil {
		return err
	}
	if claimed.Outcome != events.OutcomeCancelled {
		return ErrFinished
	}
	return d.stop(ctx, buildID, claimed)
}

// stop stops the executor of a build whose outcome was claimed, and finishes
// the build.
func (d *Dispatcher) stop(ctx context.Context, buildID string, claimed events.Result) error {
	if err := d.halt(ctx, buildID); err != nil {
		return fmt.Errorf("stop executor: %w", err)
	}
	_, err := d.cfg.Finisher.Finish(ctx, buildID, claimed)
	return err
}

// supersede makes a group what the policy of its newest build wants it to be.
// That may be a newer one than the given: it looked for older builds before
// this one could be cancelled, so now this one has to look for it.
func (d *Dispatcher) supersede(ctx context.Context, req events.Request) error {
	newest := req
	var group []record.Open
	err := d.eachOpen(ctx, record.GroupPrefix(req.Tenant, req.Group), func(open record.Open) error {
		group = append(group, open)
		if open.Problem != "" || !before(newest, open.Request) {
			return nil
		}
		switch _, err := d.accepted(ctx, open.Request); {
		case err == nil:
			newest = open.Request
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		return nil
	})
	if err != nil || newest.Supersede != events.SupersedeCancelInProgress && newest.Supersede != events.SupersedeCancelPending {
		return err
	}
	var errs []error
	for _, open := range group {
		if before(open.Request, newest) {
			errs = append(errs, d.supersedeBy(ctx, newest, open))
		}
	}
	return errors.Join(errs...)
}

// supersedeBy does with an older build what the policy of a newer one says.
func (d *Dispatcher) supersedeBy(ctx context.Context, newest events.Request, old record.Open) error {
	if newest.Supersede == events.SupersedeCancelPending {
		if state, err := d.stateOf(ctx, old.Request); err != nil || state != StatePending {
			return err
		}
	}
	return d.cancelOpen(ctx, old, events.ClassSuperseded, "superseded by "+newest.BuildID)
}

// before reports whether a build of a group is older than another of it.
func before(a, b events.Request) bool {
	if a.Sequence != b.Sequence {
		return a.Sequence < b.Sequence
	}
	return a.Nonce < b.Nonce
}

// cancelGroup cancels all open builds of a request's group, as its ref is gone.
func (d *Dispatcher) cancelGroup(ctx context.Context, req events.Request, reason string) error {
	return d.eachOpen(ctx, record.GroupPrefix(req.Tenant, req.Group), func(old record.Open) error {
		return d.cancelOpen(ctx, old, events.ClassDeleted, reason)
	})
}

// cancelOpen cancels an open build. That it is finished is as good. One that
// was written down and never accepted, or not yet recorded, has nothing to
// cancel; whoever is at it will come to the same point.
func (d *Dispatcher) cancelOpen(ctx context.Context, old record.Open, class events.Class, reason string) error {
	err := d.cancel(ctx, old.Request.BuildID, class, reason)
	if errors.Is(err, ErrFinished) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cancel build %s: %w", old.Request.BuildID, err)
	}
	return nil
}

// eachOpen calls f for every open build below a prefix, and goes on after
// errors, which it returns together.
func (d *Dispatcher) eachOpen(ctx context.Context, prefix string, f func(record.Open) error) error {
	return d.eachKey(ctx, prefix, func(key string) error {
		var open record.Open
		_, err := record.Load(ctx, d.cfg.Ledger, key, &open)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // finished meanwhile
		}
		if err != nil {
			return err
		}
		return f(open)
	})
}

// state asks the launcher where a build stands, and takes it for running where
// the launcher cannot tell.
func (d *Dispatcher) state(ctx context.Context, buildID string) (State, error) {
	p, ok := d.cfg.Launcher.(Prober)
	if !ok {
		return StateRunning, nil
	}
	return p.State(ctx, buildID)
}
