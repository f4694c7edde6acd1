package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
)

// The vector of the Standard Webhooks signature.
func TestSignVector(t *testing.T) {
	for _, text := range []string{"0123456789abcdef0123456789abcdef", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="} {
		secret, err := ParseSecret(text)
		if err != nil {
			t.Fatal(err)
		}
		got := Sign(secret, "e3f1a3f0-7f0c-4f6e-9f7e-2b6c7f1f0a11", time.Unix(1795400000, 999), []byte(`{"ref":"refs/heads/main"}`))
		if want := "v1,Xqy3FlSXlrK3837Ty/l5ERhlJnGRfusn6TxYrUSO5Ew="; got != want {
			t.Errorf("signature %s, want %s", got, want)
		}
	}
	for _, bad := range []string{"", "short", "whsec_!!!", "whsec_c2hvcnQ="} {
		if _, err := ParseSecret(bad); err == nil {
			t.Errorf("secret %q was accepted", bad)
		}
	}
}

// receiver is a subscriber that answers as it is told and remembers.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []string // ids that were answered with 2xx
	tries  int
	answer func(try int, id string) int
	check  func(r *http.Request, body []byte)
	more   chan struct{}
}

func newReceiver(t *testing.T, answer func(try int, id string) int) *receiver {
	r := &receiver{answer: answer, more: make(chan struct{}, 1000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		e, err := events.DecodeHTTP(req.Header, body)
		if err != nil {
			t.Errorf("not a CloudEvent: %v", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.check != nil {
			r.check(req, body)
		}
		r.tries++
		status := http.StatusNoContent
		if r.answer != nil {
			status = r.answer(r.tries, e.ID())
		}
		if status/100 == 2 {
			r.got = append(r.got, e.ID())
		}
		w.WriteHeader(status)
		r.more <- struct{}{}
	}))
	t.Cleanup(r.Close)
	return r
}

// await waits until the receiver has accepted n events and returns their ids.
func (r *receiver) await(t *testing.T, n int) []string {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		got := slices.Clone(r.got)
		r.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-r.more:
		case <-deadline:
			t.Fatalf("received %v, waited for %d", got, n)
		}
	}
}

func clock() time.Time { return time.Unix(1795400000, 0) }

// run serves subscribers until stop is called, which waits for the end.
func run(t *testing.T, b *Bus, subs ...Subscriber) (stop func()) {
	t.Helper()
	w, err := NewWebhooks(b, WebhookOptions{Subscribers: subs, Now: clock, MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel(errors.New("test stops the webhooks"))
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// Events arrive signed, in binary mode and in order, and those of other types do not.
func TestWebhookDelivery(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	secret := []byte("0123456789abcdef")
	r := newReceiver(t, nil)
	r.check = func(req *http.Request, body []byte) {
		id := req.Header.Get("Webhook-Id")
		if id == "" || id != req.Header.Get("Ce-Id") || req.Header.Get("Webhook-Timestamp") != "1795400000" ||
			req.Header.Get("Webhook-Signature") != Sign(secret, id, clock(), body) {
			t.Errorf("headers %v", req.Header)
		}
		if req.Header.Get("Ce-Outcome") != "success" || req.Header.Get("Content-Type") != "application/json" {
			t.Errorf("headers %v", req.Header)
		}
	}
	stop := run(t, b, Subscriber{Name: "a", URL: r.URL, Secret: secret, Types: []string{"dev.kilnhook.build.finished.v1"}})
	defer stop()
	var want []string
	for n := 1; n <= 20; n++ {
		e := newEvent(t, "/s", n)
		if n%4 == 0 {
			e.SetType("dev.kilnhook.build.queued.v1")
		} else {
			want = append(want, e.ID())
		}
		publish(t, b, e)
	}
	equal(t, "received", r.await(t, len(want)), want)
}

// Without a secret nothing is signed.
func TestWebhookUnsigned(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	r := newReceiver(t, nil)
	r.check = func(req *http.Request, _ []byte) {
		if req.Header.Get("Webhook-Signature") != "" {
			t.Error("signed without a secret")
		}
	}
	defer run(t, b, Subscriber{Name: "a", URL: r.URL})()
	publish(t, b, newEvent(t, "/s", 1))
	r.await(t, 1)
}

// Statuses that promise something later are tried again, in order; a slow
// subscriber does not hold up another.
func TestWebhookRetries(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	statuses := []int{500, 429, 404, 302, 503, 408, 200, 409, 202}
	r := newReceiver(t, func(try int, _ string) int {
		if try <= len(statuses) {
			return statuses[try-1]
		}
		return 200
	})
	dead := newReceiver(t, func(int, string) int { return 500 })
	other := newReceiver(t, nil)
	defer run(t, b, Subscriber{Name: "a", URL: r.URL}, Subscriber{Name: "dead", URL: dead.URL}, Subscriber{Name: "b", URL: other.URL})()
	for n := 1; n <= 3; n++ {
		publish(t, b, newEvent(t, "/s", n))
	}
	equal(t, "received", r.await(t, 3), []string{"id-1", "id-2", "id-3"})
	equal(t, "the other received", other.await(t, 3), []string{"id-1", "id-2", "id-3"})
}

// What is refused for good is put aside, and the next event is delivered.
func TestWebhookRefusal(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	r := newReceiver(t, func(_ int, id string) int {
		if id == "id-2" {
			return http.StatusUnprocessableEntity
		}
		return 200
	})
	stop := run(t, b, Subscriber{Name: "a", URL: r.URL})
	for n := 1; n <= 3; n++ {
		publish(t, b, newEvent(t, "/s", n))
	}
	equal(t, "received", r.await(t, 2), []string{"id-1", "id-3"})
	stop()
	data, err := os.ReadFile(filepath.Join(dir, "dead", fmt.Sprintf("a-%020d.json", 2)))
	if err != nil || !strings.Contains(string(data), `"id-2"`) || !strings.Contains(string(data), `"status": 422`) {
		t.Errorf("put aside: %s, %v", data, err)
	}
}

// A subscriber goes on where it was after a restart of everything, misses
// nothing published in between, and gets nothing twice that it acknowledged.
func TestWebhookCursorSurvives(t *testing.T) {
	dir := t.TempDir()
	r := newReceiver(t, nil)
	sub := Subscriber{Name: "a", URL: r.URL}
	b := open(t, dir, Options{SegmentBytes: 1, KeepEvents: 1})
	publish(t, b, newEvent(t, "/s", 1)) // before the subscriber: not its
	stop := run(t, b, sub)
	publish(t, b, newEvent(t, "/s", 2))
	r.await(t, 1)
	awaitCursor(t, dir, `{"read":2}`)
	stop()
	for n := 3; n <= 6; n++ {
		publish(t, b, newEvent(t, "/s", n)) // it is away, and old files are dropped meanwhile
	}
	b.Close()
	b = open(t, dir, Options{SegmentBytes: 1, KeepEvents: 1})
	stop = run(t, b, sub)
	defer stop()
	publish(t, b, newEvent(t, "/s", 7))
	equal(t, "received", r.await(t, 6), []string{"id-2", "id-3", "id-4", "id-5", "id-6", "id-7"})
}

// awaitCursor waits until the cursor of subscriber a is written.
func awaitCursor(t *testing.T, dir, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		data, err := os.ReadFile(filepath.Join(dir, cursorDir, "a.json"))
		if err == nil && string(data) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("cursor is %s, %v; want %s", data, err, want)
		}
	}
}

// An event that was delivered but whose cursor was not written comes again:
// once is not promised, at least once is.
func TestWebhookAtLeastOnce(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	r := newReceiver(t, nil)
	sub := Subscriber{Name: "a", URL: r.URL, FromStart: true}
	publish(t, b, newEvent(t, "/s", 1))
	stop := run(t, b, sub)
	r.await(t, 1)
	awaitCursor(t, dir, `{"read":1}`)
	stop()
	if err := os.WriteFile(filepath.Join(dir, "cursors", "a.json"), []byte(`{"read":0}`), 0o600); err != nil {
		t.Fatal(err)
	}
	defer run(t, b, sub)()
	equal(t, "received", r.await(t, 2), []string{"id-1", "id-1"})
}

func TestWebhookStopsWhileRetrying(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	r := newReceiver(t, func(int, string) int { return 500 })
	w, err := NewWebhooks(b, WebhookOptions{Subscribers: []Subscriber{{Name: "a", URL: r.URL}}, Now: clock, MinBackoff: time.Hour, MaxBackoff: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	publish(t, b, newEvent(t, "/s", 1))
	<-r.more
	cancel(errors.New("shutdown"))
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not end while it waits for a retry")
	}
}

func TestWebhookConfigIsChecked(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	good := Subscriber{Name: "a", URL: "http://127.0.0.1:1/x"}
	for name, subs := range map[string][]Subscriber{
		"no name":      {{URL: good.URL}},
		"path as name": {{Name: "../x", URL: good.URL}},
		"two of one":   {good, good},
		"scheme":       {{Name: "a", URL: "ftp://h/"}},
		"no host":      {{Name: "a", URL: "http://"}},
		"secret":       {{Name: "a", URL: good.URL, Secret: []byte("short")}},
	} {
		if _, err := NewWebhooks(b, WebhookOptions{Subscribers: subs, Now: clock}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := NewWebhooks(b, WebhookOptions{Subscribers: []Subscriber{good}}); err == nil {
		t.Error("webhooks without a clock were accepted")
	}
}

// A pause that the subscriber asks for is kept, within the limit.
func TestRetryAfter(t *testing.T) {
	w := poster{WebhookOptions{Now: clock}.withDefaults()}
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "99999999999999": 0,
		clock().Add(time.Minute).UTC().Format(http.TimeFormat): time.Minute,
	} {
		if got := w.retryAfter(text); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", text, got, want)
		}
	}
}
