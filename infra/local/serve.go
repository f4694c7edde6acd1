package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/infra/local/durable"
	"github.com/kilnhook/kiln/infra/local/serving"
)

// Serve answers, builds, delivers and sweeps until ctx is done, and then stops
// what runs and closes the stack. Builds that ran then start again with the
// next stack. The error is nil if ctx ended it.
func (s *Stack) Serve(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if err := s.WriteAddress(s.path(addressName)); err != nil {
		return errors.Join(err, s.close())
	}
	// Before anything is started for an address that is no more.
	if err := s.sweepMoved(ctx); err != nil {
		s.cfg.Log.Warn("build again what was for an older address; trying again later", "err", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serving.HTTP(ctx, s.http, s.handler(), s.cfg.Log) })
	group.Go(func() error { return serving.HTTP(ctx, s.s3, s.guard(s.s3Tokens(s.bucket.S3Handler())), s.cfg.Log) })
	group.Go(func() error { return s.launcher.Run(ctx) })
	group.Go(func() error { return s.console.Run(ctx) })
	group.Go(func() error { return s.webhooks.Run(ctx) })
	group.Go(func() error { return s.reports.Run(ctx) })
	group.Go(func() error { return s.traces.Run(ctx) })
	group.Go(func() error { return serving.Every(ctx, time.Hour, "remove what is old", s.cfg.Log, s.Retain) })
	group.Go(func() error { return serving.Every(ctx, s.cfg.SweepEvery, "sweep", s.cfg.Log, s.Sweep) })
	err := group.Wait()
	if errors.Is(err, context.Canceled) || errors.Is(err, serving.ErrStopped) {
		err = nil
	}
	s.cfg.Log.Info("stopped")
	return errors.Join(err, s.close())
}

// Sweep finishes what a crash or a fault left undone: changes that were stored
// but not dispatched, builds that were requested but do not run, outcomes that
// were claimed but not told.
func (s *Stack) Sweep(ctx context.Context) error {
	err := errors.Join(s.sweepMoved(ctx), s.dispatcher.Sweep(ctx), s.bucket.Sweep(ctx), s.git.Sweep(ctx))
	s.metrics.Swept(s.cfg.Now(), err)
	return err
}

// WriteAddress writes where the stack listens into a file, as JSON of
// api.Address, for clients that do not know its data directory.
func (s *Stack) WriteAddress(path string) error {
	data, err := json.Marshal(s.Address())
	if err != nil {
		return fmt.Errorf("write address: %w", err)
	}
	return durable.WriteFile(path, data, 0o600)
}
