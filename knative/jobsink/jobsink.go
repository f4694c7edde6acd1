// Package jobsink runs builds through a Knative JobSink, which makes a Job of
// every event it gets. The dispatcher then needs no right to make Jobs; in return
// it does not see them: an executor says itself what became of its build, at a
// finish.Gateway, and one that is lost is found by its deadline. If it may read
// pods, a Follower has their logs kept.
package jobsink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/record"
)

// Config of a Launcher. URL, ResultURL, Token, Ledger and Now are required.
type Config struct {
	URL       string                      // of the JobSink: its status.address.url
	ResultURL string                      // of the finish.Gateway; the build's id is appended
	Token     func(buildID string) string // finish.Gateway.Token
	Ledger    Ledger
	// Timeout is how long a build may take, as the JobSink's Job says in
	// activeDeadlineSeconds; 0 is one hour. A request's own timeout cannot count,
	// since all Jobs of a JobSink are the same.
	Timeout time.Duration
	Slack   time.Duration // how much later a build is lost; 0 is 10 min
	// TokenFile holds a bearer token that the JobSink wants to see; "" is none. It is
	// read anew for every build, as such tokens are changed while they are used.
	TokenFile string
	Client    *http.Client // nil is one that waits 30 s
	Now       func() time.Time
	Log       *slog.Logger // nil discards
}

// Ledger is where requests are recorded.
type Ledger interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
}

// Launcher posts builds to a JobSink.
type Launcher struct{ cfg Config }

var (
	_ dispatch.Launcher = (*Launcher)(nil)
	_ dispatch.Prober   = (*Launcher)(nil)
)

// New returns a Launcher.
func New(cfg Config) (*Launcher, error) {
	if cfg.URL == "" || cfg.ResultURL == "" || cfg.Token == nil || cfg.Ledger == nil || cfg.Now == nil {
		return nil, errors.New("launcher needs the URLs of a JobSink and of the gateway for results, tokens, a ledger and a clock")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Hour
	}
	if cfg.Slack <= 0 {
		cfg.Slack = 10 * time.Minute
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 30 * time.Second}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Launcher{cfg: cfg}, nil
}

// Launch posts the build. A JobSink answers a repetition as it did the first
// time and makes no second Job.
func (l *Launcher) Launch(ctx context.Context, req events.Request) error {
	e, err := events.RunEvent(events.Order{
		Request: req, ResultURL: l.cfg.ResultURL + req.BuildID, ResultToken: l.cfg.Token(req.BuildID),
	})
	if err != nil {
		return err
	}
	header, body, err := events.EncodeHTTP(e)
	if err != nil {
		return fmt.Errorf("encode %s: %w", e.ID(), err)
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, l.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("post %s to the JobSink: %w", e.ID(), err)
	}
	post.Header = header
	if l.cfg.TokenFile != "" {
		token, err := os.ReadFile(l.cfg.TokenFile)
		if err != nil {
			return fmt.Errorf("read the token for the JobSink: %w", err)
		}
		post.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := l.cfg.Client.Do(post)
	if err != nil {
		return fmt.Errorf("post %s to the JobSink: %w", e.ID(), err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // only so that the connection can be used again
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("post %s to the JobSink: %w", e.ID(), dispatch.ErrQuota)
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("post %s to the JobSink at %s: it answered %s %s", e.ID(), l.cfg.URL, resp.Status, resp.Header.Get("Reason"))
	}
	l.cfg.Log.Info("job asked for", "build", req.BuildID, "attempt", req.Attempt, "location", resp.Header.Get("Location"))
	return nil
}

// Cancel does nothing: the build's outcome is claimed, so that what its executor
// says counts no more and moves no tag. It runs on to its end or deadline.
func (l *Launcher) Cancel(_ context.Context, buildID string) error {
	l.cfg.Log.Info("a JobSink's Job cannot be stopped: it runs on without effect", "build", buildID)
	return nil
}

// Reach is how long after its request so many attempts at a build may take.
func (l *Launcher) Reach(attempts int) time.Duration {
	return time.Duration(attempts) * (l.cfg.Timeout + l.cfg.Slack)
}

// State says that a build runs until its deadline has passed for every attempt,
// and that it does not exist after that.
func (l *Launcher) State(ctx context.Context, buildID string) (dispatch.State, error) {
	var req events.Request
	_, err := record.Load(ctx, l.cfg.Ledger, record.RequestKey(buildID), &req)
	if errors.Is(err, fs.ErrNotExist) {
		return dispatch.StateNone, nil
	}
	if err != nil {
		return dispatch.StateNone, fmt.Errorf("read request: %w", err)
	}
	attempts := 1
	var open record.Open
	switch _, err := record.Load(ctx, l.cfg.Ledger, record.OpenKey(req), &open); {
	case err == nil:
		attempts = max(attempts, open.Request.Attempt)
	case !errors.Is(err, fs.ErrNotExist):
		return dispatch.StateNone, fmt.Errorf("read attempts: %w", err)
	}
	deadline := req.RequestedAt.Add(l.Reach(attempts))
	if l.cfg.Now().Before(deadline) {
		return dispatch.StateRunning, nil
	}
	return dispatch.StateNone, nil
}
