package dispatch

import (
	"context"
	"net/http"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// maxPoison is how much of a request that cannot be understood is kept, in bytes.
const maxPoison = 256 << 10

// keepPoison keeps a request that cannot be understood, once a day however
// often it comes, and says so.
func (d *Dispatcher) keepPoison(ctx context.Context, door string, h http.Header, body []byte, reason string) error {
	p := record.Poison{Door: door, Reason: reason, At: d.cfg.Now().UTC(), Header: harmless(h), Body: body}
	key := record.PoisonKey(p)
	if len(p.Body) > maxPoison {
		p.Body, p.Cut = p.Body[:maxPoison], true
	}
	if err := d.create(ctx, key, p); err != nil {
		return err
	}
	return d.reject(ctx, events.Rejected{Reason: reason}, events.Change{Delivery: key})
}

// harmless are the headers that say what a request is. None holds a credential
// or a signature.
func harmless(h http.Header) map[string]string {
	kept := map[string]string{}
	for name := range h {
		lower := strings.ToLower(name)
		switch {
		case lower == "content-type", lower == "user-agent", strings.HasPrefix(lower, "ce-"),
			lower == "x-github-event", lower == "x-github-delivery",
			lower == "x-gitlab-event", lower == "x-gitlab-event-uuid", lower == "idempotency-key", lower == "webhook-id", strings.HasPrefix(lower, "kiln-"):
			kept[name] = events.CleanText(h.Get(name), events.MaxAttribute)
		}
	}
	return kept
}
