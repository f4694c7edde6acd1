// Package pubsub fetches messages from a subscription of Google's Pub/Sub, for
// dispatchers that nobody can push to. A message is acknowledged once it was
// handled; one that could not be is given back, comes again, and goes to the
// subscription's dead-letter topic when it came too often.
package pubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"cloud.google.com/go/pubsub/v2"

	source "github.com/kilnhook/kiln/events/source/pubsub"
	bus "github.com/kilnhook/kiln/infra/bus/pubsub"
)

// maxOutstandingBytes is how much is held in messages that are being handled.
const maxOutstandingBytes = 64 << 20

// stopTime is how long messages that are being handled may take once the program
// is asked to end.
const stopTime = 20 * time.Second

// Options of a Puller. Project, Subscription and Deliver are required.
type Options struct {
	Project, Subscription string
	// Deliver handles a message in the envelope of a push. Nil says that it may
	// be acknowledged.
	Deliver func(ctx context.Context, h http.Header, body []byte) error
	// Outstanding is how many messages are handled at a time; 0 is 16.
	Outstanding int
	// Address is the host:port of a server that stands for Google's, without
	// TLS and credentials; empty is Google's.
	Address string
	Log     *slog.Logger // nil discards
}

// Puller fetches messages. Close it when done.
type Puller struct {
	client *pubsub.Client
	opts   Options
}

// Open returns a Puller. ctx is for finding credentials.
func Open(ctx context.Context, o Options) (*Puller, error) {
	if o.Project == "" || o.Subscription == "" || o.Deliver == nil {
		return nil, errors.New("to pull from Pub/Sub takes a project, a subscription and someone to deliver to")
	}
	if o.Outstanding <= 0 {
		o.Outstanding = 16
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	client, err := pubsub.NewClientWithConfig(ctx, o.Project, nil, bus.ClientOptions(o.Address)...)
	if err != nil {
		return nil, fmt.Errorf("open subscription %s of project %s: %w", o.Subscription, o.Project, err)
	}
	return &Puller{client: client, opts: o}, nil
}

// Close releases the connection.
func (p *Puller) Close() error { return p.client.Close() }

// Run fetches and delivers until the context ends, and then waits for what is
// being handled. An error says that the subscription cannot be read.
func (p *Puller) Run(ctx context.Context) error {
	sub := p.client.Subscriber(p.opts.Subscription)
	sub.ReceiveSettings.MaxOutstandingMessages = p.opts.Outstanding
	sub.ReceiveSettings.MaxOutstandingBytes = maxOutstandingBytes
	sub.ReceiveSettings.NumGoroutines = 1
	sub.ReceiveSettings.ShutdownOptions = &pubsub.ShutdownOptions{
		Behavior: pubsub.ShutdownBehaviorWaitForProcessing, Timeout: stopTime,
	}
	err := sub.Receive(ctx, func(ctx context.Context, m *pubsub.Message) {
		if err := p.deliver(ctx, m); err != nil {
			p.opts.Log.Warn("message will come again", "subscription", p.opts.Subscription, "message", m.ID, "err", err)
			m.Nack()
			return
		}
		m.Ack()
	})
	if err != nil {
		return fmt.Errorf("pull from subscription %s: %w", p.opts.Subscription, err)
	}
	return nil
}

// deliver hands a message over as a push would have brought it.
func (p *Puller) deliver(ctx context.Context, m *pubsub.Message) error {
	body, err := source.Envelope("projects/"+p.opts.Project+"/subscriptions/"+p.opts.Subscription, m.ID, m.PublishTime, m.Attributes, m.Data)
	if err != nil {
		return err
	}
	return p.opts.Deliver(ctx, http.Header{"Content-Type": {"application/json"}}, body)
}
