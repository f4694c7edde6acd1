package bus

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// sseClient reads a stream field by field.
type sseClient struct {
	resp  *http.Response
	lines *bufio.Scanner
}

func connect(t *testing.T, url, lastID string) *sseClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return &sseClient{resp: resp, lines: bufio.NewScanner(resp.Body)}
}

// next returns the fields of the next event; comments are passed over, or
// returned if they are wanted.
func (c *sseClient) next(t *testing.T, comments bool) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for c.lines.Scan() {
		line := c.lines.Text()
		switch {
		case line == "" && fields["id"] != "":
			return fields
		case line == "":
			fields = map[string]string{}
		case line[0] == ':' && comments:
			return map[string]string{"": line}
		default:
			name, value, _ := strings.Cut(line, ": ")
			fields[name] = value
		}
	}
	t.Fatalf("stream ended: %v", c.lines.Err())
	return nil
}

func serveSSE(t *testing.T, opts Options) (*Bus, string) {
	b := open(t, t.TempDir(), opts)
	server := httptest.NewServer(b.SSEHandler())
	t.Cleanup(server.Close)
	t.Cleanup(func() { b.Close() }) // before the server, which waits for its streams
	return b, server.URL
}

// A stream carries the place, the type and the whole event in one line each,
// resumes after what a client has seen, and goes on live.
func TestSSE(t *testing.T) {
	b, url := serveSSE(t, Options{})
	for n := 1; n <= 3; n++ {
		publish(t, b, newEvent(t, "/s", n))
	}
	for name, c := range map[string]*sseClient{
		"header":    connect(t, url, "1"),
		"parameter": connect(t, url+"?lastEventId=1", ""),
	} {
		if got := c.resp.Header.Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("%s: content type %s", name, got)
		}
		for _, want := range []string{"2", "3"} {
			fields := c.next(t, false)
			if fields["id"] != want || fields["event"] != "dev.kilnhook.build.finished.v1" {
				t.Errorf("%s: fields %v, want id %s", name, fields, want)
			}
			var e event.Event
			if err := json.Unmarshal([]byte(fields["data"]), &e); err != nil || e.ID() != "id-"+want {
				t.Errorf("%s: data %s: %v", name, fields["data"], err)
			}
		}
		seq := publish(t, b, newEvent(t, "/live/"+name, 4))
		for {
			fields := c.next(t, false)
			if strings.Contains(fields["data"], "/live/"+name) {
				if fields["id"] != jsonNumber(seq) {
					t.Errorf("%s: live event has id %s, want %d", name, fields["id"], seq)
				}
				break
			}
		}
	}
}

func jsonNumber(n uint64) string { b, _ := json.Marshal(n); return string(b) }

// Without a place a stream begins now; with 0, or with a place of an earlier
// spool, at the beginning.
func TestSSEStart(t *testing.T) {
	b, url := serveSSE(t, Options{})
	publish(t, b, newEvent(t, "/s", 1))
	live := connect(t, url, "")
	publish(t, b, newEvent(t, "/s", 2))
	if got := live.next(t, false)["id"]; got != "2" {
		t.Errorf("a stream without a place begins with %s, want 2", got)
	}
	for _, from := range []string{"0", "77"} {
		if got := connect(t, url, from).next(t, false)["id"]; got != "1" {
			t.Errorf("a stream from %s begins with %s, want 1", from, got)
		}
	}
	if c := connect(t, url, "one"); c.resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a place that is no number: status %d", c.resp.StatusCode)
	}
	resp, err := http.Post(url, "", nil)
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", resp.StatusCode, err)
	}
	resp.Body.Close()
}

func TestSSETypes(t *testing.T) {
	b, url := serveSSE(t, Options{})
	for n, typ := range []string{"a", "b", "c", "a", "d"} {
		e := newEvent(t, "/s", n)
		e.SetType(typ)
		publish(t, b, e)
	}
	c := connect(t, url+"?type=a,c&type=d&lastEventId=0", "")
	for _, want := range []string{"a1", "c3", "a4", "d5"} {
		f := c.next(t, false)
		if got := f["event"] + f["id"]; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestSSEHeartbeat(t *testing.T) {
	_, url := serveSSE(t, Options{Heartbeat: 10 * time.Millisecond})
	c := connect(t, url, "")
	for range 2 {
		if got := c.next(t, true)[""]; got != ": still here" {
			t.Errorf("got %q", got)
		}
	}
}

// Closing the bus ends the streams, so that a server can shut down.
func TestSSEEndsWithTheBus(t *testing.T) {
	b, url := serveSSE(t, Options{})
	c := connect(t, url, "")
	b.Close()
	for c.lines.Scan() {
	}
	if err := c.lines.Err(); err != nil {
		t.Errorf("stream did not end in order: %v", err)
	}
}
