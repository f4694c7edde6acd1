// Package serving is what the programs that run builds on one machine share:
// HTTP that ends well, work that is done every now and then, and the launcher of
// child processes as the dispatcher wants it.
package serving

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/infra/local/fair"
	"github.com/kilnhook/kiln/infra/local/launch"
)

// ErrStopped is why HTTP and Every end when they are asked to.
var ErrStopped = errors.New("the program is stopping")

const (
	headTime = 30 * time.Second // for the head of a request to arrive
	idleTime = 2 * time.Minute  // of a connection without a request
	endTime  = 5 * time.Second  // for requests to end
)

// HTTP serves one listener until ctx is done. Streams end with ctx; other
// requests get a little time.
func HTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headTime, IdleTimeout: idleTime,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), endTime, errors.New("requests took too long to end"))
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		log.Warn("end requests", "err", errors.Join(err, srv.Close()))
	}
	return ErrStopped
}

// Every does something now and then again after each pause, until ctx is done.
// Errors are logged under the name.
func Every(ctx context.Context, pause time.Duration, name string, log *slog.Logger, do func(context.Context) error) error {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		if err := do(ctx); err != nil && ctx.Err() == nil {
			log.Warn("failed; trying again later", "what", name, "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ErrStopped
		}
	}
}

// Capacity is what this machine has for builds that say what they need: CPUs,
// memory, and the disk that holds a directory. What cannot be found out is not
// counted.
func Capacity(dir string) fair.Resources {
	have := fair.Resources{CPUMillis: int64(runtime.NumCPU()) * 1000}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		have.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err == nil {
		have.Disk = int64(disk.Blocks) * disk.Bsize
	}
	return have
}

// Launcher is the launcher of child processes as the dispatcher wants it.
type Launcher struct{ L *launch.Launcher }

var (
	_ dispatch.Prober = Launcher{}
	_ dispatch.Waiter = Launcher{}
)

// Launch implements dispatch.Launcher.
func (a Launcher) Launch(ctx context.Context, req events.Request) error {
	err := a.L.Launch(ctx, req)
	if errors.Is(err, fair.ErrFull) {
		return fmt.Errorf("%w: %w", dispatch.ErrQuota, err)
	}
	return err
}

// Cancel implements dispatch.Launcher.
func (a Launcher) Cancel(ctx context.Context, id string) error { return a.L.Cancel(ctx, id) }

// State implements dispatch.Prober.
func (a Launcher) State(_ context.Context, id string) (dispatch.State, error) {
	st, ok := a.L.Status(id)
	switch {
	case !ok:
		return dispatch.StateNone, nil
	case st.State == launch.Queued:
		return dispatch.StatePending, nil
	}
	return dispatch.StateRunning, nil
}

// Waiting implements dispatch.Waiter.
func (a Launcher) Waiting(_ context.Context, id string) (since time.Time, reason string, err error) {
	st, ok := a.L.Status(id)
	if !ok || st.State != launch.Queued {
		return time.Time{}, "", fmt.Errorf("build %s does not wait: %w", id, fs.ErrNotExist)
	}
	return st.Since, fmt.Sprintf("it is number %d in the queue of this machine", st.Position), nil
}
