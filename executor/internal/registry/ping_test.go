package registry

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func ask(t *testing.T, rt http.RoundTripper, url string) (int, string, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, "", err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("WWW-Authenticate"), string(body)
}

// A registry is asked once how to log in, however many ask at once; its answer is
// given to all. What it could not answer is asked again.
func TestPings(t *testing.T) {
	var asked atomic.Int32
	busy := atomic.Bool{}
	busy.Store(true)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if busy.Load() {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="x"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
	}))
	defer s.Close()
	p := newPings(http.DefaultTransport, never)
	if code, _, _ := ask(t, p, s.URL+"/v2/"); code != http.StatusServiceUnavailable {
		t.Errorf("status %d", code)
	}
	busy.Store(false)
	asked.Store(0)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if code, how, body := ask(t, p, s.URL+"/v2/"); code != 401 || how != `Bearer realm="x"` || body != "who are you?\n" {
				t.Errorf("%d %q %q", code, how, body)
			}
		})
	}
	wg.Wait()
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	// Once it is known that only http is spoken, https is not tried again.
	tls := "https" + strings.TrimPrefix(s.URL, "http")
	first, second := 0, 0
	counting := newPings(roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme == "https" {
			first++
			return nil, errors.New("no TLS here")
		}
		second++
		return http.DefaultTransport.RoundTrip(r)
	}), never)
	for _, url := range []string{tls, tls, s.URL, tls, s.URL, tls} {
		ask(t, counting, url+"/v2/")
	}
	if first != 2 || second != 1 {
		t.Errorf("https was tried %d times and http %d", first, second)
	}
	// Anything else is passed on.
	for _, path := range []string{"/v2/?x=1", "/v2/a/manifests/b", "/"} {
		asked.Store(0)
		ask(t, p, s.URL+path)
		ask(t, p, s.URL+path)
		if asked.Load() != 2 {
			t.Errorf("%s was asked %d times", path, asked.Load())
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func never(string) bool { return false }

// Who waits while https is refused does not ask for it again, though http has not
// answered yet.
func TestPingsShareARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var secure, plain atomic.Int32
		p := newPings(roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Scheme == "https" {
				secure.Add(1)
				time.Sleep(time.Second)
				return nil, errors.New("no TLS here")
			}
			plain.Add(1)
			time.Sleep(2 * time.Second)
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}, nil
		}), func(string) bool { return true })
		begun := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if code, _, said := ask(t, p, "https://registry.test/v2/"); code != 0 || !strings.Contains(said, "no TLS here") {
					t.Errorf("%d %q", code, said)
				}
				if waited := time.Since(begun); waited != time.Second {
					t.Errorf("a refusal after %s", waited)
				}
				if code, _, said := ask(t, p, "http://registry.test/v2/"); code != http.StatusOK {
					t.Errorf("%d %q", code, said)
				}
			})
		}
		wg.Wait()
		if secure.Load() != 1 || plain.Load() != 1 {
			t.Errorf("https was tried %d times and http %d", secure.Load(), plain.Load())
		}
	})
}
