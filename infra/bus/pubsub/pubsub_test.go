package pubsub_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"

	gpubsub "cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kilnhook/kiln/events"
	source "github.com/kilnhook/kiln/events/source/pubsub"
	"github.com/kilnhook/kiln/infra/bus/pubsub"
)

const project, topic = "p1", "builds"

// serve runs a Pub/Sub in this process with the topic.
func serve(t *testing.T, opts ...pstest.ServerReactorOption) *pstest.Server {
	t.Helper()
	srv := pstest.NewServer(opts...)
	t.Cleanup(func() { srv.Close() })
	client, err := gpubsub.NewClient(t.Context(), project, pubsub.ClientOptions(srv.Addr)...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/" + project + "/topics/" + topic}); err != nil {
		t.Fatal(err)
	}
	return srv
}

func open(t *testing.T, srv *pstest.Server, keep func(context.Context, event.Event) (string, error)) *pubsub.Publisher {
	t.Helper()
	p, err := pubsub.Open(t.Context(), pubsub.Options{Project: project, Topic: topic, Address: srv.Addr, Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func keepsNothing(t *testing.T) func(context.Context, event.Event) (string, error) {
	return func(_ context.Context, e event.Event) (string, error) {
		t.Errorf("%s was taken for too large", e.ID())
		return "", nil
	}
}

// finished is an example of the contract.
func finished(t *testing.T) event.Event {
	t.Helper()
	text, err := os.ReadFile("../../../events/testdata/build.finished.success.json")
	if err != nil {
		t.Fatal(err)
	}
	var e event.Event
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// An event arrives with its attributes and data, in the order of its partition
// key, and reads back as it was through the door for pushes.
func TestPublish(t *testing.T) {
	srv := serve(t)
	p := open(t, srv, keepsNothing(t))
	e := finished(t)
	e.SetSubject("größer \"quoted\" %41") // attributes are not encoded as headers are
	if err := p.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	all := srv.Messages()
	if len(all) != 1 {
		t.Fatalf("%d messages", len(all))
	}
	m := all[0]
	if m.OrderingKey != "app/refs/heads/main" || m.Attributes["ce-outcome"] != "success" || m.Attributes["ce-specversion"] != "1.0" ||
		m.Attributes["Content-Type"] != "application/json" || m.Attributes["ce-subject"] != e.Subject() {
		t.Errorf("message with key %q and attributes %v", m.OrderingKey, m.Attributes)
	}
	envelope, err := json.Marshal(map[string]any{"subscription": "s", "message": map[string]any{
		"messageId": m.ID, "attributes": m.Attributes, "data": base64.StdEncoding.EncodeToString(m.Data),
	}})
	if err != nil {
		t.Fatal(err)
	}
	var back event.Event
	_, err = source.Parse(func(h http.Header, body []byte) ([]events.Change, error) {
		back, err = events.DecodeHTTP(h, body)
		return nil, err
	}, http.Header{}, envelope)
	if err != nil || !maps.Equal(events.Attributes(back), events.Attributes(e)) || string(back.Data()) != string(e.Data()) || back.DataContentType() != e.DataContentType() {
		t.Errorf("%v: came back as\n%v\nwent in as\n%v", err, events.Attributes(back), events.Attributes(e))
	}
}

// What is too large for a message is kept elsewhere, and the message says where.
func TestClaimCheck(t *testing.T) {
	srv := serve(t)
	var kept string
	p := open(t, srv, func(_ context.Context, e event.Event) (string, error) {
		kept = string(e.Data())
		return "gs://ledger/data/x.json", nil
	})
	e := finished(t)
	big := []byte(`{"x":"` + strings.Repeat("y", pubsub.MaxMessage) + `"}`)
	e.DataEncoded = big
	if err := p.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	m := srv.Messages()[0]
	if len(m.Data) != 0 || m.Attributes["ce-dataref"] != "gs://ledger/data/x.json" || kept != string(big) || m.Attributes["ce-imagedigest"] == "" {
		t.Errorf("message of %d bytes, attributes %v", len(m.Data), m.Attributes)
	}
	full := errors.New("the disk is full")
	p = open(t, srv, func(context.Context, event.Event) (string, error) { return "", full })
	if err := p.Publish(t.Context(), e); !errors.Is(err, full) || len(srv.Messages()) != 1 {
		t.Errorf("data that cannot be kept: %v, %d messages", err, len(srv.Messages()))
	}
}

// What is refused is an error of Publish, never a message that is believed to be
// out, and does not hold up what comes after it with the same key.
func TestPublishFails(t *testing.T) {
	srv := serve(t, pstest.WithErrorInjection("Publish", codes.PermissionDenied, "you may not"))
	p := open(t, srv, keepsNothing(t))
	for range 2 {
		if err := p.Publish(t.Context(), finished(t)); err == nil || !strings.Contains(err.Error(), "you may not") {
			t.Errorf("a refused event: %v", err)
		}
	}
	if len(srv.Messages()) != 0 {
		t.Errorf("%d messages", len(srv.Messages()))
	}
}

func TestOpenChecks(t *testing.T) {
	keep := keepsNothing(t)
	for _, o := range []pubsub.Options{{Topic: "t", Keep: keep}, {Project: "p", Keep: keep}, {Project: "p", Topic: "t"}} {
		if _, err := pubsub.Open(t.Context(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// unavailable fails the first calls.
type unavailable struct{ left int }

func (u *unavailable) React(any) (handled bool, ret any, err error) {
	if u.left == 0 {
		return false, nil, nil
	}
	u.left--
	return true, &pubsubpb.PublishResponse{}, status.Error(codes.Unavailable, "try again")
}

// What may pass is tried again before Publish returns.
func TestPublishRetries(t *testing.T) {
	r := &unavailable{left: 2}
	srv := serve(t, pstest.ServerReactorOption{FuncName: "Publish", Reactor: r})
	p := open(t, srv, keepsNothing(t))
	if err := p.Publish(t.Context(), finished(t)); err != nil || len(srv.Messages()) != 1 || r.left != 0 {
		t.Errorf("%v, %d messages, %d failures left", err, len(srv.Messages()), r.left)
	}
}
