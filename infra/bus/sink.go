package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
)

// sinkAttempts is how often an event is posted to a Sink before whoever
// publishes it is told that it cannot be: some three seconds, as senders of
// webhooks wait for ten.
const sinkAttempts = 3

// Refused keeps an event that a sink will never take, and why.
type Refused func(ctx context.Context, e event.Event, status int, answer string) error

// Sink posts events to an address, without a spool: Publish returns once the
// event was accepted. It is for a program that keeps nothing on disk, and leaves
// trying again later to whoever publishes.
type Sink struct {
	sub     Subscriber
	poster  poster
	refused Refused
}

// NewSink returns a Sink. Of the options, Subscribers is not used. What the sink
// refuses for good, as Webhooks says, is given to refused.
func NewSink(sub Subscriber, opts WebhookOptions, refused Refused) (*Sink, error) {
	if err := sub.check(); err != nil {
		return nil, err
	}
	if opts.Now == nil || refused == nil {
		return nil, errors.New("a sink needs a clock and a place for what is refused")
	}
	return &Sink{sub: sub, poster: poster{opts.withDefaults()}, refused: refused}, nil
}

// Publish posts an event, and again if need be. A nil error says that the sink
// has it, or has refused it and that was written down.
func (s *Sink) Publish(ctx context.Context, e event.Event) error {
	err := s.poster.deliver(ctx, s.sub, e.Clone(), sinkAttempts)
	var refused *refusedError
	if errors.As(err, &refused) {
		s.poster.Log.Warn("sink refused event", "event", e.ID(), "status", refused.status, "answer", refused.answer)
		return s.refused(ctx, e, refused.status, refused.answer)
	}
	if err != nil {
		return fmt.Errorf("post %s to the sink: %w", e.ID(), err)
	}
	return nil
}

// ParseOverrides reads the variable K_CE_OVERRIDES that Knative gives a program
// with a sink: {"extensions":{"name":"value"}}, attributes to be set on every
// event. Empty text is none.
func ParseOverrides(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	var overrides struct {
		Extensions map[string]string `json:"extensions"`
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&overrides); err != nil {
		return nil, fmt.Errorf("read K_CE_OVERRIDES: %w", err)
	}
	for name := range overrides.Extensions {
		switch {
		case name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "":
			return nil, fmt.Errorf("read K_CE_OVERRIDES: %q is not the name of an attribute: lower-case letters and digits", name)
		case strings.Contains(" specversion id source type subject time datacontenttype dataschema data ", " "+name+" "):
			return nil, fmt.Errorf("read K_CE_OVERRIDES: %s is not an extension", name)
		}
	}
	return overrides.Extensions, nil
}
