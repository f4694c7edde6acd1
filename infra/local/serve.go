package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/infra/local/durable"
)

// errStopped is why everything ends when Serve is asked to.
var errStopped = errors.New("the stack is stopping")

// shutdownTime is how long requests may take to end.
const shutdownTime = 5 * time.Second

// Serve answers, builds, delivers and sweeps until ctx is done, and then stops
// what runs and closes the stack. Builds that ran then start again with the
// next stack. The error is nil if ctx ended it.
func (s *Stack) Serve(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if err := s.WriteAddress(s.path(addressName)); err != nil {
		return errors.Join(err, s.close())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serveHTTP(ctx, s.http, s.handler()) })
	group.Go(func() error { return s.serveHTTP(ctx, s.s3, s.guard(s.bucket.S3Handler())) })
	group.Go(func() error { return s.launcher.Run(ctx) })
	group.Go(func() error { return s.webhooks.Run(ctx) })
	group.Go(func() error { return s.sweepLoop(ctx) })
	err := group.Wait()
	if errors.Is(err, context.Canceled) || errors.Is(err, errStopped) {
		err = nil
	}
	s.cfg.Log.Info("stopped")
	return errors.Join(err, s.close())
}

// serveHTTP serves one listener until ctx is done. Streams end with ctx; other
// requests get a little time.
func (s *Stack) serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), shutdownTime, errors.New("requests took too long to end"))
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		s.cfg.Log.Warn("end requests", "err", errors.Join(err, srv.Close()))
	}
	return errStopped
}

// sweepLoop sweeps at start and then every now and then.
func (s *Stack) sweepLoop(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.SweepEvery)
	defer ticker.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("sweep; trying again later", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errStopped
		}
	}
}

// Sweep finishes what a crash or a fault left undone: changes that were stored
// but not dispatched, builds that were requested but do not run, outcomes that
// were claimed but not told.
func (s *Stack) Sweep(ctx context.Context) error {
	return errors.Join(s.dispatcher.Sweep(ctx), s.bucket.Sweep(ctx), s.git.Sweep(ctx))
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
