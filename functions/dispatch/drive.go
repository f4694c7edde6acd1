package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// dispatch carries out what a change calls for, for one trigger.
func (d *Dispatcher) dispatch(ctx context.Context, m trigger.Match) (Decision, error) {
	verdict, open, err := d.accept(ctx, m)
	if err != nil {
		return Decision{}, err
	}
	decision := Decision{Trigger: m.Trigger.Name, BuildID: open.Request.BuildID, Reason: verdict.Reason}
	switch verdict.Action {
	case ActionBuild, ActionLate, ActionRedrive:
		decision.Status = StatusNew
		if verdict.Action == ActionRedrive {
			decision.Status = StatusDuplicate
		}
		return decision, d.drive(ctx, open)
	case ActionDelete:
		decision.Status = StatusIgnored
		return decision, d.cancelGroup(ctx, m.Request, verdict.Reason)
	case ActionStale:
		decision.Status = StatusStale
		return decision, d.reject(ctx, events.Rejected{
			Trigger: m.Trigger.Name, Tenant: m.Trigger.Tenant, Class: events.ClassSuperseded, Reason: verdict.Reason,
		}, m.Request.Change)
	}
	decision.Status = StatusIgnored
	return decision, nil
}

// accept decides on a change and enters it in its register. What it returns
// to be built is written down: the open record before the register, so that
// whatever the register names can be found by a sweep.
func (d *Dispatcher) accept(ctx context.Context, m trigger.Match) (Verdict, record.Open, error) {
	c := m.Request.Change
	key := record.RegisterKey(m.Trigger.Tenant, m.Trigger.Name, c)
	for {
		reg, version, err := d.register(ctx, key)
		if err != nil {
			return Verdict{}, record.Open{}, err
		}
		verdict := Decide(m, reg, Remote{}, d.cfg.Now().UTC())
		if verdict.Action == ActionAskRemote {
			verdict = Decide(m, reg, d.askRemote(ctx, c), d.cfg.Now().UTC())
		}
		if verdict.Action == ActionBuild {
			var skipped string
			if m, skipped, err = d.narrow(ctx, m, reg); err != nil {
				return Verdict{}, record.Open{}, err
			}
			if skipped != "" {
				verdict = skip(verdict, reg, skipped)
			}
		}
		switch verdict.Action {
		case ActionRedrive:
			open, err := d.openOf(ctx, m, *reg)
			return verdict, open, err
		case ActionBuild, ActionLate, ActionDelete, ActionSkip:
		default:
			return verdict, record.Open{}, nil
		}
		open, err := d.enter(ctx, m, verdict, reg, key, version)
		if !errors.Is(err, ledger.ErrConflict) {
			return verdict, open, err
		}
		// Somebody else was quicker: see what the change calls for now.
	}
}

// enter writes down what is to be built and then the register. The error
// matches ledger.ErrConflict if the register is not what it was.
func (d *Dispatcher) enter(ctx context.Context, m trigger.Match, v Verdict, reg *record.Register, key, version string) (record.Open, error) {
	var open record.Open
	if v.Action == ActionBuild || v.Action == ActionLate {
		open = d.prepare(m, v.Next)
		if err := d.create(ctx, record.OpenKey(open.Request), open); err != nil || v.Action == ActionLate {
			return open, err
		}
	}
	if err := d.settle(ctx, m, reg); err != nil {
		return record.Open{}, err
	}
	data, err := record.Encode(v.Next)
	if err != nil {
		return record.Open{}, err
	}
	_, err = d.cfg.Ledger.Swap(ctx, key, version, data)
	return open, err
}

// settle records the request of the build that a register names, in case that
// a crash left that undone: once the register names another, nothing else leads
// to it.
func (d *Dispatcher) settle(ctx context.Context, m trigger.Match, reg *record.Register) error {
	if reg == nil || reg.BuildID == "" {
		return nil
	}
	_, _, err := d.cfg.Ledger.Get(ctx, record.RequestKey(reg.BuildID))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	last := m.Request
	last.BuildID = reg.BuildID
	var open record.Open
	if _, err := record.Load(ctx, d.cfg.Ledger, record.OpenKey(last), &open); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // its group is another by now; a sweep has until then found it
		}
		return err
	}
	_, err = d.record(ctx, open.Request)
	return err
}

// register reads a register; it is nil if there is none.
func (d *Dispatcher) register(ctx context.Context, key string) (*record.Register, string, error) {
	var reg record.Register
	version, err := record.Load(ctx, d.cfg.Ledger, key, &reg)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	return &reg, version, nil
}

// askRemote asks the repository, if anybody can. That it does not answer is an
// answer too: time decides then.
func (d *Dispatcher) askRemote(ctx context.Context, c events.Change) Remote {
	if d.cfg.ResolveRef == nil {
		return Remote{Asked: true}
	}
	head, err := d.cfg.ResolveRef(ctx, c)
	if err != nil {
		d.cfg.Log.Warn("ask repository for ref", "repository", c.Location, "ref", c.Name, "err", err)
		return Remote{Asked: true}
	}
	return Remote{Asked: true, Known: true, Head: head}
}

// prepare completes the request of a change that the register accepted.
func (d *Dispatcher) prepare(m trigger.Match, reg record.Register) record.Open {
	open := record.Open{Request: m.Request}
	req := &open.Request
	req.Change.Files = nil // it served its purpose, and may be long
	req.BuildID, req.Sequence, req.Nonce, req.RequestedAt = reg.BuildID, reg.Sequence, reg.Nonce, reg.Updated
	if req.TraceParent == "" {
		req.TraceParent = events.NewTraceParent(req.BuildID)
	}
	address, err := d.cfg.Context(req.Change)
	if err == nil {
		err = m.Err
	}
	if err != nil {
		open.Problem = events.CleanText(err.Error(), events.MaxMessage)
	}
	req.Context = address
	return open
}

// openOf finds what the register names: in the ledger, or, if it was lost
// between two steps, by making it again.
func (d *Dispatcher) openOf(ctx context.Context, m trigger.Match, reg record.Register) (record.Open, error) {
	open := d.prepare(m, reg)
	var stored record.Open
	_, err := record.Load(ctx, d.cfg.Ledger, record.OpenKey(open.Request), &stored)
	if err == nil {
		return stored, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		_, err = record.Load(ctx, d.cfg.Ledger, record.RequestKey(reg.BuildID), &stored.Request)
	}
	switch {
	case err == nil:
		return stored, nil
	case !errors.Is(err, fs.ErrNotExist):
		return record.Open{}, err
	}
	if m, _, err = d.narrow(ctx, m, nil); err != nil {
		return record.Open{}, err
	}
	open = d.prepare(m, reg)
	return open, d.create(ctx, record.OpenKey(open.Request), open)
}

// drive sees to it that a build that was accepted is recorded, launched and
// alone in its group as far as the policy wants that. It may be repeated at any
// time: what was done is not done again, and nothing is once there is a result.
func (d *Dispatcher) drive(ctx context.Context, open record.Open) error {
	req, err := d.record(ctx, open.Request)
	if err != nil {
		return err
	}
	if err := d.announce(ctx, req); err != nil {
		return err
	}
	if res, err := d.result(ctx, req.BuildID); err == nil {
		return d.close(ctx, req, res)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if open.Problem != "" {
		_, err := d.cfg.Finisher.Finish(ctx, req.BuildID, events.Result{
			Outcome: events.OutcomeError, Class: events.ClassConfig, Reason: "cannot be built", Message: open.Problem,
			FinishedAt: d.cfg.Now().UTC(),
		})
		return err
	}
	if r, ok := d.cfg.Finisher.(Reuser); ok {
		done, err := r.Reuse(ctx, req)
		if err != nil {
			return err
		}
		if done {
			d.cfg.Log.Info("built before; only tagged", "build", req.BuildID)
			return d.supersede(ctx, req)
		}
	}
	if len(req.Platforms) > 0 {
		err = d.launchParts(ctx, req)
	} else {
		err = d.launch(ctx, req)
	}
	if err != nil {
		return err
	}
	if err := d.haltCancelled(ctx, req.BuildID); err != nil {
		return err
	}
	return d.supersede(ctx, req)
}

// haltCancelled stops a build that was cancelled just before it was launched: whoever
// cancelled it found nothing to stop.
func (d *Dispatcher) haltCancelled(ctx context.Context, buildID string) error {
	switch res, err := d.result(ctx, buildID); {
	case errors.Is(err, fs.ErrNotExist), err == nil && res.Outcome != events.OutcomeCancelled:
		return nil
	case err != nil:
		return err
	}
	if err := d.halt(ctx, buildID); err != nil {
		return fmt.Errorf("stop build %s, which was cancelled: %w", buildID, err)
	}
	return nil
}

// close takes a build that has an outcome out of the open ones. Of two that
// accept one change at once, the slower may write it there after the other has
// seen it finished.
func (d *Dispatcher) close(ctx context.Context, req events.Request, res events.Result) error {
	if _, _, err := d.cfg.Ledger.Get(ctx, record.OpenKey(req)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if res.Outcome == events.OutcomeCancelled {
		return d.stop(ctx, req.BuildID, res)
	}
	_, err := d.cfg.Finisher.Finish(ctx, req.BuildID, res)
	return err
}

// record stores a request unless it is, and returns the one that is stored: of
// several dispatchers that accept one change at once, one's counts for all.
func (d *Dispatcher) record(ctx context.Context, req events.Request) (events.Request, error) {
	key := record.RequestKey(req.BuildID)
	data, err := record.Encode(req)
	if err != nil {
		return events.Request{}, err
	}
	_, err = d.cfg.Ledger.Create(ctx, key, data)
	if !errors.Is(err, fs.ErrExist) {
		return req, err
	}
	var stored events.Request
	if _, err := record.Load(ctx, d.cfg.Ledger, key, &stored); err != nil {
		return events.Request{}, err
	}
	stored.Attempt = max(stored.Attempt, req.Attempt)
	return stored, nil
}

// announce says that a build was requested and enters it in the index, whose
// entry means that it was said.
func (d *Dispatcher) announce(ctx context.Context, req events.Request) error {
	key := record.IndexKey(req)
	if _, _, err := d.cfg.Ledger.Get(ctx, key); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	e, err := events.RequestedEvent(req)
	if err != nil {
		return err
	}
	if err := d.cfg.Publish(ctx, e); err != nil {
		return fmt.Errorf("publish %s: %w", e.ID(), err)
	}
	if _, err := d.cfg.Ledger.Create(ctx, key, []byte(req.BuildID)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// launch hands a build to the launcher and says so.
func (d *Dispatcher) launch(ctx context.Context, req events.Request) error {
	if err := d.cfg.Launcher.Launch(ctx, req); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("launch build %s: %w", req.BuildID, err)
	}
	return d.queued(ctx, req)
}

// queued says that a build was handed to the launcher.
func (d *Dispatcher) queued(ctx context.Context, req events.Request) error {
	e, err := events.QueuedEvent(req, d.cfg.Now())
	if err != nil {
		return err
	}
	if err := d.cfg.Publish(ctx, e); err != nil {
		return fmt.Errorf("publish %s: %w", e.ID(), err)
	}
	return nil
}

// result reads the outcome of a build; the error matches fs.ErrNotExist if it
// has none.
func (d *Dispatcher) result(ctx context.Context, buildID string) (events.Result, error) {
	var claim record.Claim
	_, err := record.Load(ctx, d.cfg.Ledger, record.ResultKey(buildID), &claim)
	return claim.Result, err
}

// create stores a record unless there is one.
func (d *Dispatcher) create(ctx context.Context, key string, v any) error {
	data, err := record.Encode(v)
	if err != nil {
		return err
	}
	if _, err := d.cfg.Ledger.Create(ctx, key, data); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// reject says that a change will not be built.
func (d *Dispatcher) reject(ctx context.Context, r events.Rejected, c events.Change) error {
	e, err := events.RejectedEvent(d.cfg.Install, r, c, d.cfg.Now())
	if err != nil {
		return err
	}
	if err := d.cfg.Publish(ctx, e); err != nil {
		return fmt.Errorf("publish %s: %w", e.ID(), err)
	}
	return nil
}
