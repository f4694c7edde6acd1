package bus

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
)

// A sink has an event when Publish returns, after as many attempts as it takes,
// with the attributes that it is configured to add.
func TestSink(t *testing.T) {
	r := newReceiver(t, func(try int, _ string) int {
		if try < 3 {
			return http.StatusServiceUnavailable
		}
		return http.StatusAccepted
	})
	var cluster string
	r.check = func(req *http.Request, body []byte) {
		e, err := events.DecodeHTTP(req.Header, body)
		if err != nil {
			t.Error(err)
		}
		cluster, _ = e.Extensions()["cluster"].(string)
	}
	s, err := NewSink(Subscriber{Name: "sink", URL: r.URL, Extensions: map[string]string{"cluster": "eu 1"}},
		WebhookOptions{Now: clock, MinBackoff: time.Millisecond}, neverRefused(t))
	if err != nil {
		t.Fatal(err)
	}
	e := newEvent(t, "/s", 1)
	if err := s.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if got := r.await(t, 1); got[0] != e.ID() || r.tries != 3 || cluster != "eu 1" {
		t.Errorf("received %v after %d tries, cluster %q", got, r.tries, cluster)
	}
	if e.Extensions()["cluster"] != nil {
		t.Error("the caller's event was changed")
	}
}

// The token of a sink is the one that is in its file now, and a wrong one is no
// reason to give an event up.
func TestSinkToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := newReceiver(t, func(try int, _ string) int {
		switch try {
		case 1:
			return http.StatusUnauthorized
		case 2:
			write("second")
			return http.StatusForbidden
		}
		return http.StatusAccepted
	})
	var shown []string
	r.check = func(req *http.Request, _ []byte) { shown = append(shown, req.Header.Get("Authorization")) }
	sub := Subscriber{Name: "sink", URL: r.URL, TokenFile: file}
	s, err := NewSink(sub, WebhookOptions{Now: clock, MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond}, neverRefused(t))
	if err != nil {
		t.Fatal(err)
	}
	e := newEvent(t, "/s", 1)
	if err := s.Publish(t.Context(), e); err == nil || !strings.Contains(err.Error(), "read the token for sink") {
		t.Errorf("without a token: %v", err)
	}
	write("first")
	if err := s.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if want := []string{"Bearer first", "Bearer first", "Bearer second"}; !slices.Equal(shown, want) {
		t.Errorf("shown %q, want %q", shown, want)
	}
}

func neverRefused(t *testing.T) Refused {
	return func(_ context.Context, e event.Event, status int, _ string) error {
		t.Errorf("%s was refused with %d", e.ID(), status)
		return nil
	}
}

// A sink that is down is an error for whoever publishes; what it refuses for
// good is kept, and an error only if that fails.
func TestSinkFailures(t *testing.T) {
	status := http.StatusBadGateway
	r := newReceiver(t, func(int, string) int { return status })
	var kept []string
	var keepErr error
	s, err := NewSink(Subscriber{Name: "sink", URL: r.URL}, WebhookOptions{Now: clock, MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond},
		func(_ context.Context, e event.Event, status int, _ string) error {
			kept = append(kept, e.ID()+" "+http.StatusText(status))
			return keepErr
		})
	if err != nil {
		t.Fatal(err)
	}
	e := newEvent(t, "/s", 1)
	if err := s.Publish(t.Context(), e); err == nil || !strings.Contains(err.Error(), "last status 502") || r.tries != sinkAttempts {
		t.Errorf("a sink that is down: %v after %d tries", err, r.tries)
	}
	status = http.StatusUnprocessableEntity
	if err := s.Publish(t.Context(), e); err != nil || len(kept) != 1 || kept[0] != e.ID()+" Unprocessable Entity" {
		t.Errorf("a refused event: %v, kept %q", err, kept)
	}
	keepErr = fs.ErrPermission
	if err := s.Publish(t.Context(), e); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a refused event that cannot be kept: %v", err)
	}
	if _, err := NewSink(Subscriber{Name: "sink", URL: r.URL}, WebhookOptions{Now: clock}, nil); err == nil {
		t.Error("a sink without a place for what is refused was accepted")
	}
}

// Attributes that are added reach subscribers of the spool too.
func TestWebhookExtensions(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	r := newReceiver(t, nil)
	seen := make(chan string, 1)
	r.check = func(req *http.Request, _ []byte) { seen <- req.Header.Get("Ce-Cluster") }
	stop := run(t, b, Subscriber{Name: "a", URL: r.URL, Extensions: map[string]string{"cluster": "eu"}})
	defer stop()
	publish(t, b, newEvent(t, "/s", 1))
	r.await(t, 1)
	if got := <-seen; got != "eu" {
		t.Errorf("cluster %q", got)
	}
}

func TestParseOverrides(t *testing.T) {
	got, err := ParseOverrides(`{"extensions":{"cluster":"eu","n1":"x"}}`)
	if err != nil || !maps.Equal(got, map[string]string{"cluster": "eu", "n1": "x"}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := ParseOverrides(""); err != nil || got != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	for _, bad := range []string{"{", `{"extension":{}}`, `{"extensions":{"A":"x"}}`, `{"extensions":{"":"x"}}`, `{"extensions":{"id":"x"}}`, `{"extensions":{"a-b":"x"}}`, `[]`} {
		if got, err := ParseOverrides(bad); err == nil {
			t.Errorf("%s was read as %v", bad, got)
		}
	}
}
