package console

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"log/slog"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// The list is the newest first, in pages, and filters and search look at all of it.
func TestList(t *testing.T) {
	w, l := newWorld(t, nil)
	for n := range 130 {
		req, res := buildOf(n, []string{"web", "api"}[n%2])
		add(t, l, req, res)
	}
	open, _ := buildOf(500, "web")
	open.RequestedAt = noon()
	add(t, l, open, nil)
	// Before anything was read the first page is there all the same.
	if body := w.get("/"); strings.Count(body, "<th scope=\"row\">") != pageSize {
		t.Errorf("%d builds on the first page", strings.Count(body, "<th scope=\"row\">"))
	}
	if err := w.index.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	pages := 0
	for next := "/"; next != ""; pages++ {
		body := w.get(next)
		for part := range strings.SplitSeq(body, `<th scope="row"><a href="/builds/`) {
			if id, _, ok := strings.Cut(part, `"`); ok && events.IsBuildID(id) {
				if seen[id] {
					t.Errorf("build %s is on two pages", id)
				}
				seen[id] = true
			}
		}
		_, after, ok := strings.Cut(body, `<a href="/?after=`)
		if next = ""; ok {
			key, _, _ := strings.Cut(after, `"`)
			next = "/?after=" + key
		}
	}
	if len(seen) != 131 || pages != 3 {
		t.Errorf("%d builds on %d pages", len(seen), pages)
	}
	for query, want := range map[string]string{
		"trigger=web":                         "66 builds",
		"outcome=open":                        "1 build<",
		"outcome=failed":                      "14 builds",
		"outcome=failed&trigger=api":          "7 builds",
		"ref=b3":                              "20 builds",
		"q=" + open.BuildID[:9]:               "1 build<",
		"q=EXAMPLE.com/api+status":            "7 builds",
		"q=nothing-is-like-that":              "No build is like that",
		"q=registry.example.com/web&ref=b3":   " builds",
		"trigger=no-such-trigger&outcome=any": "No build is like that",
	} {
		if body := w.get("/?" + query); !strings.Contains(strings.ReplaceAll(body, "1 build\n", "1 build<"), want) && !strings.Contains(body, want) {
			_, found, _ := strings.Cut(body, `<p class="soft">`)
			t.Errorf("?%s: no %q but %.80s", query, want, found)
		}
	}
}

// What is told is taken in, what retention removed goes.
func TestIndexFollows(t *testing.T) {
	w, l := newWorld(t, nil)
	req, res := buildOf(1, "web")
	add(t, l, req, nil)
	if err := w.index.note(t.Context(), req.BuildID, noon()); err != nil {
		t.Fatal(err)
	}
	f, err := w.index.find(t.Context(), query{Limit: 10})
	if err != nil || len(f.Builds) != 1 || f.Builds[0].Finished() || !f.Builds[0].Started.Equal(noon()) {
		t.Fatalf("%+v %v", f, err)
	}
	data, err := record.Encode(record.Claim{Result: *res})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Create(t.Context(), record.ResultKey(req.BuildID), data); err != nil {
		t.Fatal(err)
	}
	e, err := events.FinishedEvent(req, *res, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Note(t.Context(), e)
	if f, err = w.index.find(t.Context(), query{Trigger: "web", Outcome: "success", Limit: 10}); err != nil || len(f.Builds) != 1 || f.Total != 1 || f.Unread != 0 {
		t.Fatalf("%+v %v", f, err)
	}
	mem := w.ledger.(*ledger.Mem)
	for _, key := range []string{record.RequestKey(req.BuildID), record.ResultKey(req.BuildID), record.IndexKey(req)} {
		if err := mem.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.index.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, err = w.index.find(t.Context(), query{Limit: 10}); err != nil || f.All != 0 {
		t.Errorf("%+v %v", f, err)
	}
}

const manyBuilds = 100_000

// writeLedger makes a directory ledger of builds, as files: writing them through the
// ledger would take its syncs.
func writeLedger(tb testing.TB, n int) *ledger.Dir {
	tb.Helper()
	// In memory if that can be: it is the reading that is measured.
	dir, err := os.MkdirTemp("/dev/shm", "kiln-ledger-*") //nolint:usetesting // in memory
	if err != nil {
		dir = tb.TempDir()
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, sub := range []string{"index", "builds"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	write := func(key string, v any) {
		data, err := record.Encode(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, key), data, 0o600)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	for i := range n {
		req, res := buildOf(i, fmt.Sprint("trigger-", i%23))
		if err := os.Mkdir(filepath.Join(dir, "builds", req.BuildID), 0o700); err != nil {
			tb.Fatal(err)
		}
		write(record.RequestKey(req.BuildID), req)
		write(record.ResultKey(req.BuildID), record.Claim{Result: *res, Verified: true})
		if err := os.WriteFile(filepath.Join(dir, record.IndexKey(req)), nil, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	l, err := ledger.OpenDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

func manyConsole(tb testing.TB) (*Console, time.Duration) {
	tb.Helper()
	c, err := New(Config{Ledger: writeLedger(tb, manyBuilds), Now: noon, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	begun := time.Now()
	if err := c.index.refresh(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return c, time.Since(begun)
}

func fetch(tb testing.TB, h http.Handler, path string) {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, path, nil)
	r.Host = "localhost"
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	if rec.Code != http.StatusOK || strings.Count(rec.Body.String(), `<th scope="row">`) != pageSize {
		tb.Fatalf("GET %s: %d, %d builds", path, rec.Code, strings.Count(rec.Body.String(), `<th scope="row">`))
	}
}

// The first page of a ledger of 100,000 builds answers within 100 ms. The median of
// several requests counts: a busy machine may hold up one. What a filter and a search
// over all of them take is logged.
func TestManyBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 300,000 files")
	}
	c, reading := manyConsole(t)
	t.Logf("%d builds were read in %s", manyBuilds, reading.Round(time.Millisecond))
	h := c.Handler()
	for _, path := range []string{"/", "/?trigger=trigger-7&outcome=failed", "/?q=trigger-9+b3"} {
		var took []time.Duration
		for range 9 {
			begun := time.Now()
			fetch(t, h, path)
			took = append(took, time.Since(begun))
		}
		slices.Sort(took)
		t.Logf("GET %s: median %s, worst %s", path, took[len(took)/2], took[len(took)-1])
		if took[len(took)/2] > 100*time.Millisecond && path == "/" {
			t.Errorf("GET %s takes %s", path, took[len(took)/2])
		}
	}
}

func BenchmarkFirstPage(b *testing.B) {
	c, reading := manyConsole(b)
	h := c.Handler()
	for name, path := range map[string]string{"all": "/", "filter": "/?trigger=trigger-7&outcome=failed", "search": "/?q=trigger-9+b3"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fetch(b, h, path)
			}
			b.ReportMetric(reading.Seconds(), "s/startup")
		})
	}
}
