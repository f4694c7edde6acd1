package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/functions/retain"
	"github.com/kilnhook/kiln/infra/local/bucket"
	"github.com/kilnhook/kiln/infra/local/keep"
)

// Retain removes builds with their logs, and contexts, that the rules do not
// keep, and dead letters that are too old. A build that has not ended is left
// alone, and so are the newest of each ref and object, what a build that has not
// ended needs, and the newest generation of each context: with them goes nothing
// that a redelivery, a rebuild or a download could miss. Images stay: they are
// the registry's.
func (s *Stack) Retain(ctx context.Context) error {
	if s.cfg.Keep == (keep.Rules{}) {
		return nil
	}
	builds, err := s.keepBuilds(ctx)
	if err != nil {
		return fmt.Errorf("look for old builds: %w", err)
	}
	contexts, err := s.keepContexts(ctx)
	if err != nil {
		return fmt.Errorf("look for old contexts: %w", err)
	}
	var errs []error
	for _, i := range keep.Remove(append(builds, contexts...), s.cfg.Keep, s.cfg.Now()) {
		kind, id, _ := strings.Cut(i.ID, " ")
		if kind == "build" {
			err = s.removeBuild(ctx, id)
		} else {
			err = s.removeContext(ctx, id)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove old %s: %w", i.ID, err))
		}
	}
	if s.cfg.Keep.Age > 0 {
		errs = append(errs, retain.RemovePoison(ctx, s.ledger, s.cfg.Now().Add(-s.cfg.Keep.Age)))
	}
	return errors.Join(errs...)
}

// keepBuilds lists all builds.
func (s *Stack) keepBuilds(ctx context.Context) ([]keep.Item, error) {
	var items []keep.Item
	after := ""
	for {
		keys, err := s.ledger.List(ctx, record.IndexPrefix, after, 500)
		if err != nil || len(keys) == 0 {
			return items, err
		}
		for _, key := range keys {
			after = key
			item, err := s.keepBuild(ctx, key)
			if err != nil {
				return nil, err
			}
			items = append(items, item)
		}
	}
}

// keepBuild describes the build that a key of the list of builds is of.
func (s *Stack) keepBuild(ctx context.Context, key string) (keep.Item, error) {
	id := record.IndexBuildID(key)
	item := keep.Item{ID: "build " + key, At: s.cfg.Now(), Pinned: true}
	b, err := s.build(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return keep.Item{ID: item.ID}, nil // it was removed but for its place in the list, into which it comes last
	}
	if err != nil {
		return item, err
	}
	item.Size = sizeOf(s.path("builds", id))
	for _, part := range b.Request.Parts() {
		item.Size += sizeOf(s.path("builds", part.BuildID))
	}
	ended, err := retain.Ended(ctx, s.ledger, id)
	if err != nil {
		return item, err
	}
	if !ended.IsZero() {
		item.At = ended
	}
	_, live := s.launcher.Status(id)
	newest, err := retain.Newest(ctx, s.ledger, b.Request)
	item.Pinned = live || ended.IsZero() || newest
	return item, err
}

// sizeOf is what the files below a directory take.
func sizeOf(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil // what cannot be read is not counted
	})
	return total
}

// removeBuild removes a build that has ended: its log first and its place in
// the list last, so that what a crash leaves is found again.
func (s *Stack) removeBuild(ctx context.Context, key string) error {
	item, err := s.keepBuild(ctx, key)
	if err != nil || item.Pinned {
		return err // it was asked for again meanwhile
	}
	b, err := s.build(ctx, record.IndexBuildID(key))
	if errors.Is(err, fs.ErrNotExist) {
		return s.ledger.Delete(ctx, key)
	}
	if err != nil {
		return err
	}
	for _, req := range append(b.Request.Parts(), b.Request) {
		if err := os.RemoveAll(s.path("builds", req.BuildID)); err != nil {
			return err
		}
	}
	return retain.Remove(ctx, s.ledger, b.Request)
}

// keepContexts lists all generations in the bucket of contexts.
func (s *Stack) keepContexts(ctx context.Context) ([]keep.Item, error) {
	needed, err := s.neededContexts(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.bucket.Versions(bucket.Contexts)
	if err != nil {
		return nil, err
	}
	var items []keep.Item
	last := ""
	for _, o := range all { // by name, the newest first
		newest := o.Name != last
		last = o.Name
		items = append(items, keep.Item{
			ID: "context " + o.Generation + " " + o.Name, At: o.Created, Size: o.Size,
			Pinned: newest && !o.Deleted || needed[o.Generation+" "+o.Name],
		})
	}
	return items, nil
}

// neededContexts are those of builds that have not ended.
func (s *Stack) neededContexts(ctx context.Context) (map[string]bool, error) {
	needed := map[string]bool{}
	keys, err := s.ledger.List(ctx, record.OpenPrefix, "", 0)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		var open record.Open
		if _, err := record.Load(ctx, s.ledger, key, &open); err == nil {
			c := open.Request.Change
			needed[c.Generation+" "+c.Name] = true
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return needed, nil
}

func (s *Stack) removeContext(ctx context.Context, id string) error {
	needed, err := s.neededContexts(ctx)
	if err != nil || needed[id] {
		return err
	}
	generation, name, _ := strings.Cut(id, " ")
	_, err = s.bucket.Delete(bucket.Contexts, name, generation)
	return err
}
