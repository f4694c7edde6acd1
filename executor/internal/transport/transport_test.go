package transport

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
)

func get(t *testing.T, rt http.RoundTripper, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rt.RoundTrip(req)
}

// A body that stops flowing ends with ErrStalled; one that flows slowly does
// not.
func TestStall(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 5 {
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
		if r.URL.Path == "/stall" {
			<-release
		}
	}))
	defer srv.Close()
	defer close(release)
	rt := New(Options{Stall: time.Second, UserAgent: "kiln/1"})
	for path, want := range map[string]error{"/slow": nil, "/stall": ErrStalled} {
		resp, err := get(t, rt, srv.URL+path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if !errors.Is(err, want) || string(got) != "xxxxx" {
			t.Errorf("%s: read %q, %v, want %v", path, got, err, want)
		}
		_ = resp.Body.Close()
	}
}

// The user agent is set where there is none, without touching the request.
func TestUserAgent(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.UserAgent())
	}))
	defer srv.Close()
	rt := New(Options{UserAgent: "kiln/1"})
	for given, want := range map[string]string{"": "kiln/1", "other/2": "other/2"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
		if given != "" {
			req.Header.Set("User-Agent", given)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(got) != want || req.UserAgent() != given {
			t.Errorf("user agent %q, want %q; request has %q", got, want, req.UserAgent())
		}
	}
}

// Metadata services cannot be reached, by whatever spelling.
func TestLinkLocal(t *testing.T) {
	rt := New(Options{Dial: time.Second})
	for _, url := range []string{"http://169.254.169.254/", "http://[fe80::1]/", "http://[::ffff:169.254.169.254]/", "http://[fd00:ec2::254]/"} {
		if _, err := get(t, rt, url); !errors.Is(err, ErrLinkLocal) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// The caller's own cancellation is passed on as such.
func TestCancel(t *testing.T) {
	block := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-block
	}))
	defer srv.Close()
	defer close(block)
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	resp, err := New(Options{}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
}

// A server that never answers is given up.
func TestHeaderTimeout(t *testing.T) {
	block := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-block }))
	defer srv.Close()
	defer close(block)
	if _, err := get(t, New(Options{Header: 50 * time.Millisecond}), srv.URL); err == nil {
		t.Error("no error")
	}
}

// A transport for metadata services reaches them and this machine only.
func TestOnly(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	rt := New(Options{Only: []netip.Addr{netip.MustParseAddr("169.254.169.254")}, Dial: time.Second})
	resp, err := get(t, rt, srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	for _, url := range []string{"http://169.254.169.1/", "http://192.0.2.1/", "http://[fd00:ec2::254]/"} {
		if _, err := get(t, rt, url); !errors.Is(err, ErrNotAllowed) {
			t.Errorf("%s: %v", url, err)
		}
	}
	o := Options{Only: []netip.Addr{netip.MustParseAddr("169.254.169.254")}}
	if err := o.control("tcp", "[::ffff:169.254.169.254]:80", nil); err != nil {
		t.Error(err)
	}
}
