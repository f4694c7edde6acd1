package finish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// requestParts records a build for two platforms and its parts.
func (w *world) requestParts(t testing.TB) (whole events.Request, parts []events.Request) {
	t.Helper()
	whole = w.request(t, 1)
	whole.Platforms = []string{"linux/amd64", "linux/arm64"}
	data, err := record.Encode(whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Store.Delete(t.Context(), record.RequestKey(whole.BuildID)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Create(t.Context(), record.RequestKey(whole.BuildID), data); err != nil {
		t.Fatal(err)
	}
	for _, part := range whole.Parts() {
		data, err := record.Encode(part)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Store.Create(t.Context(), record.RequestKey(part.BuildID), data); err != nil {
			t.Fatal(err)
		}
	}
	return whole, whole.Parts()
}

func (w *world) claim(t testing.TB, id string) record.Claim {
	t.Helper()
	var claim record.Claim
	if _, err := record.Load(t.Context(), w, record.ResultKey(id), &claim); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return claim
}

// A registry that is down is asked again; manifests that are gone, or are no
// images, are the build's end.
func TestIndexCannotBePushed(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want events.Outcome
	}{
		{errors.New("connection refused"), ""},
		{fmt.Errorf("manifest unknown: %w", fs.ErrNotExist), events.OutcomeError},
		{fmt.Errorf("it is an index: %w", fs.ErrInvalid), events.OutcomeError},
	} {
		w := newWorld()
		whole, parts := w.requestParts(t)
		f := w.finisher(t)
		f.cfg.PushIndex = func(context.Context, string, []events.PlatformInfo) (string, string, error) { return "", "", tc.err }
		if _, err := f.Finish(t.Context(), parts[0].BuildID, w.success(1)); err != nil {
			t.Fatal(err)
		}
		_, err := f.Finish(t.Context(), parts[1].BuildID, w.success(2))
		got := w.claim(t, whole.BuildID)
		if got.Outcome != tc.want || (err != nil) != (tc.want == "") || len(w.moves) != 0 {
			t.Errorf("%v: %+v, %v, tags %v", tc.err, got, err, w.moves)
		}
		if tc.want != "" && (got.Class != events.ClassPush || got.Reason != "no index" || len(w.published) != 1) {
			t.Errorf("%v: %+v, %d events", tc.err, got, len(w.published))
		}
	}
}

// Parts that end at the same time make one index, and one end.
func TestPartsEndAtOnce(t *testing.T) {
	for range 20 {
		w := newWorld()
		whole, parts := w.requestParts(t)
		f := w.finisher(t)
		var mu sync.Mutex
		pushed := 0
		f.cfg.PushIndex = func(_ context.Context, _ string, platforms []events.PlatformInfo) (string, string, error) {
			mu.Lock()
			defer mu.Unlock()
			pushed++
			w.success(9)
			if len(platforms) != 2 || platforms[0].Digest != digest(1) || platforms[1].Digest != digest(2) {
				t.Errorf("index of %+v", platforms)
			}
			return digest(9), "index", nil
		}
		results := []events.Result{w.success(1), w.success(2)}
		var wg sync.WaitGroup
		for i, part := range parts {
			wg.Go(func() {
				if _, err := f.Finish(t.Context(), part.BuildID, results[i]); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := w.claim(t, whole.BuildID); got.Outcome != events.OutcomeSuccess || got.Digest != digest(9) || pushed != 1 || len(w.published) != 1 {
			t.Fatalf("%+v after %d pushes and %d events", got, pushed, len(w.published))
		}
		if !slices.Equal(w.moves, []string{"main=09", "latest=09"}) {
			t.Fatalf("tags %v", w.moves)
		}
	}
}

// A result of a part that its executor wrote itself is verified before it counts.
func TestForgedPart(t *testing.T) {
	w := newWorld()
	whole, parts := w.requestParts(t)
	data, err := record.Encode(record.Claim{Result: events.Result{Outcome: events.OutcomeSuccess, Digest: digest(66)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Create(t.Context(), record.ResultKey(parts[0].BuildID), data); err != nil {
		t.Fatal(err)
	}
	if ended, err := w.finisher(t).Advance(t.Context(), whole.BuildID); !ended || err != nil {
		t.Fatalf("%v, %v", ended, err)
	}
	got := w.claim(t, whole.BuildID)
	if got.Outcome != events.OutcomeError || got.Class != events.ClassPush || !strings.HasPrefix(got.Message, "linux/amd64: the executor reported "+digest(66)) {
		t.Errorf("%+v", got)
	}
}
