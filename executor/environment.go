package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/telemetry"
	"github.com/kilnhook/kiln/executor/internal/transport"
)

// userAgent is what servers are told. UPSTREAM_CLIENT_TYPE says on whose behalf.
func (s *session) userAgent() string {
	agent := "kiln-executor/" + version
	if by := s.env("UPSTREAM_CLIENT_TYPE"); by != "" {
		agent += "," + strings.Map(printable, by)
	}
	return agent
}

// printable keeps what may stand in a header.
func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}

// printsPlan says whether KANIKO_PRINT_PLAN asks for the plan.
func (s *session) printsPlan() (bool, error) {
	v := s.env("KANIKO_PRINT_PLAN")
	if v == "" {
		return false, nil
	}
	yes, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("KANIKO_PRINT_PLAN: %w", err)
	}
	return yes, nil
}

// profile writes a CPU profile to the file that STACKLOG_PATH names, until it
// is told to stop.
func (s *session) profile() (stop func() error, err error) {
	path := s.env("STACKLOG_PATH")
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("STACKLOG_PATH: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("STACKLOG_PATH: %w", err), f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			return fmt.Errorf("STACKLOG_PATH: %w", err)
		}
		return nil
	}, nil
}

// profiled builds, with a profile if one is asked for.
func (s *session) profiled(ctx context.Context) error {
	stop, err := s.profile()
	if err != nil {
		return fault(events.ClassConfig, err)
	}
	return errors.Join(s.build(ctx), stop())
}

// trace sends what the build says to a collector of traces too, if the
// environment names one. That it cannot be reached fails no build.
func (s *session) trace() (end func(context.Context, error)) {
	none := func(context.Context, error) {}
	opt, err := telemetry.Settings(s.env)
	if err != nil {
		s.note("warning: no traces are sent: %v", err)
		return none
	}
	if opt.Endpoint == "" {
		return none
	}
	opt.Transport = transport.New(transport.Options{Proxy: http.ProxyFromEnvironment, UserAgent: s.userAgent()})
	rec, tell := telemetry.New(opt, s.begun), s.sink
	s.sink = func(e progress.Event) {
		rec.Event(e)
		tell.Send(e)
	}
	return func(ctx context.Context, err error) {
		about := map[string]string{"kiln.outcome": string(s.res.Outcome), "kiln.image.digest": s.res.Digest, "kiln.image.repository": s.res.Repository}
		if err := rec.End(context.WithoutCancel(ctx), s.p.now(), err, about); err != nil {
			s.note("warning: %v", err)
		}
	}
}

// tellIgnoredVariables warns of variables of kaniko's forks that change nothing
// here.
func (s *session) tellIgnoredVariables() {
	for _, v := range []struct{ name, why string }{
		{"KANIKO_IGNORE_ASSERTIONS", "there are no assertions"},
		{"SNAPSHOT_TIMEOUT_DURATION", "a snapshot reads what changed, not everything, and has no limit of its own"},
	} {
		if s.env(v.name) != "" {
			s.note("warning: %s changes nothing: %s", v.name, v.why)
		}
	}
	var switches []string
	for _, kv := range s.p.env {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "FF_KANIKO_") {
			switches = append(switches, name)
		}
	}
	if len(switches) == 0 {
		return
	}
	slices.Sort(switches)
	verb := "change"
	if len(switches) == 1 {
		verb = "changes"
	}
	s.note("warning: %s %s nothing: there is one behaviour, BuildKit's", strings.Join(switches, ", "), verb)
}
