package pubsub_test

import (
	"flag"
	"net/http"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/gcs"
	"github.com/kilnhook/kiln/events/source/pubsub"
	"github.com/kilnhook/kiln/events/source/put"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

// inner reads our own events and notifications of Cloud Storage.
func inner(h http.Header, body []byte) ([]events.Change, error) {
	if events.IsCloudEvent(h) {
		return put.Parse(h, body)
	}
	return gcs.Parse(h, body)
}

func parse(h http.Header, body []byte) ([]events.Change, error) { return pubsub.Parse(inner, h, body) }

func TestGolden(t *testing.T) { sourcetest.Golden(t, parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, parse) }

// One event is the same change by every road, and so is one notification.
func TestRoadsAgree(t *testing.T) {
	for _, names := range [][]string{
		{"event", "event_structured", "event_eventarc", "event_no_wrapper", "event_direct"},
		{"storage", "storage_no_wrapper"},
	} {
		keys := map[string]string{}
		for _, name := range names {
			changes, err := parse(sourcetest.Request(t, "testdata/"+name+".http"))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			keys[changes[0].Key()] = name
		}
		if len(keys) != 1 {
			t.Errorf("keys %v", keys)
		}
	}
}

func TestIsPush(t *testing.T) {
	for name, want := range map[string]bool{
		"event": true, "event_eventarc": true, "event_bad_base64": true, "event_no_wrapper": true, "storage": true, "storage_no_wrapper": true,
		"event_direct": false, "no_message": false, "not_json": false,
	} {
		if got := pubsub.IsPush(sourcetest.Request(t, "testdata/"+name+".http")); got != want {
			t.Errorf("IsPush(%s) = %t", name, got)
		}
	}
}

// A message in a message is not opened again.
func TestNotNested(t *testing.T) {
	_, envelope := sourcetest.Request(t, "testdata/event.http")
	called := 0
	_, err := pubsub.Parse(func(h http.Header, _ []byte) ([]events.Change, error) {
		called++
		return put.Parse(h, envelope)
	}, http.Header{}, envelope)
	if err == nil || called != 1 {
		t.Errorf("called %d times, %v", called, err)
	}
}

func TestTraceParent(t *testing.T) {
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for body, want := range map[string]string{
		`{"message":{"attributes":{"ce-traceparent":"` + trace + `","googclient_traceparent":"x"}}}`: trace,
		`{"message":{"attributes":{"googclient_traceparent":"` + trace + `"}}}`:                      trace,
		`{"message":{}}`: "", `{}`: "", `[`: "",
	} {
		if got := pubsub.TraceParent([]byte(body)); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
}
