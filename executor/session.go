package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/executor/internal/build"
	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/registry"
	"github.com/kilnhook/kiln/executor/internal/source"
	"github.com/kilnhook/kiln/executor/view"
)

// environment reads what kaniko reads from the environment, for flags that
// were not given.
func (c *config) environment(lookup func(string) (string, bool), flags *pflag.FlagSet) error {
	c.registry.Environment(lookup, flags)
	if v, ok := lookup("KANIKO_NO_PUSH"); ok && v != "" && !flags.Changed("no-push") {
		if err := flags.Set("no-push", v); err != nil {
			return fmt.Errorf("KANIKO_NO_PUSH: %w", err)
		}
	}
	for name, flag := range map[string]string{"KANIKO_CLEANUP": "cleanup", "KANIKO_PRESERVE_CONTEXT": "preserve-context", "KANIKO_PRE_CLEANUP": "pre-cleanup"} {
		if v, ok := lookup(name); ok && v != "" && !flags.Changed(flag) {
			if err := flags.Set(flag, v); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if c.bucket != "" {
		if flags.Changed("context") {
			return errors.New("--bucket and --context exclude each other: use --context=gs://bucket/object")
		}
		if c.context = c.bucket; !strings.Contains(c.bucket, "://") {
			c.context = "gs://" + c.bucket
		}
	}
	if v, ok := lookup("K_SINK"); ok && c.eventSink == "" {
		c.eventSink = v
	}
	return nil
}

// session is one build by this process.
type session struct {
	c       *config
	p       process
	sink    progress.Sink
	log     *slog.Logger
	begun   time.Time
	workDir string
	iso     isolation
	res     events.Result
	source  source.Revision
	layers  layerCache     // nil: it is not open
	push    *registry.Push // nil: nothing is pushed
	given   build.Mounts
	answer  bytes.Buffer         // for standard output, once the terminal is free
	found   []dockerfile.Warning // what is known of the Dockerfile's mistakes
	cleanup func() error         // nil: nothing is to be cleaned up

	oomKills uint64 // of the container before the build
}

// execute builds and returns the exit status.
func execute(ctx context.Context, c *config, p process) int {
	s := &session{c: c, p: p, begun: p.now(), res: events.Result{DurationMS: map[string]int64{}}, oomKills: oomKills(p.root)}
	workDir, err := newWorkDir(c, p.lookup)
	if err == nil {
		defer os.RemoveAll(workDir)
		s.workDir = workDir
	}
	if err == nil && !c.checkOnly {
		s.iso, err = isolate(ctx, c, p, workDir)
	}
	var entered enteredError
	if errors.As(err, &entered) {
		return entered.status
	}
	render, rerr := view.New(p.stderr, c.viewOptions(p))
	if rerr != nil {
		fmt.Fprintln(p.stderr, "error:", rerr)
		return 1
	}
	level, _ := c.level() // checked before
	s.sink = filter(render.Event, level)
	s.log = slog.New(&noteHandler{sink: render.Event, now: p.now, debug: level > 2})
	endTrace := s.trace()
	status := 0
	switch {
	case c.checkOnly:
		status = s.reportCheck(ctx, err)
	case err == nil:
		err = s.profiled(ctx)
		if s.cleanup != nil {
			err = errors.Join(err, s.cleanup())
		}
		status = s.report(ctx, err)
	default:
		status = s.report(ctx, err)
	}
	endTrace(ctx, err)
	if cerr := render.Close(); cerr != nil && status == 0 {
		fmt.Fprintln(p.stderr, "error: write progress:", cerr)
	}
	if _, werr := s.answer.WriteTo(p.stdout); werr != nil {
		fmt.Fprintln(p.stderr, "error: write output:", werr)
		status = max(status, 1)
	}
	return status
}

// viewOptions are how this process shows a build on standard error.
func (c *config) viewOptions(p process) view.Options {
	size := func() (columns, rows int) {
		columns, rows, err := term.GetSize(int(p.stderr.Fd()))
		if err != nil {
			return 0, 0
		}
		return columns, rows
	}
	opt := view.Options{Mode: c.progressMode(), Size: size, Now: p.now, Stamp: c.logTimestamp}
	if columns, _ := size(); columns > 0 {
		opt.Abilities = view.AbilitiesOf(func(name string) string {
			v, _ := p.lookup(name)
			return v
		})
	}
	return opt
}

// filter drops what the verbosity does not ask for. Failures and the result
// are always told.
func filter(next progress.Sink, level int) progress.Sink {
	if level >= 2 {
		return next
	}
	return func(e progress.Event) {
		switch {
		case e.Kind == progress.KindResult, e.State == progress.StateFailed:
		case level >= 1 && e.Kind == progress.KindNote:
		default:
			return
		}
		next.Send(e)
	}
}

// note tells people something.
func (s *session) note(format string, args ...any) {
	s.sink.Send(progress.Event{Time: s.p.now(), Kind: progress.KindNote, Text: fmt.Sprintf(format, args...)})
}

// phase runs f as a step of its own, outside of the Dockerfile.
func (s *session) phase(name, text string, p progress.Phase, f func(told func(done, total int64)) error) error {
	begun := s.p.now()
	e := progress.Event{Time: begun, Kind: progress.KindStep, ID: name, Name: text, Phase: p, State: progress.StateStarted}
	s.sink.Send(e)
	err := f(func(done, total int64) {
		s.sink.Send(progress.Event{Time: s.p.now(), Kind: progress.KindBytes, ID: name, Name: text, Phase: p, Current: done, Total: total})
	})
	e.Time, e.State = s.p.now(), progress.StateDone
	e.MS = e.Time.Sub(begun).Milliseconds()
	s.res.DurationMS[name] += e.MS
	if err != nil {
		e.State, e.Error = progress.StateFailed, err.Error()
	}
	s.sink.Send(e)
	return err
}

// noteHandler is a slog.Handler whose records become notes among the progress.
type noteHandler struct {
	sink  progress.Sink
	now   func() time.Time
	debug bool
	with  string
}

func (h *noteHandler) Enabled(_ context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || h.debug
}

func (h *noteHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	b.WriteString(h.with)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, a)
		return true
	})
	h.sink.Send(progress.Event{Time: h.now(), Kind: progress.KindNote, Text: b.String()})
	return nil
}

func writeAttr(w io.Writer, a slog.Attr) { fmt.Fprintf(w, " %s=%v", a.Key, a.Value) }

func (h *noteHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(h.with)
	for _, a := range attrs {
		writeAttr(&b, a)
	}
	out := *h
	out.with = b.String()
	return &out
}

func (h *noteHandler) WithGroup(string) slog.Handler { return h }
