package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
)

// TestGetMakesOnce proves that many who ask at once get one entry made once.
func TestGetMakesOnce(t *testing.T) {
	dir := Dir(filepath.Join(t.TempDir(), "new"))
	var made atomic.Int32
	g, ctx := errgroup.WithContext(t.Context())
	for range 8 {
		g.Go(func() error {
			entry, err := dir.Get(ctx, "thing", "1", func(_ context.Context, dir string) error {
				made.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)
			})
			if err != nil {
				return err
			}
			_, err = os.Stat(filepath.Join(entry, "file"))
			return err
		})
	}
	if err := g.Wait(); err != nil || made.Load() != 1 {
		t.Errorf("made %d times, error %v", made.Load(), err)
	}
}

// TestGetReplaces proves that a new key takes the place of the old entry and
// leaves entries of other names, and that a failure leaves nothing.
func TestGetReplaces(t *testing.T) {
	dir := Dir(t.TempDir())
	fine := func(context.Context, string) error { return nil }
	for _, e := range [][2]string{{"thing", "1"}, {"other", "1"}, {"thing", "2"}} {
		if _, err := dir.Get(t.Context(), e[0], e[1], fine); err != nil {
			t.Fatal(err)
		}
	}
	failure := errors.New("no")
	_, err := dir.Get(t.Context(), "broken", "1", func(context.Context, string) error { return failure })
	if !errors.Is(err, failure) {
		t.Errorf("got %v, want %v", err, failure)
	}
	got, err := filepath.Glob(filepath.Join(string(dir), "*-*"))
	want := []string{filepath.Join(string(dir), "other-1"), filepath.Join(string(dir), "thing-2")}
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("entries %q, want %q; %v", got, want, err)
	}
}
