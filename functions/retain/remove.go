// Package retain removes from the ledger what is no longer wanted: logs of builds that
// have ended, their records, and what was kept for people.
//
// What a redelivery could ask for stays. A change that comes again is known by the
// register of its ref or object, which is never removed, nor is the build that a
// register names; an older upload of which every generation is built is known by the
// records of its own build, so these stay for [Window] whatever the rules say. Registers,
// tags, schedules and rates are of no build, and stay.
package retain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// Ledger is the part of a ledger that things are removed from.
type Ledger interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// Ended returns when the end of a build was told; the zero time if it was not, so that
// there is still something to do with it.
func Ended(ctx context.Context, l Ledger, id string) (time.Time, error) {
	var emitted record.Emitted
	if _, err := record.Load(ctx, l, record.EmittedKey(id), &emitted); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, fmt.Errorf("look whether build %s has ended: %w", id, err)
	}
	return emitted.At, nil
}

// Newest reports whether a build is the one that the register of its ref or object
// names: a redelivery, a rebuild or a base image may ask for it.
func Newest(ctx context.Context, l Ledger, req events.Request) (bool, error) {
	var reg record.Register
	_, err := record.Load(ctx, l, record.RegisterKey(req.Tenant, req.Trigger, req.Change), &reg)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for what came after build %s: %w", req.BuildID, err)
	}
	return err == nil && reg.BuildID == req.BuildID, nil
}

// Remove removes the records of a build that has ended, with its log: its place in the
// list last, so that what a crash leaves is found again.
func Remove(ctx context.Context, l Ledger, req events.Request) error {
	for _, part := range req.Parts() { // before the whole, which names them
		if err := removeRecords(ctx, l, part.BuildID); err != nil {
			return err
		}
	}
	if err := removeNamed(ctx, l, req); err != nil {
		return err
	}
	if err := removeRecords(ctx, l, req.BuildID); err != nil {
		return err
	}
	return l.Delete(ctx, record.IndexKey(req))
}

// removeRecords removes what there is below a build's id: the request last, as without
// it nobody would know the rest.
func removeRecords(ctx context.Context, l Ledger, id string) error {
	keys, err := l.List(ctx, record.BuildsPrefix+id+"/", "", 0)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if key == record.RequestKey(id) {
			continue
		}
		if err := l.Delete(ctx, key); err != nil {
			return err
		}
	}
	return l.Delete(ctx, record.RequestKey(id))
}

// removeNamed removes what is kept of the commit of a build, if it is this one's: what
// could be tagged instead of built, and what its forge was told last.
func removeNamed(ctx context.Context, l Ledger, req events.Request) error {
	for _, key := range []string{record.SameKey(req), record.StatusKey(req)} {
		var named struct {
			BuildID string `json:"buildId"`
		}
		_, err := record.Load(ctx, l, key, &named)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if named.BuildID != req.BuildID {
			continue
		}
		if err := l.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// RemovePoison removes what could not be understood on the days before one.
func RemovePoison(ctx context.Context, l Ledger, before time.Time) error {
	keys, err := l.List(ctx, record.PoisonPrefix, "", 0)
	if err != nil {
		return fmt.Errorf("look for old dead letters: %w", err)
	}
	oldest := record.PoisonPrefix + before.UTC().Format(time.DateOnly)
	for _, key := range keys {
		if key >= oldest {
			return nil
		}
		if err := l.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove old dead letter: %w", err)
		}
	}
	return nil
}

// RemoveRefused removes the events that a sink refused before a time.
func RemoveRefused(ctx context.Context, l Ledger, before time.Time) error {
	keys, err := l.List(ctx, record.RefusedPrefix, "", 0)
	if err != nil {
		return fmt.Errorf("look for old events that were refused: %w", err)
	}
	for _, key := range keys {
		var refused struct {
			At time.Time `json:"at"`
		}
		_, err := record.Load(ctx, l, key, &refused)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !refused.At.Before(before) {
			continue
		}
		if err == nil {
			err = l.Delete(ctx, key)
		}
		if err != nil {
			return fmt.Errorf("remove old event that was refused: %w", err)
		}
	}
	return nil
}
