package ledgertest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kilnhook/kiln/infra/ledger"
)

// Name makes a name of letters and digits of a test's, for its bucket.
func Name(t testing.TB) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, t.Name()))
}

// RunFaults runs the tests of a store behind a network that fails. open returns
// a new empty store that makes its requests through a transport, and gives up
// after its fourth attempt.
func RunFaults(t *testing.T, open func(t *testing.T, through http.RoundTripper) Store) {
	for _, tc := range []struct {
		name string
		test func(t *testing.T, s Store, n *network)
	}{
		{"PassingFaults", passingFaults},
		{"LastingFaults", lastingFaults},
		{"CutAnswers", cutAnswers},
		{"LostAnswers", lostAnswers},
		{"LostAnswersAmongMany", lostAnswersAmongMany},
		{"LostAnswerOfALoser", lostAnswerOfALoser},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := &network{}
			tc.test(t, open(t, n), n)
		})
	}
}

// fault is what happens to one request.
type fault struct {
	status int  // answered in the server's place; 0: it is asked
	lost   bool // what it answers does not arrive
	cut    bool // half of what it answers arrives
}

// network carries requests to a server and does to each of the next what is
// planned for it. It is safe for concurrent use.
type network struct {
	mu      sync.Mutex
	planned []fault
	every   func(r *http.Request) fault // once nothing is planned; nil is no fault
	seen    int                         // requests since plan
}

// plan sets what happens to the next requests.
func (n *network) plan(faults ...fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.planned, n.seen = faults, 0
}

func (n *network) next(r *http.Request) fault {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen++
	if len(n.planned) > 0 {
		f := n.planned[0]
		n.planned = n.planned[1:]
		return f
	}
	if n.every != nil {
		return n.every(r)
	}
	return fault{}
}

// RoundTrip implements http.RoundTripper.
func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	f := n.next(r)
	if f.status != 0 {
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
		return &http.Response{
			StatusCode: f.status, Status: strconv.Itoa(f.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Retry-After": {"0"}}, Body: io.NopCloser(bytes.NewReader(nil)), Request: r,
		}, nil
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && f.lost {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return nil, fmt.Errorf("the connection broke: %w", io.ErrUnexpectedEOF)
	}
	if err == nil && f.cut {
		return cut(resp)
	}
	return resp, err
}

// cut breaks an answer off in its middle.
func cut(resp *http.Response) (*http.Response, error) {
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:len(body)/2]), broken{}))
	return resp, nil
}

// broken is the end of a connection that broke.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// What may pass is tried again, whatever the call.
func passingFaults(t *testing.T, s Store, n *network) {
	ctx := t.Context()
	faults := []fault{{status: http.StatusServiceUnavailable}, {status: http.StatusTooManyRequests}, {status: http.StatusInternalServerError}}
	n.plan(faults...)
	version := mustCreate(t, s, "k", "one")
	if n.seen != 4 {
		t.Errorf("create made %d requests, want 4", n.seen)
	}
	n.plan(faults...)
	if got := mustGet(t, s, "k"); got != "one" {
		t.Errorf("value %q", got)
	}
	n.plan(faults...)
	if _, err := s.Swap(ctx, "k", version, []byte("two")); err != nil {
		t.Errorf("swap: %v", err)
	}
	n.plan(faults...)
	if keys, err := s.List(ctx, "", "", 0); err != nil || len(keys) != 1 {
		t.Errorf("list: %q, %v", keys, err)
	}
	n.plan(faults...)
	if err := s.Delete(ctx, "k"); err != nil {
		t.Errorf("delete: %v", err)
	}
	n.plan(faults...)
	if _, _, err := s.Get(ctx, "k"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of what was deleted: %v", err)
	}
}

// A value that breaks off on the way is fetched again, and is not given up for one
// that is shorter.
func cutAnswers(t *testing.T, s Store, n *network) {
	value := strings.Repeat("x", 1<<20)
	mustCreate(t, s, "k", value)
	n.plan(fault{cut: true}, fault{cut: true})
	if got := mustGet(t, s, "k"); got != value || n.seen < 2 {
		t.Errorf("got %d bytes after %d requests", len(got), n.seen)
	}
}

// What lasts is given up, with an error that nobody takes for an answer; what
// is refused is not tried again.
func lastingFaults(t *testing.T, s Store, n *network) {
	ctx := t.Context()
	n.every = func(*http.Request) fault { return fault{status: http.StatusServiceUnavailable} }
	_, _, getErr := s.Get(ctx, "k")
	_, createErr := s.Create(ctx, "k", nil)
	_, swapErr := s.Swap(ctx, "k", "1", nil)
	_, listErr := s.List(ctx, "", "", 0)
	for call, err := range map[string]error{"get": getErr, "create": createErr, "swap": swapErr, "list": listErr, "delete": s.Delete(ctx, "k")} {
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || errors.Is(err, ledger.ErrConflict) || !strings.Contains(err.Error(), "4 attempts") {
			t.Errorf("%s of a server that is down: %v", call, err)
		}
	}
	n.every = func(*http.Request) fault { return fault{status: http.StatusForbidden} }
	n.plan()
	if _, err := s.Create(ctx, "k", nil); err == nil || errors.Is(err, fs.ErrExist) || n.seen != 1 {
		t.Errorf("create that is forbidden: %v after %d requests", err, n.seen)
	}
	n.every = nil
	mustCreate(t, s, "k", "one")
}

// A write whose answer was lost was one all the same: it is made again, refused,
// and recognised.
func lostAnswers(t *testing.T, s Store, n *network) {
	n.plan(fault{lost: true})
	version, err := s.Create(t.Context(), "k", []byte("one"))
	if err != nil {
		t.Fatalf("create whose answer was lost: %v", err)
	}
	n.plan(fault{lost: true}, fault{lost: true}, fault{status: http.StatusServiceUnavailable})
	version, err = s.Swap(t.Context(), "k", version, []byte("two"))
	if err != nil {
		t.Fatalf("swap whose answers were lost: %v", err)
	}
	if got := mustGet(t, s, "k"); got != "two" {
		t.Errorf("value %q", got)
	}
	if _, err := s.Swap(t.Context(), "k", version, []byte("three")); err != nil {
		t.Errorf("swap with the version of the recognised write: %v", err)
	}
}

// Of many that create a key while answers are lost, one succeeds.
func lostAnswersAmongMany(t *testing.T, s Store, n *network) {
	var writes atomic.Int64
	n.every = func(r *http.Request) fault {
		return fault{lost: r.Method != http.MethodGet && writes.Add(1)%3 == 1}
	}
	for round := range 5 {
		key := "builds/" + strconv.Itoa(round)
		var winners atomic.Int32
		var winner atomic.Value
		parallel(8, func(i int) {
			value := "value of " + strconv.Itoa(i)
			_, err := s.Create(t.Context(), key, []byte(value))
			switch {
			case err == nil:
				winners.Add(1)
				winner.Store(value)
			case !errors.Is(err, fs.ErrExist):
				t.Logf("create: %v", err) // every attempt was lost: not known, and said so
			}
		})
		if winners.Load() > 1 {
			t.Fatalf("%d creators of one key succeeded", winners.Load())
		}
		if winners.Load() == 1 && mustGet(t, s, key) != winner.Load() {
			t.Errorf("the value is not the winner's")
		}
	}
}

// A write that lost and whose refusal was lost too is not taken for a success,
// even if somebody else stored the same value.
func lostAnswerOfALoser(t *testing.T, s Store, n *network) {
	mustCreate(t, s, "k", "one")
	n.plan(fault{lost: true})
	if _, err := s.Create(t.Context(), "k", []byte("one")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create of what another created: %v, want fs.ErrExist", err)
	}
}
