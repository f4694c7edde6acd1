package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/kilnhook/kiln/executor/internal/access"
	"github.com/kilnhook/kiln/executor/internal/progress"
)

// finding is what the doctor says about one thing.
type finding struct {
	Check  string `json:"check"`            // what was looked at: "push", "base image"
	Target string `json:"target,omitempty"` // which one
	State  string `json:"state"`            // one of the states below
	Detail string `json:"detail"`
}

// The states of a finding. Only a failure would end a build.
const (
	findingOK      = "ok"
	findingWarning = "warning"
	findingFailed  = "failed"
	findingSkipped = "skipped"
)

// doctor looks at everything that a build would need, without building.
type doctor struct {
	*session
	findings []finding
}

const doctorUsage = `executor doctor says whether a build with the same flags can succeed: whether
its context can be fetched, its Dockerfile read, its images pulled and pushed,
with which credentials, and how it would be isolated. It builds nothing.

Usage:
  executor doctor --context DIR|URL --destination REF [flags]

Exit status: 0 if nothing is wrong, and 1 otherwise.

Flags:
`

// doctorCommand prints what it finds, as a table or as JSON.
func doctorCommand(ctx context.Context, p process) error {
	var c config
	var asJSON bool
	f := newFlags(&c, p.stderr)
	f.Usage = func() { fmt.Fprint(p.stderr, doctorUsage+f.FlagUsages()) }
	f.BoolVar(&asJSON, "json", false, "print JSON")
	err := access.Parse(f, p.args[2:])
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: see --help", f.Arg(0))
	}
	if err == nil {
		err = c.environment(p.lookup, f)
	}
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return err
	}
	d, err := newDoctor(&c, p)
	if err != nil {
		return err
	}
	defer os.RemoveAll(d.workDir)
	d.examine(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := d.print(p.stdout, asJSON); err != nil {
		return err
	}
	failed := 0
	for _, f := range d.findings {
		if f.State == findingFailed {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("the build would fail: %d of %d checks did", failed, len(d.findings))
	}
	return nil
}

func newDoctor(c *config, p process) (*doctor, error) {
	workDir, err := newWorkDir(c, p.lookup)
	if err != nil {
		return nil, err
	}
	s := &session{c: c, p: p, begun: p.now(), workDir: workDir, log: slog.New(slog.DiscardHandler)}
	s.res.DurationMS = map[string]int64{}
	d := &doctor{session: s}
	s.sink = func(e progress.Event) {
		if text, ok := strings.CutPrefix(e.Text, "warning: "); ok && e.Kind == progress.KindNote {
			d.say("flags and Dockerfile", "", findingWarning, "%s", text)
		}
	}
	return d, nil
}

func (d *doctor) say(check, target, state, format string, args ...any) {
	d.findings = append(d.findings, finding{check, target, state, fmt.Sprintf(format, args...)})
}

// result says that a check went well, with a detail, or that it failed.
func (d *doctor) result(check, target, detail string, err error) {
	if err != nil {
		d.say(check, target, findingFailed, "%v", err)
		return
	}
	d.say(check, target, findingOK, "%s", detail)
}

func (d *doctor) print(w io.Writer, asJSON bool) error {
	if asJSON {
		out := struct {
			OK       bool      `json:"ok"`
			Findings []finding `json:"findings"`
		}{OK: true, Findings: d.findings}
		for _, f := range d.findings {
			out.OK = out.OK && f.State != findingFailed
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(out)
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "STATE\tCHECK\tTARGET\tDETAIL")
	for _, f := range d.findings {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", f.State, f.Check, f.Target, strings.ReplaceAll(f.Detail, "\n", "; "))
	}
	return tw.Flush()
}
