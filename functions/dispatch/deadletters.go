package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/functions/record"
)

// DeadLetter is a request that could not be understood.
type DeadLetter struct {
	Key string `json:"key"`
	record.Poison
}

// DeadLetters lists what could not be understood, oldest day first: at most
// limit, after the key given.
func (d *Dispatcher) DeadLetters(ctx context.Context, after string, limit int) ([]DeadLetter, error) {
	keys, err := d.cfg.Ledger.List(ctx, record.PoisonPrefix, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	letters := []DeadLetter{}
	for _, key := range keys {
		l := DeadLetter{Key: key}
		if _, err := record.Load(ctx, d.cfg.Ledger, key, &l.Poison); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("list dead letters: %w", err)
		}
		letters = append(letters, l)
	}
	return letters, nil
}

// Replay reads a dead letter again, as after an update that understands it, and
// handles what is in it. It is removed if that went well. Replaying is safe:
// what was built before is a duplicate. The error wraps fs.ErrNotExist if there
// is no such letter, and is a *source.MalformedError if it still cannot be
// understood.
func (d *Dispatcher) Replay(ctx context.Context, key string) ([]Decision, error) {
	p, err := d.deadLetter(ctx, key)
	if err != nil {
		return nil, err
	}
	if p.Cut {
		return nil, source.Malformed("dead letter", "only its beginning was kept")
	}
	h := http.Header{}
	for name, value := range p.Header {
		h.Set(name, value)
	}
	changes, err := Trusted(p.Door, d.cfg.Bitbucket.Server, h, p.Body)
	if _, ignored := errors.AsType[*source.IgnoredError](err); err != nil && !ignored {
		return nil, fmt.Errorf("replay %s: %w", key, err)
	}
	decisions := []Decision{}
	for _, c := range changes {
		some, err := d.Handle(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("replay %s: %w", key, err)
		}
		decisions = append(decisions, some...)
	}
	return decisions, d.cfg.Ledger.Delete(ctx, key)
}

// Forget removes a dead letter. The error wraps fs.ErrNotExist if there is
// none.
func (d *Dispatcher) Forget(ctx context.Context, key string) error {
	if _, err := d.deadLetter(ctx, key); err != nil {
		return err
	}
	return d.cfg.Ledger.Delete(ctx, key)
}

func (d *Dispatcher) deadLetter(ctx context.Context, key string) (record.Poison, error) {
	var p record.Poison
	if !strings.HasPrefix(key, record.PoisonPrefix) {
		return p, fmt.Errorf("dead letter %q: %w", key, fs.ErrNotExist)
	}
	if _, err := record.Load(ctx, d.cfg.Ledger, key, &p); err != nil {
		return p, fmt.Errorf("dead letter %s: %w", key, err)
	}
	return p, nil
}
