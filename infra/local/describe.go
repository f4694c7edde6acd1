package local

import (
	"context"

	"github.com/kilnhook/kiln/functions/dispatch"
)

// describe adds to a build what this stack knows of it: where it is in the queue,
// and its event.
func (s *Stack) describe(ctx context.Context, b *dispatch.Build) error {
	own, err := s.build(ctx, b.ID)
	if err != nil {
		return err
	}
	b.State, b.Position, b.Request, b.Since, b.Result = own.State, own.Position, own.Request, own.Since, own.Result
	if own.Finished() {
		b.Event, err = s.finishedEvent(b.ID)
	}
	return err
}
