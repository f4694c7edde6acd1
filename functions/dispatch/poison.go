package dispatch

import (
	"context"
	"net/http"
	"slices"
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
	telling := []string{
		"content-type", "user-agent", "x-github-event", "x-github-delivery",
		"x-gitlab-event", "x-gitlab-event-uuid", "idempotency-key", "webhook-id",
		"x-gitea-event", "x-gitea-delivery", "x-forgejo-event", "x-forgejo-delivery",
		"x-event-key", "x-request-uuid", "x-request-id", "x-amz-sns-message-type", "aeg-event-type",
		"x-goog-pubsub-subscription-name", "x-goog-pubsub-message-id", "x-goog-pubsub-publish-time",
		"eventtype", "payloadformat", "bucketid", "objectid", "objectgeneration", "eventtime",
	}
	kept := map[string]string{}
	for name := range h {
		lower := strings.ToLower(name)
		switch {
		case slices.Contains(telling, lower), strings.HasPrefix(lower, "ce-"), strings.HasPrefix(lower, "kiln-"):
			kept[name] = events.CleanText(h.Get(name), events.MaxAttribute)
		}
	}
	return kept
}
