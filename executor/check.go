package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/view"
)

// reportCheck looks for mistakes in the Dockerfile, unless err says that there
// is no way to, prints what it finds, one a line, to standard output and
// returns the exit status.
func (s *session) reportCheck(ctx context.Context, err error) int {
	if err == nil {
		err = s.check(ctx)
	}
	var lint *plan.LintError
	if errors.As(err, &lint) {
		s.found = lint.Warnings
		err = errors.New(`there are warnings, and "# check=error=true" makes them errors`)
	}
	for _, w := range s.found {
		fmt.Fprintln(&s.answer, w)
	}
	e := progress.Event{Time: s.p.now(), Kind: progress.KindResult, State: progress.StateDone, Text: view.Count(len(s.found), "warning")}
	if err == nil {
		s.sink.Send(e)
		return 0
	}
	e.State, e.Error, e.Text = progress.StateFailed, err.Error(), err.Error()
	s.sink.Send(e)
	return 1
}

// check plans all stages, or what the target needs, and leaves what it finds in
// s.found.
func (s *session) check(ctx context.Context) error {
	client, err := s.newClient()
	if err != nil {
		return err
	}
	src, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	defer src.Close()
	_, _, err = s.plan(ctx, src, s.newImages(client), nil)
	return err
}
