package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/gitremote"
	"github.com/kilnhook/kiln/infra/ledger"
)

// sweepSchedules builds what is due. Of several times that passed since the
// last sweep, as while the program did not run, only the last counts.
func (d *Dispatcher) sweepSchedules(ctx context.Context) error {
	var errs []error
	for _, t := range d.cfg.Triggers.All() {
		for _, s := range t.On {
			if s.Schedule == nil {
				continue
			}
			if err := d.sweepSchedule(ctx, t, s.Schedule); err != nil {
				errs = append(errs, fmt.Errorf("schedule %q of trigger %s: %w", s.Schedule.Cron, t.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (d *Dispatcher) sweepSchedule(ctx context.Context, t trigger.Trigger, s *trigger.Schedule) error {
	key := record.TimesKey(t.Tenant, t.Name, s.Cron, s.Location, s.Name)
	now := d.cfg.Now().UTC()
	var times record.Times
	version, err := record.Load(ctx, d.cfg.Ledger, key, &times)
	if errors.Is(err, fs.ErrNotExist) {
		return d.create(ctx, key, record.Times{Last: now}) // it begins now
	}
	if err != nil {
		return err
	}
	tick := lastTick(s, times.Last, now)
	if tick.IsZero() {
		return nil
	}
	if err := d.scheduled(ctx, t, s, tick); err != nil {
		return err
	}
	data, err := record.Encode(record.Times{Last: tick})
	if err != nil {
		return err
	}
	if _, err := d.cfg.Ledger.Swap(ctx, key, version, data); err != nil && !errors.Is(err, ledger.ErrConflict) {
		return err
	}
	return nil
}

// maxTicks bounds how many missed times are looked through at once.
const maxTicks = 10_000

// lastTick is the last time of a schedule after last and not after now; zero
// if there is none.
func lastTick(s *trigger.Schedule, last, now time.Time) time.Time {
	var tick time.Time
	for range maxTicks {
		next := s.Next(last)
		if next.IsZero() || next.After(now) {
			break
		}
		tick, last = next, next
	}
	return tick
}

// scheduled builds what a schedule names: where the repository has moved and
// nobody said so, what it has now; else what was built last, once more.
func (d *Dispatcher) scheduled(ctx context.Context, t trigger.Trigger, s *trigger.Schedule, tick time.Time) error {
	c := events.Change{Kind: s.Kind, Location: s.Location, Name: s.Name}
	key := record.RegisterKey(t.Tenant, t.Name, c)
	if s.Kind == events.KindGit && d.cfg.ResolveRef != nil {
		reg, _, err := d.register(ctx, key) // before the repository: see found
		if err != nil {
			return err
		}
		head, err := d.cfg.ResolveRef(ctx, c)
		if err != nil {
			d.cfg.Log.Warn("ask repository for a schedule", "repository", c.Location, "ref", c.Name, "err", err)
		}
		if head != "" && (reg == nil || reg.Head != head) {
			return d.found(ctx, t, reg, c, gitremote.Ref{Head: head}, "schedule")
		}
	}
	cause := "schedule " + s.Cron + " at " + tick.UTC().Format(time.RFC3339)
	decision, err := d.again(ctx, key, cause, events.PriorityScheduled)
	if err == nil && decision.Status == StatusIgnored {
		d.cfg.Log.Info("scheduled build not made", "trigger", t.Name, "name", s.Name, "reason", decision.Reason)
	}
	return err
}

// found dispatches a change that nobody told of, to one trigger only. The
// register must have been read before the repository was asked: a webhook that
// comes in between then makes of this a repetition or a change that is stale,
// never one that is next.
func (d *Dispatcher) found(ctx context.Context, t trigger.Trigger, reg *record.Register, c events.Change, now gitremote.Ref, by string) error {
	c.Before, c.After = "", now.Head
	if reg != nil {
		c.Before = reg.Head
	}
	if c.Before == "" {
		c.Before = strings.Repeat("0", max(40, len(now.Head)))
	}
	if c.After == "" {
		c.After = strings.Repeat("0", len(c.Before))
	}
	c.Commit, c.Delivery, c.Time = now.Commit, by, d.cfg.Now().UTC()
	if err := c.Validate(); err != nil {
		return err
	}
	for _, m := range d.cfg.Triggers.Match(c) {
		if m.Trigger.Name != t.Name {
			continue
		}
		m.Request.Install = d.cfg.Install
		decision, err := d.dispatch(ctx, m)
		if err != nil {
			return err
		}
		d.cfg.Log.Warn("found a change that nobody told of", "by", by, "trigger", t.Name, "repository", c.Location,
			"ref", c.Name, "build", decision.BuildID, "status", string(decision.Status))
	}
	return nil
}

// sweepHeads asks the repositories of triggers that heal where their refs are,
// and dispatches what no webhook told of. What was there when a repository was
// first asked is not built.
func (d *Dispatcher) sweepHeads(ctx context.Context) error {
	if d.cfg.Repositories == nil {
		return nil
	}
	var errs []error
	for _, t := range d.cfg.Triggers.All() {
		for _, s := range t.On {
			if s.Git == nil || !s.Git.Heal {
				continue
			}
			if err := d.heal(ctx, t, s); err != nil {
				errs = append(errs, fmt.Errorf("heal %s for trigger %s: %w", s.Git.Repo, t.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (d *Dispatcher) heal(ctx context.Context, t trigger.Trigger, s trigger.Source) error {
	key := record.HeadsKey(t.Tenant, t.Name, s.Git.Repo)
	var last record.Heads
	version, err := record.Load(ctx, d.cfg.Ledger, key, &last)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	first := err != nil
	if d.cfg.Now().Sub(last.At) < d.cfg.HealEvery {
		return nil
	}
	refs, err := d.cfg.Repositories.Refs(ctx, s.Git.Repo)
	if err != nil {
		return err
	}
	now := record.Heads{At: d.cfg.Now().UTC(), Refs: map[string]string{}}
	for name, ref := range refs {
		if t.Wants(s.Git.Repo, name) {
			now.Refs[name] = ref.Head
		}
	}
	for _, name := range slices.Sorted(maps.Keys(union(last.Refs, now.Refs))) {
		if err := d.healRef(ctx, t, s.Git.Repo, name, refs[name], last.Refs[name], first); err != nil {
			return err
		}
	}
	data, err := record.Encode(now)
	if err != nil {
		return err
	}
	if _, err := d.cfg.Ledger.Swap(ctx, key, version, data); err != nil && !errors.Is(err, ledger.ErrConflict) {
		return err
	}
	return nil
}

// healRef dispatches a move of one ref unless the register has it.
func (d *Dispatcher) healRef(ctx context.Context, t trigger.Trigger, repo, name string, now gitremote.Ref, last string, first bool) error {
	c := events.Change{Kind: events.KindGit, Location: repo, Name: name}
	reg, _, err := d.register(ctx, record.RegisterKey(t.Tenant, t.Name, c))
	if err != nil {
		return err
	}
	switch {
	case reg != nil && reg.Head == now.Head: // it was told
		return nil
	case reg == nil && (first || now.Head == last): // it was there before anybody looked
		return nil
	case reg == nil && now.Head == "": // it came and went
		return nil
	}
	// The register was read after the repository was asked: ask again.
	if now, err = d.headOf(ctx, c); err != nil {
		return err
	}
	if reg == nil && now.Head == "" || reg != nil && reg.Head == now.Head {
		return nil
	}
	return d.found(ctx, t, reg, c, now, "sweep")
}

// headOf asks where a ref is now.
func (d *Dispatcher) headOf(ctx context.Context, c events.Change) (gitremote.Ref, error) {
	refs, err := d.cfg.Repositories.Refs(ctx, c.Location)
	return refs[c.Name], err
}

// union has the keys of both.
func union(a, b map[string]string) map[string]bool {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return all
}
