package telemetry

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// TestSend proves that what is sent is OTLP's JSON, by the types of the
// protocol itself, and what is in it.
func TestSend(t *testing.T) {
	var body []byte
	var header http.Header
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		header = r.Header
	}))
	defer server.Close()
	begun := time.Unix(1000, 0)
	r := New(Options{
		Endpoint: server.URL + "/v1/traces", Header: http.Header{"X-Key": {"k"}}, Resource: map[string]string{"service.name": "s"},
		Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Transport: http.DefaultTransport,
	}, begun)
	step := func(id, name string, state progress.State, after int, text string) {
		r.Event(progress.Event{Kind: progress.KindStep, ID: id, Name: name, State: state, Time: begun.Add(time.Duration(after) * time.Second), Error: text, Pos: "Dockerfile:2", Phase: progress.PhaseRun})
	}
	step("1.1", "[1/2] RUN a", progress.StateStarted, 1, "")
	step("1.1", "[1/2] RUN a", progress.StateDone, 2, "")
	step("1.2", "[2/2] RUN b", progress.StateCached, 3, "")
	step("1.3", "[2/2] RUN c", progress.StateStarted, 4, "")
	step("1.3", "", progress.StateFailed, 5, "exit 1")
	if err := r.End(t.Context(), begun.Add(6*time.Second), errors.New("it failed"), map[string]string{"kiln.outcome": "failed"}); err != nil {
		t.Fatal(err)
	}
	var msg collector.ExportTraceServiceRequest
	if err := protojson.Unmarshal(body, &msg); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	spans := msg.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()
	var got []string
	for _, s := range spans {
		got = append(got, s.GetName()+" "+time.Duration(s.GetEndTimeUnixNano()-s.GetStartTimeUnixNano()).String()+" "+s.GetStatus().GetMessage())
	}
	if want := "build 6s it failed|[1/2] RUN a 1s |[2/2] RUN b 0s |[2/2] RUN c 1s exit 1"; strings.Join(got, "|") != want {
		t.Errorf("spans %q, want %s", got, want)
	}
	var raw export
	if err := json.Unmarshal(body, &raw); err != nil {
		t.Fatal(err)
	}
	all := raw.ResourceSpans[0].ScopeSpans[0].Spans
	for i, s := range all {
		if s.TraceID != "0af7651916cd43dd8448eb211c80319c" || len(s.SpanID) != 16 || i > 0 && s.Parent != all[0].SpanID || i == 0 && s.Parent != "b7ad6b7169203331" {
			t.Errorf("span %d has the ids %s %s %s", i, s.TraceID, s.SpanID, s.Parent)
		}
	}
	if header.Get("X-Key") != "k" || header.Get("Content-Type") != "application/json" {
		t.Errorf("header %v", header)
	}
}

// TestOmit proves that nothing of the Dockerfile is sent if it is not to be.
func TestOmit(t *testing.T) {
	r := New(Options{OmitDockerfile: true}, time.Unix(0, 0))
	r.Event(progress.Event{Kind: progress.KindStep, ID: "1.1", Name: "RUN secret", State: progress.StateStarted, Phase: progress.PhaseRun, Pos: "secret:1"})
	r.Event(progress.Event{Kind: progress.KindStep, ID: "1.1", Name: "RUN secret", State: progress.StateFailed, Error: "secret"})
	body, err := r.finish(time.Unix(1, 0), errors.New("secret"), nil)
	if err != nil || strings.Contains(string(body), "secret") || !strings.Contains(string(body), `"name":"run 1.1"`) {
		t.Errorf("%v: %s", err, body)
	}
}

// TestFailures proves that what goes wrong is told without the URL.
func TestFailures(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	for endpoint, want := range map[string]string{
		server.URL + "/v1/traces?key=secret":      "the collector answered 404 Not Found",
		"http://127.0.0.1:1/v1/traces?key=secret": "connection refused",
		"http://\x00": "not a valid URL",
	} {
		err := New(Options{Endpoint: endpoint, Transport: http.DefaultTransport}, time.Unix(0, 0)).End(t.Context(), time.Unix(1, 0), nil, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %s", endpoint, err, want)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		env             map[string]string
		endpoint, wrong string
	}{
		{nil, "", ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces", ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/base/"}, "http://c:4318/base/v1/traces", ""},
		{map[string]string{"KANIKO_TELEMETRY_ENDPOINT": "https://c/v1/traces"}, "https://c/v1/traces", ""},
		{map[string]string{"KANIKO_TELEMETRY_ENDPOINT": "c.example.com:4318"}, "https://c.example.com:4318/v1/traces", ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"}, "http://c/x", ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, "", ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, "", ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://c"}, "", "OTEL_EXPORTER_OTLP_ENDPOINT is not valid"},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not supported"},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "x"}, "", "OTEL_EXPORTER_OTLP_HEADERS: want key=value"},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_RESOURCE_ATTRIBUTES": "a=%zz"}, "", "OTEL_RESOURCE_ATTRIBUTES: the value of a"},
	} {
		opt, err := Settings(func(name string) string { return c.env[name] })
		if opt.Endpoint != c.endpoint || (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%v: got %q, %v", c.env, opt.Endpoint, err)
		}
	}
	opt, err := Settings(func(name string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "a=b%20c,d=e", "OTEL_RESOURCE_ATTRIBUTES": "x=y", "OTEL_SERVICE_NAME": "s"}[name]
	})
	if err != nil || opt.Header.Get("A") != "b c" || opt.Header.Get("D") != "e" || opt.Resource["x"] != "y" || opt.Resource["service.name"] != "s" {
		t.Errorf("%+v, %v", opt, err)
	}
}
