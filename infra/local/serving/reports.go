package serving

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/report"
	"github.com/kilnhook/kiln/infra/bus"
)

// ReadReports reads the file that says where builds are told; an empty name is
// nowhere.
func ReadReports(file string, getenv func(string) string) (report.Config, error) {
	if file == "" {
		return report.Config{}, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return report.Config{}, fmt.Errorf("read reports: %w", err)
	}
	c, err := report.Parse(file, data, report.Secrets{File: os.ReadFile, Env: getenv})
	if err != nil {
		return report.Config{}, fmt.Errorf("read reports:\n%w", err)
	}
	return c, nil
}

// Reports tells forges and chats what happens on a bus.
type Reports struct {
	reporter         *report.Reporter
	statuses, notify *bus.Follower
}

// OpenReports prepares that. It is an error if a trigger asks for more than the
// configuration has.
func OpenReports(b *bus.Bus, ledger report.Ledger, c report.Config, set trigger.Set, now func() time.Time, log *slog.Logger) (*Reports, error) {
	if err := c.Check(set); err != nil {
		return nil, fmt.Errorf("reports do not fit the triggers; see --reports:\n%w", err)
	}
	if b == nil || !c.Wanted() {
		return &Reports{}, nil
	}
	r := &Reports{}
	var err error
	if r.reporter, err = report.New(report.Options{Config: c, Ledger: ledger, Now: now, Log: log}); err != nil {
		return nil, err
	}
	// A forge that is slow does not hold up a chat.
	if r.statuses, err = bus.NewFollower(b, "report-statuses", report.Types()...); err != nil {
		return nil, err
	}
	r.notify, err = bus.NewFollower(b, "report-notifications", report.Types()...)
	return r, err
}

// Run tells until ctx is done.
func (r *Reports) Run(ctx context.Context) error {
	if r.reporter == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.statuses.Run(ctx, r.reporter.HandleStatus) })
	group.Go(func() error { return r.notify.Run(ctx, r.reporter.HandleNotify) })
	return group.Wait()
}
