package pubsub_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gpubsub "cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"

	"github.com/kilnhook/kiln/events"
	source "github.com/kilnhook/kiln/events/source/pubsub"
	bus "github.com/kilnhook/kiln/infra/bus/pubsub"
	"github.com/kilnhook/kiln/infra/pull/pubsub"
)

const (
	topic        = "projects/p1/topics/changes"
	subscription = "projects/p1/subscriptions/dispatch"
)

// serve runs a Pub/Sub in this process with a topic and a subscription.
func serve(t *testing.T) *pstest.Server {
	t.Helper()
	srv := pstest.NewServer()
	t.Cleanup(func() { srv.Close() })
	client, err := gpubsub.NewClient(t.Context(), "p1", bus.ClientOptions(srv.Addr)...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	_, err = client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name: subscription, Topic: topic, AckDeadlineSeconds: 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// run pulls until the test ends or stop is called, which waits.
func run(t *testing.T, srv *pstest.Server, outstanding int, deliver func(ctx context.Context, h http.Header, body []byte) error) (stop func()) {
	t.Helper()
	p, err := pubsub.Open(t.Context(), pubsub.Options{
		Project: "p1", Subscription: "dispatch", Address: srv.Addr, Outstanding: outstanding, Deliver: deliver,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.Close()
	})
	t.Cleanup(stop)
	return stop
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within half a minute: %s", what)
		}
	}
}

// A message is acknowledged when it was handled and not before; one that could
// not be handled comes again. What arrives is what a push would have brought.
func TestPull(t *testing.T) {
	srv := serve(t)
	var calls atomic.Int32
	var got atomic.Value
	run(t, srv, 0, func(_ context.Context, h http.Header, body []byte) error {
		if calls.Add(1) < 3 {
			return errors.New("the ledger is down")
		}
		_, err := source.Parse(func(h http.Header, body []byte) ([]events.Change, error) {
			e, err := events.DecodeHTTP(h, body)
			got.Store(e.ID() + " " + e.Type() + " " + string(e.Data()))
			return nil, err
		}, h, body)
		return err
	})
	id := srv.Publish(topic, []byte(`{"a":1}`), map[string]string{
		"ce-specversion": "1.0", "ce-id": "7", "ce-type": events.TypeSourceChanged, "ce-source": "/s", "Content-Type": "application/json",
	})
	eventually(t, "the message is acknowledged", func() bool { return srv.Message(id).Acks == 1 })
	if calls.Load() != 3 || got.Load() != "7 "+events.TypeSourceChanged+` {"a":1}` {
		t.Errorf("%d calls, the last with %v", calls.Load(), got.Load())
	}
	if nacks := srv.Message(id).Modacks; len(nacks) < 2 {
		t.Errorf("given back %d times, want 2", len(nacks))
	}
}

// No more messages are handled at a time than are allowed.
func TestPullIsBounded(t *testing.T) {
	srv := serve(t)
	var now, most, all atomic.Int32
	release := make(chan struct{})
	stop := run(t, srv, 3, func(context.Context, http.Header, []byte) error {
		most.Store(max(most.Load(), now.Add(1)))
		<-release
		now.Add(-1)
		all.Add(1)
		return nil
	})
	var ids []string
	for range 12 {
		ids = append(ids, srv.Publish(topic, []byte("x"), nil))
	}
	eventually(t, "three are being handled", func() bool { return now.Load() == 3 })
	time.Sleep(50 * time.Millisecond)
	close(release)
	eventually(t, "all are handled", func() bool { return all.Load() >= 12 })
	for _, id := range ids {
		eventually(t, "message "+id+" is acknowledged", func() bool { return srv.Message(id).Acks > 0 })
	}
	stop()
	if most.Load() > 3 {
		t.Errorf("%d were handled at a time", most.Load())
	}
}

func TestOpenChecks(t *testing.T) {
	for _, o := range []pubsub.Options{{Project: "p"}, {Subscription: "s"}, {Project: "p", Subscription: "s"}} {
		if _, err := pubsub.Open(t.Context(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// A subscription that is not there is an error, not a silence.
func TestNoSubscription(t *testing.T) {
	srv := pstest.NewServer()
	defer srv.Close()
	p, err := pubsub.Open(t.Context(), pubsub.Options{
		Project: "p1", Subscription: "none", Address: srv.Addr, Deliver: func(context.Context, http.Header, []byte) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Run(t.Context()); err == nil {
		t.Error("pulling from no subscription is no error")
	}
}
