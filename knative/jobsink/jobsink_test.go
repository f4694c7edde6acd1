package jobsink

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// sink answers like a JobSink, and remembers.
type sink struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	ids    []string
	shown  []string // in the header Authorization
	orders []events.Order
}

func newSink(t *testing.T) *sink {
	s := &sink{status: http.StatusAccepted}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		e, err := events.DecodeHTTP(r.Header, body)
		if err != nil {
			t.Error(err)
		}
		// What the JobSink mounts into the executor is the event in structured mode.
		structured, err := e.MarshalJSON()
		if err != nil {
			t.Error(err)
		}
		order, err := events.ParseOrder(structured)
		if err != nil {
			t.Error(err)
		}
		s.shown = append(s.shown, r.Header.Get("Authorization"))
		s.ids, s.orders = append(s.ids, e.ID()), append(s.orders, order)
		if s.status >= 500 {
			w.Header().Set("Reason", "no Jobs today")
		}
		w.WriteHeader(s.status)
	}))
	t.Cleanup(s.Close)
	return s
}

func request() events.Request {
	req := events.Request{
		Install: "i", Tenant: "acme", Trigger: "app", Sequence: 1, Group: "app", Attempt: 1, Context: "s3://b/k", Image: "r.io/app",
		Change:      events.Change{Kind: events.KindObject, Location: "s3://b", Name: "k", Generation: "7"},
		RequestedAt: time.Unix(1795400000, 0).UTC(),
	}
	req.BuildID = req.DeriveBuildID()
	return req
}

func newLauncher(t *testing.T, s *sink, l Ledger, now func() time.Time) *Launcher {
	t.Helper()
	launcher, err := New(Config{
		URL: s.URL + "/builds/kiln", ResultURL: "http://kiln/v1/results/", Token: func(id string) string { return "token of " + id },
		Ledger: l, Timeout: time.Hour, Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return launcher
}

// TestLaunch proves that the executor gets the whole request and the way to say
// what became of it, and that one attempt is one event however often it is sent.
func TestLaunch(t *testing.T) {
	s := newSink(t)
	l := newLauncher(t, s, &ledger.Mem{}, time.Now)
	req := request()
	again := req
	again.Attempt = 2
	for _, r := range []events.Request{req, req, again} {
		if err := l.Launch(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{req.BuildID + ".run.1", req.BuildID + ".run.1", req.BuildID + ".run.2"}; strings.Join(s.ids, " ") != strings.Join(want, " ") {
		t.Errorf("sent %v, want %v", s.ids, want)
	}
	o := s.orders[0]
	if o.Request.Context != req.Context || o.Request.BuildID != req.BuildID ||
		o.ResultURL != "http://kiln/v1/results/"+req.BuildID || o.ResultToken != "token of "+req.BuildID {
		t.Errorf("ordered %+v", o)
	}
	if err := l.Cancel(t.Context(), req.BuildID); err != nil {
		t.Error(err)
	}
}

// TestLaunchRefused proves that what a JobSink refuses is an error that says why,
// and that one which has too much to do is told from one that is broken.
func TestLaunchRefused(t *testing.T) {
	s := newSink(t)
	l := newLauncher(t, s, &ledger.Mem{}, time.Now)
	s.status = http.StatusTooManyRequests
	if err := l.Launch(t.Context(), request()); !errors.Is(err, dispatch.ErrQuota) {
		t.Errorf("429: %v", err)
	}
	s.status = http.StatusInternalServerError
	if err := l.Launch(t.Context(), request()); err == nil || errors.Is(err, dispatch.ErrQuota) || !strings.Contains(err.Error(), "no Jobs today") {
		t.Errorf("500: %v", err)
	}
	s.Close()
	if err := l.Launch(t.Context(), request()); err == nil || errors.Is(err, dispatch.ErrExists) {
		t.Errorf("nobody there: %v", err)
	}
}

// TestToken proves that the JobSink is shown the token that is in the file now, and
// that without it nothing is asked for.
func TestToken(t *testing.T) {
	s := newSink(t)
	l := newLauncher(t, s, new(ledger.Mem), time.Now)
	l.cfg.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := l.Launch(t.Context(), request()); err == nil || !strings.Contains(err.Error(), "read the token for the JobSink") {
		t.Errorf("without a token: %v", err)
	}
	for _, token := range []string{"first", "second"} {
		if err := os.WriteFile(l.cfg.TokenFile, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.Launch(t.Context(), request()); err != nil {
			t.Error(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := []string{"Bearer first", "Bearer second"}; !slices.Equal(s.shown, want) {
		t.Errorf("shown %q, want %q", s.shown, want)
	}
}

// TestState proves that a build whose executor says nothing is lost when its
// deadline has passed, and not before; each attempt has one of its own.
func TestState(t *testing.T) {
	s := newSink(t)
	store := &ledger.Mem{}
	req := request()
	now := req.RequestedAt
	l := newLauncher(t, s, store, func() time.Time { return now })
	want := func(state dispatch.State) {
		t.Helper()
		if got, err := l.State(t.Context(), req.BuildID); got != state || err != nil {
			t.Errorf("after %s: %q, %v, want %q", now.Sub(req.RequestedAt), got, err, state)
		}
	}
	want(dispatch.StateNone)
	keep := func(key string, v any) {
		t.Helper()
		data, err := record.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Create(t.Context(), key, data); err != nil {
			t.Fatal(err)
		}
	}
	keep(record.RequestKey(req.BuildID), req)
	want(dispatch.StateRunning)
	now = req.RequestedAt.Add(70*time.Minute - time.Second)
	want(dispatch.StateRunning)
	now = req.RequestedAt.Add(70 * time.Minute)
	want(dispatch.StateNone)
	second := req
	second.Attempt = 2
	keep(record.OpenKey(req), record.Open{Request: second})
	want(dispatch.StateRunning)
	now = req.RequestedAt.Add(140 * time.Minute)
	want(dispatch.StateNone)
}

// TestNew proves that nothing that is needed can be left out.
func TestNew(t *testing.T) {
	if _, err := New(Config{URL: "http://x"}); err == nil {
		t.Error("a launcher without a ledger was made")
	}
}
