package bus

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/kilnhook/kiln/events"
)

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 4 << 10

// refusedError says that a subscriber will never take an event.
type refusedError struct {
	status int
	answer string
}

func (e *refusedError) Error() string { return fmt.Sprintf("refused with status %d", e.status) }

// deliver posts an event until the subscriber has it. The error is a
// *refusedError or the reason why the context ended.
func (w *Webhooks) deliver(ctx context.Context, sub Subscriber, stored Stored) error {
	backoff := w.opts.MinBackoff
	for attempt := 1; ; attempt++ {
		answer, err := w.post(ctx, sub, stored)
		if err == nil && answer.status/100 == 2 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && permanent(answer.status) {
			return &refusedError{status: answer.status, answer: events.CleanText(answer.text, maxAnswer)}
		}
		pause := backoff/2 + rand.N(backoff/2+1)
		if wanted := min(answer.retryAfter, w.opts.MaxBackoff); wanted > pause {
			pause = wanted
		}
		w.opts.Log.Info("webhook will be tried again", "webhook", sub.Name, "event", stored.Event.ID(),
			"attempt", attempt, "status", answer.status, "pause", pause, "err", err)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		backoff = min(2*backoff, w.opts.MaxBackoff)
	}
}

// permanent reports whether a status says that a retry is of no use.
func permanent(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status/100 == 4
}

// answer is what a subscriber said.
type answer struct {
	status     int // 0 if there was no answer
	text       string
	retryAfter time.Duration
}

// post sends an event once.
func (w *Webhooks) post(ctx context.Context, sub Subscriber, stored Stored) (answer, error) {
	header, body, err := events.EncodeHTTP(stored.Event)
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, sub.URL, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header = header
	req.Header.Set("User-Agent", "kiln")
	if len(sub.Secret) > 0 {
		id, at := stored.Event.ID(), w.opts.Now()
		req.Header.Set("Webhook-Id", id)
		req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
		req.Header.Set("Webhook-Signature", Sign(sub.Secret, id, at, body))
	}
	resp, err := w.opts.Client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // for people only: what could be read will do
	return answer{status: resp.StatusCode, text: string(text), retryAfter: w.retryAfter(resp.Header.Get("Retry-After"))}, nil
}

// retryAfter reads a header of that name: seconds or a date.
func (w *Webhooks) retryAfter(text string) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(w.opts.Now())
	}
	return 0
}

// sleep waits, or returns the reason why the context ended first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
