package console

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

const evil = `<script>alert(1)</script>`

// noon is when the tests are.
func noon() time.Time { return time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC) }

// memLogs are logs by build.
type memLogs map[string]string

func (m memLogs) Log(ctx context.Context, id string, offset int64, follow bool, emit func([]byte) error) (int64, error) {
	text, ok := m[id]
	if !ok {
		return offset, fmt.Errorf("log of %s: %w", id, fs.ErrNotExist)
	}
	// As the launcher does: several lines at a time.
	for offset < int64(len(text)) {
		rest := text[offset:]
		n := strings.LastIndexByte(rest[:min(len(rest), 4000)], '\n') + 1
		if n == 0 {
			n = len(rest)
		}
		if err := emit([]byte(rest[:n])); err != nil {
			return offset, fmt.Errorf("emit: %w", err)
		}
		offset += int64(n)
	}
	return offset, nil
}

// world is a ledger with builds, and a console that shows it.
type world struct {
	*Console
	t      *testing.T
	ledger Ledger
	logs   memLogs
}

// store is a ledger that can be written.
type store interface {
	Ledger
	Create(ctx context.Context, key string, data []byte) (string, error)
}

func newWorld(t *testing.T, change func(*Config)) (*world, store) {
	t.Helper()
	l := &ledger.Mem{}
	w := &world{t: t, ledger: l, logs: memLogs{}}
	cfg := Config{Ledger: l, Logs: w.logs, Now: noon, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.Console, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return w, l
}

// buildOf makes a request and its result, the n-th of its trigger.
func buildOf(n int, trigger string) (events.Request, *events.Result) {
	at := noon().Add(-time.Duration(n) * time.Minute)
	req := events.Request{
		Tenant: "default", Trigger: trigger, Sequence: 1, Group: trigger, Image: "registry.example.com/" + trigger, Tags: []string{"main"},
		Context: "git://example.com/" + trigger + ".git", RequestedAt: at, Attempt: 1,
		Change: events.Change{
			Kind: events.KindGit, Location: "example.com/" + trigger, Name: fmt.Sprintf("refs/heads/b%d", n%7),
			Before: strings.Repeat("0", 40), After: fmt.Sprintf("%040x", n+1),
		},
	}
	req.BuildID = events.BuildID("test", trigger, fmt.Sprint(n))
	res := &events.Result{
		Outcome: events.OutcomeSuccess, Digest: fmt.Sprintf("sha256:%064x", n), Size: int64(1_000_000 + n*1000),
		StartedAt: at, FinishedAt: at.Add(time.Duration(10+n%50) * time.Second), Cache: events.CacheInfo{Hits: n % 5, Misses: 2},
		Layers: []events.LayerInfo{{Digest: "sha256:" + strings.Repeat("b", 64), Size: 900_000}, {Digest: fmt.Sprintf("sha256:%064x", n+1_000_000), Size: int64(100_000 + n*1000), CreatedBy: "COPY . /"}},
	}
	if n%9 == 4 {
		res.Outcome, res.Class, res.Message, res.Digest, res.Size, res.Layers = events.OutcomeFailed, events.ClassBuild, "RUN make: status 2", "", 0, nil
	}
	return req, res
}

// add writes a build into the ledger; res nil: it has not ended.
func add(tb testing.TB, l store, req events.Request, res *events.Result) {
	tb.Helper()
	put := func(key string, v any) {
		data, err := record.Encode(v)
		if err == nil {
			_, err = l.Create(tb.Context(), key, data)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	put(record.RequestKey(req.BuildID), req)
	if res != nil {
		put(record.ResultKey(req.BuildID), record.Claim{Result: *res, Verified: true})
		put(record.EmittedKey(req.BuildID), record.Emitted{At: res.FinishedAt, EventID: req.BuildID + ".finished", TagsMoved: req.Tags})
	}
	put(record.IndexKey(req), struct{}{})
}

// do sends a request, with headers in pairs.
func (w *world) do(method, path string, form url.Values, header ...string) (int, string, http.Header) {
	w.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r := httptest.NewRequestWithContext(w.t.Context(), method, path, body)
	r.Host = "127.0.0.1:8765"
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, r)
	return rec.Code, rec.Body.String(), rec.Header()
}

// get gets a page that must be there.
func (w *world) get(path string) string {
	w.t.Helper()
	status, body, _ := w.do(http.MethodGet, path, nil)
	if status != http.StatusOK {
		w.t.Fatalf("GET %s: %d\n%s", path, status, body)
	}
	return body
}

// logOf makes a log of records.
func logOf(t *testing.T, records ...events.Progress) string {
	t.Helper()
	var b strings.Builder
	for _, p := range records {
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(data, '\n'))
	}
	return b.String()
}

func has(t *testing.T, where, body string, want ...string) {
	t.Helper()
	for _, text := range want {
		if !strings.Contains(body, text) {
			t.Errorf("%s has no %q", where, text)
		}
	}
}
