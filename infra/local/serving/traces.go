package serving

import (
	"bytes"
	"context"
	"log/slog"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/local/buildlog"
	"github.com/kilnhook/kiln/infra/observe"
)

// TracesWanted reports whether the environment says where traces are to go.
func TracesWanted(getenv func(string) string) bool {
	return getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// Traces exports the trace of every build that ends on a bus.
type Traces struct {
	tracer   *observe.Tracer
	follower *bus.Follower
}

// OpenTraces prepares that, if it is wanted and there is a bus to follow. logs have
// the steps of builds; nil if there are none, and traces then have no steps.
func OpenTraces(ctx context.Context, b *bus.Bus, ledger record.Getter, logs buildlog.Logs, wanted bool, log *slog.Logger) (*Traces, error) {
	if !wanted || b == nil {
		return &Traces{}, nil
	}
	read := func(ctx context.Context, id string, each func(line []byte) error) error {
		if logs == nil {
			return nil
		}
		_, err := logs.Log(ctx, id, 0, false, func(lines []byte) error {
			for line := range bytes.Lines(lines) {
				if err := each(line); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	}
	t := &Traces{}
	var err error
	if t.tracer, err = observe.NewTracer(context.WithoutCancel(ctx), ledger, read, log); err != nil {
		return nil, err
	}
	t.follower, err = bus.NewFollower(b, "traces", events.TypeBuildFinished)
	return t, err
}

// Run exports until ctx is done.
func (t *Traces) Run(ctx context.Context) error {
	if t.tracer == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return t.follower.Run(ctx, t.tracer.Handle)
}
