package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// conns counts the connections to a server.
func conns(t *testing.T, tls bool) (srv *httptest.Server, opened *atomic.Int32, arrived chan struct{}) {
	t.Helper()
	opened, arrived = new(atomic.Int32), make(chan struct{}, 100)
	gate := make(chan struct{})
	var waiting atomic.Int32
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/together" { // answered when all three are there
			if waiting.Add(1) == 3 {
				close(gate)
			}
			<-gate
		}
		_, _ = io.WriteString(w, "x")
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
			arrived <- struct{}{}
		}
	}
	if tls {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv, opened, arrived
}

// Requests at once use the connections that were opened before, and no others.
func TestWarm(t *testing.T) {
	srv, opened, arrived := conns(t, false)
	rt := New(Options{})
	at, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	Warm(t.Context(), rt, at, 3)
	for range 3 {
		<-arrived
	}
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			resp, err := get(t, rt, srv.URL+"/together")
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		})
	}
	group.Wait()
	if n := opened.Load(); n != 3 {
		t.Errorf("%d connections for three requests", n)
	}
}

// A connection that nobody takes is closed, and one that could not be opened is
// no reason not to open another.
func TestSpares(t *testing.T) {
	srv, opened, arrived := conns(t, false)
	rt := New(Options{}).(*roundTripper)
	host := srv.Listener.Addr().String()
	rt.spares.open(t.Context(), host, 1)
	<-arrived
	x := rt.spares.ready[host][0]
	<-x.done
	rt.spares.drop(host, x)
	if _, err := x.conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
	if len(rt.spares.ready[host]) != 0 {
		t.Error("a connection that was dropped is kept")
	}
	failed := &spare{done: make(chan struct{}), err: io.EOF, expiry: time.NewTimer(time.Hour)}
	close(failed.done)
	rt.spares.ready[host] = []*spare{failed}
	resp, err := get(t, rt, srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if n := opened.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// Nothing is opened for HTTPS, where one connection will do, and none past a proxy.
func TestWarmNot(t *testing.T) {
	srv, _, _ := conns(t, true)
	secure, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	plain := *secure
	plain.Scheme = "http"
	proxied := New(Options{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example.com"})})
	for _, tc := range []struct {
		rt http.RoundTripper
		to *url.URL
	}{{New(Options{}), secure}, {proxied, &plain}} {
		Warm(t.Context(), tc.rt, tc.to, 2)
		if n := len(tc.rt.(*roundTripper).spares.ready); n != 0 {
			t.Errorf("%s: connections to %d addresses", tc.to, n)
		}
	}
	Warm(t.Context(), http.DefaultTransport, &plain, 2) // not ours
}

// A connection that the server has closed meanwhile, or on which it said something
// that nobody asked for, is not used: a request would fail on it for no reason.
func TestSparesThatEnded(t *testing.T) {
	for name, last := range map[string]string{"closed": "", "said": "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "[::1]:0")
			if err != nil {
				l, err = net.Listen("tcp", "127.0.0.1:0") // there is no IPv6
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			rt := New(Options{}).(*roundTripper)
			at := &url.URL{Scheme: "http", Host: l.Addr().String()}
			Warm(t.Context(), rt, at, 2)
			for range 2 {
				c, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(c, last)
				_ = c.Close()
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") })}
			go func() { _ = srv.Serve(l) }()
			defer srv.Close()
			for _, x := range rt.spares.ready[l.Addr().String()] {
				<-x.done
				_ = x.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				for !ended(x.conn) {
					time.Sleep(time.Millisecond)
				}
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at.String(), strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("status %s", resp.Status)
			}
		})
	}
}

// Who waits for a connection that is being opened has its error, as soon and in the
// same words as if it had opened one.
func TestSparesThatFail(t *testing.T) {
	const wait = 50 * time.Millisecond
	dials := 0
	var mu sync.Mutex
	s := &spares{ready: map[string][]*spare{}, dial: func(context.Context, string, string) (net.Conn, error) {
		mu.Lock()
		dials++
		mu.Unlock()
		time.Sleep(wait)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("no route to host")}
	}}
	s.open(t.Context(), "host:80", 1)
	_, err := s.connect(t.Context(), "tcp", "host:80")
	if err == nil || err.Error() != "dial tcp: no route to host" {
		t.Errorf("error = %v", err)
	}
	if dials != 1 {
		t.Errorf("it was dialed %d times", dials)
	}
	if _, err := s.connect(t.Context(), "tcp", "host:80"); err == nil || dials != 2 {
		t.Errorf("error = %v, dialed %d times", err, dials)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.open(ctx, "host:80", 1)
	cancel()
	if _, err := s.connect(ctx, "tcp", "host:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
}
