package bucket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/durable"
)

// A put owes its announcement from before it is visible until OnObject has
// succeeded. The debt is a file in pending/ that holds the object's record.

func (s *Store) pendingPath(o Object) string {
	return s.path("pending", filepath.Base(s.objectDir(o.Bucket, o.Name))+"-"+o.Bucket+"-"+o.Generation)
}

func (s *Store) owe(o Object) error {
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("note announcement of %s/%s: %w", o.Bucket, o.Name, err)
	}
	return durable.WriteFile(s.pendingPath(o), data, 0o600)
}

func (s *Store) owed(o Object) bool {
	_, err := os.Stat(s.pendingPath(o))
	return err == nil
}

func (s *Store) settle(o Object) error {
	return durable.Remove(s.pendingPath(o))
}

// announce tells OnObject of a generation and settles the debt for it.
func (s *Store) announce(ctx context.Context, o Object) error {
	if err := s.opts.OnObject(ctx, change(o)); err != nil {
		return fmt.Errorf("%w: %s/%s: %w", ErrNotHandled, o.Bucket, o.Name, err)
	}
	return s.settle(o)
}

// change says that a generation arrived. Its delivery is natural: the same
// generation is the same change however often it is told.
func change(o Object) events.Change {
	return events.Change{
		Kind: events.KindObject, Location: "kiln://" + o.Bucket, Name: o.Name, Generation: o.Generation,
		Size: o.Size, Metadata: o.Metadata, ContentType: o.ContentType, Time: o.Created,
		Delivery: o.Bucket + "/" + o.Generation,
	}
}

// Sweep announces what is still owed. Of several generations of one object
// only the newest is announced: none of the others was acknowledged. It goes
// on after an error and returns all of them joined.
func (s *Store) Sweep(ctx context.Context) error {
	entries, err := os.ReadDir(s.path("pending"))
	if err != nil {
		return fmt.Errorf("sweep bucket: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		if err := s.sweepOne(ctx, s.path("pending", e.Name())); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Store) sweepOne(ctx context.Context, path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || filepath.Base(path)[0] == '.' {
		return nil // settled meanwhile, or being written
	}
	if err != nil {
		return fmt.Errorf("sweep bucket: %w", err)
	}
	var o Object
	if err := json.Unmarshal(data, &o); err != nil {
		return fmt.Errorf("sweep bucket: read %s: %w", path, err)
	}
	dir := s.objectDir(o.Bucket, o.Name)
	mu := s.stripe(dir)
	mu.Lock()
	last, err := s.latest(dir)
	mu.Unlock()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || last.Generation < o.Generation {
		// The put did not get as far as its record: it never was.
		return errors.Join(removeIfThere(s.dataPath(o)), durable.Remove(path))
	}
	if last.Generation != o.Generation {
		return durable.Remove(path)
	}
	return s.announce(ctx, o)
}
