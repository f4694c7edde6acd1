package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// handleImage builds again what stands on an image whose tag has moved: the
// newest successful build of every ref and object whose trigger listens to it,
// unless that build had this digest already. A digest makes at most one rebuild
// of each, however often its push is told.
func (d *Dispatcher) handleImage(ctx context.Context, c events.Change) ([]Decision, error) {
	image := c.Location + ":" + c.Name
	var decisions []Decision
	err := d.eachKey(ctx, record.BasesPrefix(image), func(key string) error {
		data, _, err := d.cfg.Ledger.Get(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		var based record.Based
		_, err = record.Load(ctx, d.cfg.Ledger, record.BasedKey(string(data)), &based)
		if errors.Is(err, fs.ErrNotExist) || err == nil && based.Images[image] == "" {
			return d.cfg.Ledger.Delete(ctx, key) // what it built last stands on something else
		}
		if err != nil {
			return err
		}
		decision, err := d.rebase(ctx, based, image, c.Generation)
		if err != nil {
			return fmt.Errorf("build %s again on %s: %w", based.BuildID, image, err)
		}
		if decision.Trigger != "" {
			decisions = append(decisions, decision)
		}
		return nil
	})
	return decisions, err
}

// rebase decides whether one register is to be built again on an image.
func (d *Dispatcher) rebase(ctx context.Context, based record.Based, image, digest string) (Decision, error) {
	t, ok := d.cfg.Triggers.Named(based.Trigger)
	if !ok || t.Tenant != based.Tenant {
		return Decision{}, nil
	}
	source := t.BaseOf(image)
	if source == nil {
		return Decision{}, nil
	}
	if based.Images[image] == digest {
		return Decision{Trigger: t.Name, BuildID: based.BuildID, Status: StatusIgnored, Reason: "it stands on this digest already"}, nil
	}
	l := record.Later{Register: based.Register, Cause: "base " + image + "@" + digest, Priority: events.PriorityRebuild}
	if _, _, err := d.cfg.Ledger.Get(ctx, record.LaterKey(l.Register, l.Cause)); errors.Is(err, fs.ErrNotExist) && source.Every > 0 {
		if l.Due, err = d.reserve(ctx, t, source.Every); err != nil {
			return Decision{}, err
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Decision{}, err
	}
	decision, err := d.later(ctx, l)
	decision.Trigger = t.Name
	return decision, err
}

// reserve takes the trigger's next turn.
func (d *Dispatcher) reserve(ctx context.Context, t trigger.Trigger, every time.Duration) (time.Time, error) {
	key := record.RateKey(t.Tenant, t.Name)
	for {
		var rate record.Rate
		version, err := record.Load(ctx, d.cfg.Ledger, key, &rate)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return time.Time{}, err
		}
		due := d.cfg.Now().UTC()
		if rate.Next.After(due) {
			due = rate.Next
		}
		data, err := record.Encode(record.Rate{Next: due.Add(every)})
		if err != nil {
			return time.Time{}, err
		}
		if _, err = d.cfg.Ledger.Swap(ctx, key, version, data); err == nil {
			return due, nil
		}
		if !errors.Is(err, ledger.ErrConflict) {
			return time.Time{}, err
		}
	}
}
