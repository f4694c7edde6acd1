package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// ErrOutdated is the error of Rebuild for a build that is not of the last
// change of its ref or object.
var ErrOutdated = errors.New("a later change was accepted; build that again instead")

// Rebuild builds once more what a build built. cause says why; a cause that
// was given before for the same change is the same build again, so a caller
// may repeat itself. The error matches ErrOutdated if the ref or object has
// moved on, and fs.ErrNotExist if there is no such build.
func (d *Dispatcher) Rebuild(ctx context.Context, buildID, cause string) (Decision, error) {
	var req events.Request
	if _, err := record.Load(ctx, d.cfg.Ledger, record.RequestKey(buildID), &req); err != nil {
		return Decision{}, fmt.Errorf("build %s again: %w", buildID, err)
	}
	key := record.RegisterKey(req.Tenant, req.Trigger, req.Change)
	reg, _, err := d.register(ctx, key)
	if err == nil && (reg == nil || reg.Sequence != req.Sequence) {
		err = ErrOutdated
	}
	if err != nil {
		return Decision{}, fmt.Errorf("build %s again: %w", buildID, err)
	}
	return d.again(ctx, key, cause, events.PriorityInteractive)
}

// again builds the last change of a register once more.
func (d *Dispatcher) again(ctx context.Context, key, cause, priority string) (Decision, error) {
	for {
		decision, err := d.tryAgain(ctx, key, cause, priority)
		if !errors.Is(err, ledger.ErrConflict) {
			return decision, err
		}
	}
}

func (d *Dispatcher) tryAgain(ctx context.Context, key, cause, priority string) (Decision, error) {
	reg, version, err := d.register(ctx, key)
	if err != nil {
		return Decision{}, err
	}
	ignored := func(format string, args ...any) (Decision, error) {
		return Decision{Status: StatusIgnored, Reason: fmt.Sprintf(format, args...)}, nil
	}
	if reg == nil || reg.BuildID == "" {
		return ignored("nothing was built of it yet")
	}
	t, ok := d.cfg.Triggers.Named(reg.Trigger)
	if !ok || t.Tenant != reg.Tenant {
		return ignored("there is no trigger %s any more", reg.Trigger)
	}
	next, done := repeat(*reg, cause, d.cfg.Now().UTC())
	m := t.Again(next.Change)
	m.Request.Install, m.Request.Cause = d.cfg.Install, cause
	if m.Request.Priority == events.PriorityPush || priority == events.PriorityInteractive {
		m.Request.Priority = priority
	}
	if done != "" {
		if done != reg.BuildID {
			return Decision{Trigger: t.Name, BuildID: done, Status: StatusDuplicate, Reason: "it was built for this before"}, nil
		}
		open, err := d.openOf(ctx, m, *reg)
		if err != nil {
			return Decision{}, err
		}
		return Decision{Trigger: t.Name, BuildID: done, Status: StatusDuplicate, Reason: "it was built for this before"}, d.drive(ctx, open)
	}
	m, skipped, err := d.narrow(ctx, m, nil)
	if err != nil {
		return Decision{}, err
	}
	if skipped != "" {
		return ignored("%s", skipped)
	}
	verdict := Verdict{Action: ActionBuild, Reason: cause, Next: next}
	open, err := d.enter(ctx, m, verdict, reg, key, version)
	if err != nil {
		return Decision{}, err
	}
	d.cfg.Log.Info("building again", "trigger", t.Name, "build", next.BuildID, "cause", cause)
	return Decision{Trigger: t.Name, BuildID: next.BuildID, Status: StatusNew, Reason: cause}, d.drive(ctx, open)
}

// later notes that a register is to be built again once the trigger's rate
// allows it, and does so if that is now.
func (d *Dispatcher) later(ctx context.Context, l record.Later) (Decision, error) {
	key := record.LaterKey(l.Register, l.Cause)
	data, err := record.Encode(l)
	if err != nil {
		return Decision{}, err
	}
	if _, err := d.cfg.Ledger.Create(ctx, key, data); errors.Is(err, fs.ErrExist) {
		if _, err := record.Load(ctx, d.cfg.Ledger, key, &l); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Decision{}, err
		}
	} else if err != nil {
		return Decision{}, err
	}
	if l.Due.After(d.cfg.Now()) {
		return Decision{Status: StatusIgnored, Reason: fmt.Sprintf("it waits its turn until %s", l.Due.Format("15:04:05 MST"))}, nil
	}
	decision, err := d.again(ctx, l.Register, l.Cause, l.Priority)
	if err != nil {
		return Decision{}, err
	}
	return decision, d.cfg.Ledger.Delete(ctx, key)
}

// sweepLater builds what has waited long enough.
func (d *Dispatcher) sweepLater(ctx context.Context) error {
	return d.eachKey(ctx, record.LaterPrefix, func(key string) error {
		var l record.Later
		if _, err := record.Load(ctx, d.cfg.Ledger, key, &l); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if l.Due.After(d.cfg.Now()) {
			return nil
		}
		_, err := d.later(ctx, l)
		return err
	})
}

// eachKey calls f for every key below a prefix, and goes on after errors,
// which it returns together.
func (d *Dispatcher) eachKey(ctx context.Context, prefix string, f func(key string) error) error {
	const page = 100
	var errs []error
	after := ""
	for {
		keys, err := d.cfg.Ledger.List(ctx, prefix, after, page)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, key := range keys {
			if err := f(key); err != nil {
				errs = append(errs, err)
			}
		}
		if len(keys) < page {
			return errors.Join(errs...)
		}
		after = keys[len(keys)-1]
	}
}
