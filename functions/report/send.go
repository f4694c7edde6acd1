package report

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/kilnhook/kiln/events"
)

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 4 << 10

// send makes a request until it succeeds, is refused for good, or was tried
// often enough; the last two are logged. The error says why the context ended.
func (r *Reporter) send(ctx context.Context, host string, spacing time.Duration, what, buildID string, make func(context.Context) (*http.Request, error)) error {
	backoff := r.opts.MinBackoff
	for attempt := 1; ; attempt++ {
		if err := r.await(ctx, host, spacing); err != nil {
			return err
		}
		status, pause, text, err := r.try(ctx, make)
		if err == nil && status/100 == 2 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		log := r.opts.Log.With("what", what, "build", buildID, "host", host, "status", status, "answer", text, "err", err)
		if err == nil && refused(status) {
			log.Warn("the report was refused; it is not told")
			return nil
		}
		if attempt == r.opts.Attempts {
			log.Error("the report could not be told")
			return nil
		}
		pause = max(min(pause, maxRetryAfter), backoff)
		log.Info("the report will be tried again", "pause", pause)
		r.postpone(host, pause)
		backoff = min(2*backoff, r.opts.MaxBackoff)
	}
}

// try makes a request once. pause is what the server asks for.
func (r *Reporter) try(ctx context.Context, make func(context.Context) (*http.Request, error)) (status int, pause time.Duration, text string, err error) {
	req, err := make(ctx)
	if err != nil {
		return 0, 0, "", err
	}
	req.Header.Set("User-Agent", "kiln")
	resp, err := r.opts.Client.Do(req)
	if err != nil {
		return 0, 0, "", fmt.Errorf("ask %s: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // for people only: what could be read will do
	return resp.StatusCode, r.wanted(resp), events.CleanText(string(answer), events.MaxReason), nil
}

// wanted is the pause that an answer asks for: Retry-After in seconds or as a
// date, or GitHub's time at which the limit is reset.
func (r *Reporter) wanted(resp *http.Response) time.Duration {
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(r.opts.Now())
	}
	if resp.Header.Get("X-Ratelimit-Remaining") == "0" {
		if at, err := strconv.ParseInt(resp.Header.Get("X-Ratelimit-Reset"), 10, 64); err == nil {
			return time.Unix(at, 0).Sub(r.opts.Now())
		}
	}
	return 0
}

// refused reports whether a status says that a retry is of no use. GitHub says
// 403 when too much was asked, so it is tried again too.
func refused(status int) bool {
	switch status {
	case http.StatusForbidden, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status/100 == 4 || status/100 == 3
}

// postpone keeps everybody from a host for a while.
func (r *Reporter) postpone(host string, pause time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.opts.Now().Add(pause); at.After(r.next[host]) {
		r.next[host] = at
	}
}

// await waits until a host may be asked, and takes that turn.
func (r *Reporter) await(ctx context.Context, host string, spacing time.Duration) error {
	for {
		r.mu.Lock()
		now := r.opts.Now()
		wait := r.next[host].Sub(now)
		if wait <= 0 {
			r.next[host] = now.Add(spacing)
			r.mu.Unlock()
			return nil
		}
		r.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
