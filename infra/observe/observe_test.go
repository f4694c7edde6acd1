package observe

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

func at(sec int) time.Time { return time.Unix(1795400000+int64(sec), 0).UTC() }

func request(traceParent string) events.Request {
	req := events.Request{
		Install: "test", Tenant: "acme", Trigger: "app", Sequence: 1, Group: "g", Attempt: 1, Context: "x", Image: "reg.io/app",
		RequestedAt: at(0), TraceParent: traceParent,
		Change: events.Change{Kind: events.KindGit, Location: "h/r", Name: "refs/heads/main", Before: strings.Repeat("0", 40), After: strings.Repeat("a", 40)},
	}
	req.BuildID = req.DeriveBuildID()
	if req.TraceParent == "" {
		req.TraceParent = events.NewTraceParent(req.BuildID)
	}
	return req
}

func result() events.Result {
	return events.Result{
		Outcome: events.OutcomeSuccess, Digest: "sha256:" + strings.Repeat("b", 64), StartedAt: at(2), FinishedAt: at(12),
		DurationMS: map[string]int64{"fetch": 1000, "push": 2000, "secret-phase": 1},
	}
}

func TestMetrics(t *testing.T) {
	m := NewMetrics("v1", func() (int, int) { return 3, 2 })
	req := request("")
	requested, err := events.RequestedEvent(req)
	if err != nil {
		t.Fatal(err)
	}
	finished, err := events.FinishedEvent(req, result(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Event(requested, 1)
	for range 3 { // told again, it has its old place
		m.Event(finished, 2)
	}
	m.Swept(at(100), nil)
	m.Swept(at(200), io.EOF)
	door := m.Doors([]string{"/hooks/github"}, time.Now, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
	for _, path := range []string{"/hooks/github", "/hooks/github", "/v1/builds/0123/cancel"} {
		door.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, path, nil))
	}
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`kiln_builds_requested_total{tenant="acme",trigger="app"} 1`,
		`kiln_builds_finished_total{class="",outcome="success",tenant="acme",trigger="app"} 1`,
		`kiln_build_duration_seconds_sum{phase="queue"} 2`, `kiln_build_duration_seconds_sum{phase="total"} 12`, `kiln_build_duration_seconds_sum{phase="push"} 2`,
		`kiln_http_requests_total{code="202",door="/hooks/github"} 2`, `kiln_http_requests_total{code="202",door="other"} 1`,
		`kiln_builds{state="queued"} 3`, `kiln_builds{state="running"} 2`, `kiln_sweep_last_success_timestamp_seconds 1.7954001e+09`,
		`kiln_sweep_failures_total 1`, `kiln_build_info{version="v1"} 1`, "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(rec.Body.String(), "secret-phase") {
		t.Error("an executor can make labels")
	}
}

// progress is what an executor says of two steps.
func progress() []events.Progress {
	return []events.Progress{
		{Time: at(3), Kind: events.ProgressStep, ID: "1.1", Name: "[1/1] RUN make", Phase: "run", State: events.StepStarted},
		{Time: at(4), Kind: events.ProgressOutput, ID: "1.1", Text: "hello"},
		{Time: at(8), Kind: events.ProgressStep, ID: "1.1", Name: "[1/1] RUN make", Phase: "run", State: events.StepDone, MS: 5000},
		{Time: at(11), Kind: events.ProgressStep, ID: "push", Name: "push", Phase: "push", State: events.StepDone, MS: 2000},
	}
}

// One trace leads from the event to the push, and is the same every time.
func TestSpans(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	req := request(parent)
	tr := Trace{Request: req, Finished: events.NewFinished(req, result(), nil), Progress: progress()}
	spans, again := Spans(tr), Spans(tr)
	names := map[string]int{}
	for i, s := range spans {
		names[s.Name] = i
		if s.SpanContext.TraceID().String() != "4bf92f3577b34da6a3ce929d0e0e4736" || !s.SpanContext.Equal(again[i].SpanContext) {
			t.Errorf("%s: %v", s.Name, s.SpanContext)
		}
	}
	of := func(name string) (span, above string, from, to time.Time) {
		i, ok := names[name]
		if !ok {
			t.Fatalf("no span %q in %v", name, names)
		}
		s := spans[i]
		return s.SpanContext.SpanID().String(), s.Parent.SpanID().String(), s.StartTime, s.EndTime
	}
	root, above, from, to := of("build app")
	if above != "00f067aa0ba902b7" || !from.Equal(at(0)) || !to.Equal(at(12)) {
		t.Errorf("build: above %s, %s to %s", above, from, to)
	}
	execute, above, _, _ := of("execute")
	if above != root {
		t.Errorf("execute is above %s", above)
	}
	if _, above, from, to := of("[1/1] RUN make"); above != execute || !from.Equal(at(3)) || !to.Equal(at(8)) {
		t.Errorf("step: above %s, %s to %s", above, from, to)
	}
	if _, above, from, to := of("push"); above != execute || !from.Equal(at(9)) || !to.Equal(at(11)) {
		t.Errorf("push: above %s, %s to %s", above, from, to)
	}
	if _, above, from, to := of("queue"); above != root || !from.Equal(at(0)) || !to.Equal(at(2)) {
		t.Errorf("queue: above %s, %s to %s", above, from, to)
	}
	// Without a trace of the sender's, the build has one of its own.
	own := request("")
	s := Spans(Trace{Request: own, Finished: events.NewFinished(own, result(), nil)})[0]
	if s.Parent.IsValid() || !strings.Contains(own.TraceParent, s.SpanContext.TraceID().String()+"-"+s.SpanContext.SpanID().String()) {
		t.Errorf("own trace: %v, %v, %s", s.Parent, s.SpanContext, own.TraceParent)
	}
}

// What is exported arrives as OTLP.
func TestTracer(t *testing.T) {
	var mu sync.Mutex
	var got []*otlp.Span
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			zip, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			in = zip
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Error(err)
		}
		var export collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &export); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range export.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				got = append(got, ss.Spans...)
			}
		}
	}))
	defer srv.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	req := request("")
	var l ledger.Mem
	data, err := record.Encode(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Create(t.Context(), record.RequestKey(req.BuildID), data); err != nil {
		t.Fatal(err)
	}
	tracer, err := NewTracer(t.Context(), &l, func(_ context.Context, id string, each func([]byte) error) error {
		if id != req.BuildID {
			t.Errorf("log of %s", id)
		}
		for _, p := range progress() {
			line, err := json.Marshal(p)
			if err != nil {
				return err
			}
			if err := each(line); err != nil {
				return err
			}
		}
		return each([]byte("no JSON"))
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	e, err := events.FinishedEvent(req, result(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Handle(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 5 {
		t.Errorf("%d spans", len(got))
	}
	for _, s := range got {
		traceID := events.TraceID(req.BuildID)
		if string(s.TraceId) != string(traceID[:]) {
			t.Errorf("span %s of trace %x", s.Name, s.TraceId)
		}
	}
}
