package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Subscriber is an address that events are posted to.
type Subscriber struct {
	// Name tells subscribers apart, and their cursors over restarts: letters,
	// digits, "-" and "_", at most 64.
	Name string
	// URL is where events are posted, http or https.
	URL string
	// Secret signs every request as Standard Webhooks 1.0 says; empty for no
	// signature. See ParseSecret.
	Secret []byte
	// TokenFile holds a bearer token that every request shows; empty for none. It
	// is read anew each time, as such tokens are changed while they are used. A
	// subscriber with one refuses nothing for good because of the token.
	TokenFile string
	// Extensions are attributes that every event gets, as K_CE_OVERRIDES of
	// Knative's SinkBinding says. See ParseOverrides.
	Extensions map[string]string
	// Types are the event types that are posted; empty is all.
	Types []string
	// FromStart posts, to a new subscriber, also the events that the spool
	// kept from before it was there.
	FromStart bool
}

// WebhookOptions says how subscribers are served. Subscribers and Now are
// required.
type WebhookOptions struct {
	Subscribers []Subscriber
	Now         func() time.Time // for the time stamp of signatures
	Client      *http.Client     // nil: one with a time limit of 10 s that follows no redirects
	MinBackoff  time.Duration    // before the first retry; 0 is 1 s
	MaxBackoff  time.Duration    // between retries; 0 is 5 min
	Log         *slog.Logger     // nil discards
}

func (o WebhookOptions) withDefaults() WebhookOptions {
	if o.Client == nil {
		o.Client = &http.Client{
			Timeout:       10 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = time.Second
	}
	if o.MaxBackoff < o.MinBackoff {
		o.MaxBackoff = max(o.MinBackoff, 5*time.Minute)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Webhooks posts events to subscribers: each gets every event of its types, in
// order and at least once, as a CloudEvent in binary mode. What cannot be
// delivered is tried again with growing pauses, for as long as it takes; what
// is refused for good (a status of 4xx other than 404, 408, 409, 425 and 429)
// is put aside in the directory dead of the spool, and the next event's turn
// comes. How far a subscriber has come is kept in the directory cursors.
type Webhooks struct {
	bus     *Bus
	opts    WebhookOptions
	readers []*reader
}

// NewWebhooks prepares the subscribers of a bus. From here on the bus keeps
// what they have not got.
func NewWebhooks(b *Bus, opts WebhookOptions) (*Webhooks, error) {
	if opts.Now == nil {
		return nil, errors.New("webhooks need a clock")
	}
	w := &Webhooks{bus: b, opts: opts.withDefaults()}
	for _, name := range []string{cursorDir, deadDir} {
		if err := os.MkdirAll(filepath.Join(b.dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("make directory for webhooks: %w", err)
		}
	}
	names := map[string]bool{}
	for _, sub := range opts.Subscribers {
		if err := sub.check(); err != nil {
			return nil, err
		}
		if names[sub.Name] {
			return nil, fmt.Errorf("two webhooks are named %q", sub.Name)
		}
		names[sub.Name] = true
		r, err := newReader(b, sub)
		if err != nil {
			return nil, fmt.Errorf("webhook %s: %w", sub.Name, err)
		}
		w.readers = append(w.readers, r)
	}
	return w, nil
}

// check reports what is wrong with a subscriber.
func (s Subscriber) check() error {
	odd := strings.IndexFunc(s.Name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
	if s.Name == "" || len(s.Name) > 64 || odd >= 0 {
		return fmt.Errorf("name of webhook %q is not 1 to 64 letters, digits, '-' or '_'", s.Name)
	}
	u, err := url.Parse(s.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("webhook %s: URL is not http://… or https://…", s.Name)
	}
	if len(s.Secret) > 0 && len(s.Secret) < minSecret {
		return fmt.Errorf("webhook %s: secret has %d bytes; use %d or more", s.Name, len(s.Secret), minSecret)
	}
	return nil
}

// Run posts events until the context ends or the bus is closed, and then
// returns nil; an error is that of the spool or a cursor.
func (w *Webhooks) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	errs := make([]error, len(w.readers))
	var wg sync.WaitGroup
	for i, r := range w.readers {
		wg.Go(func() {
			err := w.serve(ctx, r)
			if err == nil || errors.Is(err, ErrClosed) || ctx.Err() != nil {
				return
			}
			errs[i] = fmt.Errorf("webhook %s: %w", r.sub.Name, err)
			stop(errs[i])
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// serve posts events to one subscriber.
func (w *Webhooks) serve(ctx context.Context, r *reader) error {
	for stored, err := range w.bus.Watch(ctx, r.read) {
		if err != nil {
			return err
		}
		if len(r.sub.Types) > 0 && !slices.Contains(r.sub.Types, stored.Event.Type()) {
			r.skip(stored.Seq)
			continue
		}
		if err := (poster{w.opts}).deliver(ctx, r.sub, stored.Event.Clone(), 0); err != nil {
			var refused *refusedError
			if !errors.As(err, &refused) {
				return err
			}
			w.opts.Log.Warn("webhook refused event", "webhook", r.sub.Name, "event", stored.Event.ID(), "status", refused.status)
			if err := r.bury(stored, refused); err != nil {
				return err
			}
		}
		if err := r.advance(stored.Seq); err != nil {
			return err
		}
	}
	return nil
}

// Directories of the spool.
const (
	cursorDir = "cursors"
	deadDir   = "dead"
)

// reader is a subscriber and how far it has come. One goroutine owns it.
type reader struct {
	bus  *Bus
	sub  Subscriber
	read uint64 // place of the last event that was dealt with
}

// cursor is what is kept of a reader.
type cursor struct {
	Read uint64 `json:"read"`
}

// newReader finds out where a subscriber stands. A new one stands at the end,
// or at the beginning if it says so, and that is written down at once, so that
// what is published before its first event is its too.
func newReader(b *Bus, sub Subscriber) (*reader, error) {
	r := &reader{bus: b, sub: sub}
	data, err := os.ReadFile(r.file())
	switch {
	case err == nil:
		var c cursor
		if err := json.Unmarshal(data, &c); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.file(), err)
		}
		if c.Read > b.Last() {
			c.Read = 0 // of an earlier spool
		}
		r.skip(c.Read)
		return r, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	start := b.Last()
	if sub.FromStart {
		start = 0
	}
	return r, r.advance(start)
}

func (r *reader) file() string { return filepath.Join(r.bus.dir, cursorDir, r.sub.Name+".json") }

// skip notes that an event does not concern the reader. After a crash it is
// passed over again.
func (r *reader) skip(seq uint64) {
	r.read = seq
	r.bus.pin(r.sub.Name, seq)
}

// advance notes on disk that an event was dealt with.
func (r *reader) advance(seq uint64) error {
	data, err := json.Marshal(cursor{Read: seq})
	if err != nil {
		return err
	}
	if err := writeFile(r.file(), data); err != nil {
		return fmt.Errorf("write cursor: %w", err)
	}
	r.skip(seq)
	return nil
}

// bury puts aside an event that the subscriber does not want.
func (r *reader) bury(stored Stored, why *refusedError) error {
	data, err := json.MarshalIndent(struct {
		Webhook string `json:"webhook"`
		Seq     uint64 `json:"seq"`
		Status  int    `json:"status"`
		Answer  string `json:"answer"`
		Event   any    `json:"event"`
	}{r.sub.Name, stored.Seq, why.status, why.answer, stored.Event}, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(r.bus.dir, deadDir, fmt.Sprintf("%s-%020d.json", r.sub.Name, stored.Seq))
	if err := writeFile(name, data); err != nil {
		return fmt.Errorf("put refused event aside: %w", err)
	}
	return nil
}

// writeFile replaces a file so that after a crash it is the old or the new one.
func writeFile(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // no more there once renamed
	_, err = bytes.NewReader(data).WriteTo(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}
