// Package pubsub publishes events to a topic of Google's Pub/Sub, in the binary
// mode of CloudEvents: attributes of the event are attributes of the message with
// the prefix "ce-", the data is the message's. A push subscription that writes
// metadata without a wrapper so delivers CloudEvents over HTTP, and filters of
// subscriptions see every attribute.
package pubsub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kilnhook/kiln/events"
)

// MaxMessage is the size above which an event's data is not in its message, in
// bytes of data and attributes.
const MaxMessage = 32 << 10

// publishTime is how long the library may try to publish a message.
const publishTime = 30 * time.Second

// Options of a Publisher.
type Options struct {
	Project, Topic string // required
	// Keep stores the data of an event that is too large for a message and
	// returns the URL that subscribers find it at. It may be called again with
	// the same event; required.
	Keep func(ctx context.Context, e event.Event) (url string, err error)
	// Address is the host:port of a server that stands for Google's, without
	// TLS and credentials; empty is Google's.
	Address string
	// Dial are further options of the connection, for tests.
	Dial []grpc.DialOption
}

// Publisher publishes to a topic. It is safe for concurrent use. Close it when
// done.
type Publisher struct {
	client *pubsub.Client
	topic  *pubsub.Publisher
	keep   func(ctx context.Context, e event.Event) (string, error)
}

// ClientOptions are those of a client of a server that stands for Google's, if
// an address is given.
func ClientOptions(address string, dial ...grpc.DialOption) []option.ClientOption {
	var opts []option.ClientOption
	if address != "" {
		opts = append(opts, option.WithEndpoint(address), option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	}
	for _, d := range dial {
		opts = append(opts, option.WithGRPCDialOption(d))
	}
	return opts
}

// Open returns a Publisher. ctx is for finding credentials.
func Open(ctx context.Context, o Options) (*Publisher, error) {
	if o.Project == "" || o.Topic == "" || o.Keep == nil {
		return nil, errors.New("a publisher needs a project, a topic and a place for large data")
	}
	client, err := pubsub.NewClient(ctx, o.Project, ClientOptions(o.Address, o.Dial...)...)
	if err != nil {
		return nil, fmt.Errorf("open topic %s of project %s: %w", o.Topic, o.Project, err)
	}
	p := &Publisher{client: client, topic: client.Publisher(o.Topic), keep: o.Keep}
	p.topic.EnableMessageOrdering = true
	p.topic.PublishSettings.DelayThreshold = time.Millisecond
	p.topic.PublishSettings.Timeout = publishTime
	return p, nil
}

// Close publishes nothing more and releases the connection.
func (p *Publisher) Close() error {
	p.topic.Stop()
	return p.client.Close()
}

// Publish returns once Pub/Sub has stored an event, which subscribers then get
// at least once, and those of one partition key in order. What may pass is tried
// again for half a minute.
func (p *Publisher) Publish(ctx context.Context, e event.Event) error {
	m := Message(e)
	if size(m) > MaxMessage {
		url, err := p.keep(ctx, e)
		if err != nil {
			return fmt.Errorf("keep data of %s, which is too large for a message: %w", e.ID(), err)
		}
		m.Data = nil
		m.Attributes[attribute(events.ExtDataRef)] = url
	}
	if _, err := p.topic.Publish(ctx, m).Get(ctx); err != nil {
		if m.OrderingKey != "" {
			p.topic.ResumePublish(m.OrderingKey) // a failure holds up all of its key until somebody says so
		}
		return fmt.Errorf("publish %s to %s: %w", e.ID(), p.topic, err)
	}
	return nil
}

// Message is an event as a message. Its ordering key is the event's partition
// key.
func Message(e event.Event) *pubsub.Message {
	m := &pubsub.Message{Data: e.Data(), Attributes: map[string]string{}}
	for name, value := range events.Attributes(e) {
		m.Attributes[attribute(name)] = value
	}
	if ct := e.DataContentType(); ct != "" {
		m.Attributes["Content-Type"] = ct
	}
	m.OrderingKey = m.Attributes[attribute(events.ExtPartitionKey)]
	return m
}

// attribute is the name of a message's attribute for one of an event.
func attribute(name string) string { return "ce-" + name }

// size is what a message counts: data, names and values.
func size(m *pubsub.Message) int {
	n := len(m.Data) + len(m.OrderingKey)
	for name, value := range m.Attributes {
		n += len(name) + len(value)
	}
	return n
}
