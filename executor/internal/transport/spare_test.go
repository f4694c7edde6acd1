package transport

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
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
	failed := &spare{done: make(chan struct{}), expiry: time.NewTimer(time.Hour)}
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
