// Package wait lets time pass for as long as somebody wants it to.
package wait

import (
	"context"
	"time"
)

// For waits for d, or returns the cause of the end of ctx if that comes first.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
