package observe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// maxSteps is how many steps of a build become spans.
const maxSteps = 1000

// Trace is everything about a build that becomes spans.
type Trace struct {
	Request  events.Request
	Finished events.Finished
	Progress []events.Progress // what the executor said
}

// Spans makes one trace of a build: the build from its request on, below the
// span of whoever sent the event; in it the queue, the executor with its steps,
// the push among them. The same build makes the same spans, so exporting twice is
// exporting once.
func Spans(t Trace) tracetest.SpanStubs {
	req, b := t.Request, t.Finished.Build
	parent := parentOf(req)
	id := func(name string) trace.SpanID { return trace.SpanID(events.SpanID(req.BuildID, name)) }
	resources := resource.NewSchemaless(attribute.String("service.name", "kiln"), attribute.String("service.namespace", req.Install))
	var spans tracetest.SpanStubs
	add := func(name, key string, above trace.SpanContext, from, to time.Time, attrs ...attribute.KeyValue) *tracetest.SpanStub {
		if from.IsZero() || to.Before(from) {
			from = to
		}
		spans = append(spans, tracetest.SpanStub{
			Name: name, SpanKind: trace.SpanKindInternal, Parent: above, StartTime: from, EndTime: to, Attributes: attrs, Resource: resources,
			SpanContext: trace.NewSpanContext(trace.SpanContextConfig{TraceID: parent.TraceID(), SpanID: id(key), TraceFlags: trace.FlagsSampled}),
		})
		return &spans[len(spans)-1]
	}
	above := parent
	if !above.SpanID().IsValid() || above.SpanID() == id("build") {
		above = trace.SpanContext{}
	}
	root := add("build "+req.Trigger, "build", above, req.RequestedAt, b.FinishedAt,
		attribute.String("kiln.build.id", req.BuildID), attribute.String("kiln.trigger", req.Trigger), attribute.String("kiln.tenant", req.Tenant),
		attribute.String("kiln.outcome", string(t.Finished.Outcome)), attribute.String("vcs.ref.head.revision", req.Change.Revision()))
	root.SpanKind = trace.SpanKindConsumer
	if t.Finished.Outcome != events.OutcomeSuccess {
		root.Status = sdktrace.Status{Code: codes.Error, Description: t.Finished.Message}
	}
	if t.Finished.Image != nil {
		root.Attributes = append(root.Attributes, attribute.String("container.image.name", t.Finished.Image.Repository), attribute.String("kiln.image.digest", t.Finished.Image.Digest))
	}
	build := root.SpanContext
	if !b.StartedAt.IsZero() {
		add("queue", "queue", build, req.RequestedAt, b.StartedAt)
		executor := add("execute", "execute", build, b.StartedAt, b.FinishedAt, attribute.Int("kiln.attempt", b.Attempt)).SpanContext
		for _, s := range steps(t.Progress) {
			span := add(s.name, "step "+s.key, executor, s.from, s.to, attribute.String("kiln.phase", s.phase), attribute.Bool("kiln.cached", s.cached))
			if s.failed != "" {
				span.Status = sdktrace.Status{Code: codes.Error, Description: s.failed}
			}
		}
	}
	return spans
}

// parentOf is the trace that a build belongs to: that of its event, or one of
// its own, made of its id.
func parentOf(req events.Request) trace.SpanContext {
	parts := strings.Split(req.TraceParent, "-")
	if len(parts) == 4 {
		traceID, err := trace.TraceIDFromHex(parts[1])
		spanID, spanErr := trace.SpanIDFromHex(parts[2])
		if err == nil && spanErr == nil {
			return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled, Remote: true})
		}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(events.TraceID(req.BuildID))})
}

// step is one step of a build.
type step struct {
	key, name, phase, failed string
	cached                   bool
	from, to                 time.Time
}

// steps puts together what the executor said of each step.
func steps(progress []events.Progress) []step {
	byKey := map[string]*step{}
	var order []*step
	for _, p := range progress {
		if p.Kind != events.ProgressStep || p.ID == "" {
			continue
		}
		key := p.ID + " " + p.Phase
		s := byKey[key]
		if s == nil {
			if len(order) == maxSteps {
				break
			}
			s = &step{key: key, name: events.CleanText(cmp.Or(p.Name, p.ID+" "+p.Phase), events.MaxReason), phase: p.Phase, from: p.Time, to: p.Time}
			byKey[key] = s
			order = append(order, s)
		}
		if p.MS > 0 && p.State != events.StepStarted {
			if begun := p.Time.Add(-time.Duration(p.MS) * time.Millisecond); begun.Before(s.from) {
				s.from = begun
			}
		}
		s.to, s.cached, s.failed = p.Time, s.cached || p.State == events.StepCached, events.CleanText(p.Error, events.MaxReason)
	}
	list := make([]step, len(order))
	for i, s := range order {
		list[i] = *s
	}
	slices.SortStableFunc(list, func(a, b step) int { return a.from.Compare(b.from) })
	return list
}

// Tracer exports the trace of every build that ends.
type Tracer struct {
	exporter sdktrace.SpanExporter
	ledger   record.Getter
	log      func(ctx context.Context, buildID string, each func(line []byte) error) error
	slog     *slog.Logger
}

// NewTracer returns a Tracer that posts to an OTLP endpoint, which the standard
// variables of the environment (OTEL_EXPORTER_OTLP_ENDPOINT and the like) say.
// readLog reads what the executor said of a build, line by line.
func NewTracer(ctx context.Context, ledger record.Getter, readLog func(ctx context.Context, buildID string, each func(line []byte) error) error, log *slog.Logger) (*Tracer, error) {
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("export traces: %w", err)
	}
	return &Tracer{exporter: exporter, ledger: ledger, log: readLog, slog: log}, nil
}

// Handle exports the trace of the build whose end an event tells. That nobody
// takes it is logged: a trace is not worth more.
func (t *Tracer) Handle(ctx context.Context, e event.Event) error {
	if e.Type() != events.TypeBuildFinished {
		return nil
	}
	id, _ := e.Extensions()[events.ExtBuildID].(string)
	var tr Trace
	if err := json.Unmarshal(e.Data(), &tr.Finished); err != nil {
		t.slog.Error("event cannot be read", "event", e.ID(), "err", err)
		return nil
	}
	if _, err := record.Load(ctx, t.ledger, record.RequestKey(id), &tr.Request); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("trace of build %s: %w", id, err)
	}
	err := t.log(ctx, id, func(line []byte) error {
		var p events.Progress
		if json.Unmarshal(line, &p) == nil && p.Kind == events.ProgressStep {
			tr.Progress = append(tr.Progress, p)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.slog.Warn("read log for a trace", "build", id, "err", err)
	}
	if err := t.exporter.ExportSpans(ctx, Spans(tr).Snapshots()); err != nil && ctx.Err() == nil {
		t.slog.Warn("export trace", "build", id, "err", err)
	}
	return nil
}
