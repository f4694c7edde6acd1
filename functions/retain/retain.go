package retain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// Window is how long the records of a build stay at least once it has ended: as long as
// the most patient of queues, one of Pub/Sub, may deliver the change again.
const Window = 31 * 24 * time.Hour

const (
	// grace is how long the log of a build stays at least once that has ended, which
	// whoever keeps it may still be at.
	grace = time.Hour
	// again is when a build that could not be removed is looked at again.
	again = 24 * time.Hour
	// atOnce is how many builds are looked at at the same time.
	atOnce = 8
	// page is how many keys are listed at a time.
	page = 500
)

// Rules say what stays. Zero values keep everything.
type Rules struct {
	Age    time.Duration // of builds that have ended, with all that is kept of them; of dead letters
	Logs   time.Duration // of logs, if that is less than Age
	Builds int           // so many, the newest, with their logs
}

// Config of a Keeper. Ledger and Now are required.
type Config struct {
	Ledger Ledger
	Rules  Rules
	// Forget removes what is kept of a build, or of a part of one, outside the ledger
	// when its log goes; nil: there is nothing.
	Forget func(id string) error
	Now    func() time.Time
	Log    *slog.Logger // nil discards
}

// Keeper applies Rules to a ledger.
type Keeper struct {
	cfg Config

	mu    sync.Mutex
	later map[string]time.Time // when to look again, by the id of a build that stays
}

// New returns a Keeper.
func New(cfg Config) (*Keeper, error) {
	if cfg.Ledger == nil || cfg.Now == nil {
		return nil, errors.New("keeper of builds needs a ledger and a clock")
	}
	if cfg.Rules.Age < 0 || cfg.Rules.Logs < 0 || cfg.Rules.Builds < 0 {
		return nil, errors.New("what is kept cannot be less than nothing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{cfg: cfg, later: map[string]time.Time{}}, nil
}

// Retain removes what the rules do not keep. It may be called at any time, also by
// several processes at once. What it could not remove it tries again the next time; the
// errors are returned together.
func (k *Keeper) Retain(ctx context.Context) error {
	if k.cfg.Rules == (Rules{}) {
		return nil
	}
	beyond, err := k.beyond(ctx)
	if err != nil {
		return err
	}
	logs, logsErr := k.retainLogs(ctx, beyond)
	builds, buildsErr := k.retainBuilds(ctx, beyond)
	if logs+builds > 0 {
		k.cfg.Log.Info("removed what is old", "logs", logs, "builds", builds)
	}
	errs := []error{logsErr, buildsErr}
	if k.cfg.Rules.Age > 0 {
		before := k.cfg.Now().Add(-k.cfg.Rules.Age)
		errs = append(errs, RemovePoison(ctx, k.cfg.Ledger, before), RemoveRefused(ctx, k.cfg.Ledger, before))
	}
	return errors.Join(errs...)
}

// beyond is the key in the list of builds after which there are more than the rules
// keep; "" if there is none.
func (k *Keeper) beyond(ctx context.Context) (string, error) {
	after := ""
	for left := k.cfg.Rules.Builds; left > 0; {
		keys, err := k.cfg.Ledger.List(ctx, record.IndexPrefix, after, min(left, page))
		if err != nil {
			return "", fmt.Errorf("count builds: %w", err)
		}
		if len(keys) == 0 {
			return "", nil
		}
		after, left = keys[len(keys)-1], left-len(keys)
	}
	return after, nil
}

// endOfList is after the key of every build in the list.
const endOfList = record.IndexPrefix + "~"

// since is the place in the list of builds after which those are that were requested
// before a time.
func since(t time.Time) string {
	return record.IndexKey(events.Request{RequestedAt: t, BuildID: "~"})
}

// first is the earlier of two places in the list of builds; "" is none.
func first(a, b string) string {
	if a == "" || b != "" && b < a {
		return b
	}
	return a
}

// retainLogs removes logs, and notes how far it has come: of older builds there are none
// any more.
func (k *Keeper) retainLogs(ctx context.Context, beyond string) (removed int, err error) {
	now, age, start := k.cfg.Now(), k.cfg.Rules.Age, beyond
	if logs := k.cfg.Rules.Logs; logs > 0 && (age == 0 || logs < age) {
		age = logs
	}
	if age > 0 {
		start = first(start, since(now.Add(-age)))
	}
	if start == "" {
		return 0, nil
	}
	var done record.LogsRemoved
	version, err := record.Load(ctx, k.cfg.Ledger, record.LogsRemovedKey, &done)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("look which logs were removed: %w", err)
	}
	if err != nil {
		done.After = endOfList
	}
	if start >= done.After {
		return 0, nil
	}
	var count atomic.Int64
	stays := "" // the last that could not be removed
	var mu sync.Mutex
	whole, err := k.each(ctx, start, done.After, func(key string) error {
		gone, err := k.removeLog(ctx, key, func(ended time.Time) bool {
			return age > 0 && now.Sub(ended) > age || beyond != "" && key > beyond && now.Sub(ended) > grace
		})
		if gone && err == nil {
			count.Add(1)
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		stays = max(stays, key)
		return err
	})
	if stays == "" {
		stays = start
	}
	if !whole || stays == done.After {
		return int(count.Load()), err
	}
	data, encErr := record.Encode(record.LogsRemoved{After: stays})
	if encErr != nil {
		return int(count.Load()), encErr
	}
	if _, swapErr := k.cfg.Ledger.Swap(ctx, record.LogsRemovedKey, version, data); swapErr != nil && !errors.Is(swapErr, ledger.ErrConflict) {
		err = errors.Join(err, fmt.Errorf("note which logs were removed: %w", swapErr))
	}
	return int(count.Load()), err
}

// removeLog removes the log of a build that has ended, of all its parts, if old says so
// of the time of its end. gone says that there is none now.
func (k *Keeper) removeLog(ctx context.Context, key string, old func(ended time.Time) bool) (gone bool, err error) {
	id := record.IndexBuildID(key)
	var req events.Request
	_, err = record.Load(ctx, k.cfg.Ledger, record.RequestKey(id), &req)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // it is removed whole
	}
	if err != nil {
		return false, fmt.Errorf("remove log of build %s: %w", id, err)
	}
	ended, err := Ended(ctx, k.cfg.Ledger, id)
	if err != nil || ended.IsZero() || !old(ended) {
		return false, err
	}
	for _, part := range append(req.Parts(), req) {
		if err := k.forget(part.BuildID); err != nil {
			return false, fmt.Errorf("remove log of build %s: %w", id, err)
		}
		if err := k.cfg.Ledger.Delete(ctx, record.LogKey(part.BuildID)); err != nil {
			return false, fmt.Errorf("remove log of build %s: %w", id, err)
		}
	}
	return true, nil
}

func (k *Keeper) forget(id string) error {
	if k.cfg.Forget == nil {
		return nil
	}
	return k.cfg.Forget(id)
}

// retainBuilds removes builds with all their records.
func (k *Keeper) retainBuilds(ctx context.Context, beyond string) (removed int, err error) {
	now, start := k.cfg.Now(), ""
	window := since(now.Add(-Window))
	age := max(k.cfg.Rules.Age, Window)
	if beyond != "" {
		start = max(beyond, window)
	}
	if k.cfg.Rules.Age > 0 {
		start = first(start, since(now.Add(-age)))
	}
	if start == "" {
		return 0, nil
	}
	var count atomic.Int64
	_, err = k.each(ctx, start, endOfList, func(key string) error {
		gone, err := k.removeBuild(ctx, key, func(ended time.Time) bool {
			return k.cfg.Rules.Age > 0 && now.Sub(ended) > age || beyond != "" && key > beyond && now.Sub(ended) > Window
		})
		if gone {
			count.Add(1)
		}
		return err
	})
	return int(count.Load()), err
}

// removeBuild removes a build that has ended, unless a register names it, if old says so
// of the time of its end.
func (k *Keeper) removeBuild(ctx context.Context, key string, old func(ended time.Time) bool) (gone bool, err error) {
	id := record.IndexBuildID(key)
	if !k.isDue(id) {
		return false, nil
	}
	var req events.Request
	_, err = record.Load(ctx, k.cfg.Ledger, record.RequestKey(id), &req)
	if errors.Is(err, fs.ErrNotExist) { // it was removed but for this; in the list it is entered last
		return true, k.cfg.Ledger.Delete(ctx, key)
	}
	if err != nil {
		return false, fmt.Errorf("remove build %s: %w", id, err)
	}
	ended, err := Ended(ctx, k.cfg.Ledger, id)
	if err != nil || ended.IsZero() || !old(ended) {
		return false, err
	}
	newest, err := Newest(ctx, k.cfg.Ledger, req)
	if err != nil {
		return false, err
	}
	if newest {
		k.stays(id)
		return false, nil
	}
	for _, part := range append(req.Parts(), req) {
		if err := k.forget(part.BuildID); err != nil {
			return false, fmt.Errorf("remove build %s: %w", id, err)
		}
	}
	if err := Remove(ctx, k.cfg.Ledger, req); err != nil {
		return false, fmt.Errorf("remove build %s: %w", id, err)
	}
	return true, nil
}

// isDue reports whether a build is to be looked at, and forgets that it was not.
func (k *Keeper) isDue(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, known := k.later[id]
	if known && k.cfg.Now().Before(at) {
		return false
	}
	delete(k.later, id)
	return true
}

// stays notes that a build is the newest of something, which it may be for years.
func (k *Keeper) stays(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.later[id] = k.cfg.Now().Add(again)
}

// each calls f, for some builds at once, for the keys in the list of builds that come
// after one place and up to another, and goes on after errors, of which it returns the
// first few. whole says that it has called it for all.
func (k *Keeper) each(ctx context.Context, after, last string, f func(key string) error) (whole bool, err error) {
	const most = 10
	var mu sync.Mutex
	var errs []error
	failed := 0
	for {
		keys, err := k.cfg.Ledger.List(ctx, record.IndexPrefix, after, page)
		if err != nil {
			return false, errors.Join(append(errs, fmt.Errorf("list builds: %w", err))...)
		}
		var group errgroup.Group
		group.SetLimit(atOnce)
		for _, key := range keys {
			if key > last || ctx.Err() != nil {
				break
			}
			group.Go(func() error {
				if err := f(key); err != nil {
					mu.Lock()
					defer mu.Unlock()
					if failed++; failed <= most {
						errs = append(errs, err)
					}
				}
				return nil
			})
		}
		_ = group.Wait() // errors are in errs
		if ctx.Err() != nil {
			return false, errors.Join(append(errs, context.Cause(ctx))...)
		}
		if len(keys) < page || keys[len(keys)-1] >= last {
			break
		}
		after = keys[len(keys)-1]
	}
	if failed > most {
		errs = append(errs, fmt.Errorf("and %d more", failed-most))
	}
	return true, errors.Join(errs...)
}
