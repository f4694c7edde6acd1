package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/parts"
	"github.com/kilnhook/kiln/functions/record"
)

// launchParts hands every platform of a build to the launcher that has no result
// yet, and says so. A part's request is recorded first, so that what becomes of it
// is known for a part's.
func (d *Dispatcher) launchParts(ctx context.Context, req events.Request) error {
	all, err := d.partsOf(ctx, req)
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.Result != nil {
			continue
		}
		if err := d.launchPart(ctx, p.Request); err != nil {
			return err
		}
	}
	return d.queued(ctx, req)
}

func (d *Dispatcher) launchPart(ctx context.Context, part events.Request) error {
	part, err := d.record(ctx, part)
	if err != nil {
		return err
	}
	if err := d.cfg.Launcher.Launch(ctx, part); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("launch build %s for %s: %w", part.PartOf, part.Platform, err)
	}
	return nil
}

// partsOf is what is known of the parts of a build, but for where those without
// a result stand.
func (d *Dispatcher) partsOf(ctx context.Context, req events.Request) ([]parts.Part, error) {
	var all []parts.Part
	for _, part := range req.Parts() {
		p := parts.Part{Request: part, State: parts.Running}
		res, err := d.result(ctx, part.BuildID)
		switch {
		case err == nil:
			p.Result = &res
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("read what became of %s: %w", part.Platform, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// probeParts asks the launcher where the parts stand that have no result. A
// launcher that cannot tell is asked to launch them: it knows them by their ids.
func (d *Dispatcher) probeParts(ctx context.Context, all []parts.Part) error {
	prober, canTell := d.cfg.Launcher.(Prober)
	for i, p := range all {
		if p.Result != nil {
			continue
		}
		all[i].State = parts.None
		if !canTell {
			continue
		}
		state, err := prober.State(ctx, p.Request.BuildID)
		if err != nil {
			return fmt.Errorf("ask for %s: %w", p.Request.Platform, err)
		}
		all[i].State = parts.State(state)
	}
	return nil
}

// sweepParts does for a build for several platforms what a crash left undone, and
// reports whether the build goes on.
func (d *Dispatcher) sweepParts(ctx context.Context, open record.Open) (goesOn bool, err error) {
	req := open.Request
	if ended, err := d.cfg.Finisher.Advance(ctx, req.BuildID); ended || err != nil {
		return false, err
	}
	all, err := d.partsOf(ctx, req)
	if err == nil {
		err = d.probeParts(ctx, all)
	}
	if err != nil {
		return false, err
	}
	v := parts.Decide(all)
	for _, part := range v.Wait {
		if goesOn, err := d.overdue(ctx, req, part); !goesOn || err != nil {
			return goesOn, err
		}
	}
	if len(v.Launch) == 0 {
		return true, nil // what is decided by now, the next sweep or the last part does
	}
	if _, canTell := d.cfg.Launcher.(Prober); canTell && req.Attempt >= d.cfg.MaxAttempts {
		if err := d.giveUp(ctx, req); err != nil {
			return false, err
		}
		return false, d.halt(ctx, req.BuildID)
	}
	req.Attempt++
	for _, part := range v.Launch {
		part.Attempt = req.Attempt
		if err := d.launchPart(ctx, part); err != nil {
			return false, err
		}
	}
	return true, d.launchedAgain(ctx, open, req)
}

// halt stops the executors of a build.
func (d *Dispatcher) halt(ctx context.Context, buildID string) error {
	var req events.Request
	_, err := record.Load(ctx, d.cfg.Ledger, record.RequestKey(buildID), &req)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all := req.Parts()
	if len(all) == 0 {
		return d.cfg.Launcher.Cancel(ctx, buildID)
	}
	var errs []error
	for _, part := range all {
		errs = append(errs, d.cfg.Launcher.Cancel(ctx, part.BuildID))
	}
	return errors.Join(errs...)
}

// stateOf is where a build stands with its launcher. One for several platforms is
// pending until the first of them begins.
func (d *Dispatcher) stateOf(ctx context.Context, req events.Request) (State, error) {
	if len(req.Platforms) == 0 {
		return d.state(ctx, req.BuildID)
	}
	all, err := d.partsOf(ctx, req)
	if err == nil {
		err = d.probeParts(ctx, all)
	}
	if err != nil {
		return StateNone, err
	}
	state := StateNone
	for _, p := range all {
		switch {
		case p.Result != nil || p.State == parts.Running:
			return StateRunning, nil
		case p.State == parts.Pending:
			state = StatePending
		}
	}
	return state, nil
}
