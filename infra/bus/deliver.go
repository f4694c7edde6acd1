package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/wait"
)

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 4 << 10

// refusedError says that a subscriber will never take an event.
type refusedError struct {
	status int
	answer string
}

func (e *refusedError) Error() string { return fmt.Sprintf("refused with status %d", e.status) }

// poster posts events as the options say.
type poster struct{ WebhookOptions }

// deliver posts an event until the subscriber has it, at most attempts times if
// that is positive. The error is a *refusedError, the reason why the context
// ended, or says what the last attempt came to.
func (p poster) deliver(ctx context.Context, sub Subscriber, e event.Event, attempts int) error {
	backoff := p.MinBackoff
	for attempt := 1; ; attempt++ {
		answer, err := p.post(ctx, sub, e)
		if err == nil && answer.status/100 == 2 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && permanent(answer.status) && !(sub.TokenFile != "" && aboutToken(answer.status)) {
			return &refusedError{status: answer.status, answer: events.CleanText(answer.text, maxAnswer)}
		}
		if attempt == attempts {
			return fmt.Errorf("not delivered after %d attempts, last status %d: %w", attempt, answer.status, orNoSuccess(err))
		}
		pause := backoff/2 + rand.N(backoff/2+1)
		if wanted := min(answer.retryAfter, p.MaxBackoff); wanted > pause {
			pause = wanted
		}
		p.Log.Info("webhook will be tried again", "webhook", sub.Name, "event", e.ID(),
			"attempt", attempt, "status", answer.status, "pause", pause, "err", err)
		if err := wait.For(ctx, pause); err != nil {
			return err
		}
		backoff = min(2*backoff, p.MaxBackoff)
	}
}

// orNoSuccess is the error of an attempt, or says that there was an answer and it
// was no success.
func orNoSuccess(err error) error {
	if err != nil {
		return err
	}
	return errors.New("the answer was no success")
}

// permanent reports whether a status says that a retry is of no use.
func permanent(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status/100 == 4
}

// aboutToken reports whether a status is about who asks, and not about what.
func aboutToken(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// answer is what a subscriber said.
type answer struct {
	status     int // 0 if there was no answer
	text       string
	retryAfter time.Duration
}

// post sends an event once.
func (p poster) post(ctx context.Context, sub Subscriber, e event.Event) (answer, error) {
	for name, value := range sub.Extensions {
		e.SetExtension(name, value)
	}
	header, body, err := events.EncodeHTTP(e)
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, sub.URL, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header = header
	req.Header.Set("User-Agent", "kiln")
	if sub.TokenFile != "" {
		token, err := os.ReadFile(sub.TokenFile)
		switch {
		case err == nil:
			req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		case !errors.Is(err, fs.ErrNotExist):
			return answer{}, fmt.Errorf("read the token for %s: %w", sub.Name, err)
		}
	}
	if len(sub.Secret) > 0 {
		id, at := e.ID(), p.Now()
		req.Header.Set("Webhook-Id", id)
		req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
		req.Header.Set("Webhook-Signature", Sign(sub.Secret, id, at, body))
	}
	resp, err := p.Client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // for people only: what could be read will do
	return answer{status: resp.StatusCode, text: string(text), retryAfter: p.retryAfter(resp.Header.Get("Retry-After"))}, nil
}

// retryAfter reads a header of that name: seconds or a date.
func (p poster) retryAfter(text string) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(p.Now())
	}
	return 0
}
