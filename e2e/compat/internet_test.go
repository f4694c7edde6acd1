package compat

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// internet stands in for hosts that tests cannot reach: an HTTP proxy that
// answers in their names, with certificates of the lab's authority. It is what
// HTTPS_PROXY and SSL_CERT_FILE lead the executor to.
type internet struct {
	url   string
	ca    *authority
	t     *testing.T
	plain bool // no host speaks TLS
	mu    sync.Mutex
	certs map[string]identity
	hosts map[string]http.Handler
	seen  []request
}

// request is what a host was asked.
type request struct {
	method, host, path, authorization string
	part                              string // that was asked for
}

// newInternet starts an internet without hosts.
func newInternet(t *testing.T, ca *authority) *internet {
	t.Helper()
	n := &internet{t: t, ca: ca, certs: map[string]identity{}, hosts: map[string]http.Handler{}}
	proxy := httptest.NewServer(http.HandlerFunc(n.connect))
	t.Cleanup(proxy.Close)
	n.url = proxy.URL
	return n
}

// host adds a host.
func (n *internet) host(name string, h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[name] = h
}

// asked are the requests to a host so far.
func (n *internet) asked(host string) []request {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []request
	for _, r := range n.seen {
		if r.host == host {
			out = append(out, r)
		}
	}
	return out
}

// connect carries out CONNECT, and answers plain requests.
func (n *internet) connect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		n.serve(r.URL.Hostname(), w, r)
		return
	}
	name, _, _ := net.SplitHostPort(r.Host)
	n.mu.Lock()
	_, known := n.hosts[name]
	if _, ok := n.certs[name]; known && !ok {
		n.certs[name] = n.ca.issue(n.t, soon(), name)
	}
	cert := n.certs[name].tls
	n.mu.Unlock()
	if !known || n.plain {
		http.Error(w, "there is no "+name, http.StatusBadGateway)
		return
	}
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		_ = conn.Close()
		return
	}
	inner := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	l := newOneConn(inner)
	server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{} // which the server cannot tell through oneConn
		n.serve(name, w, r)
	})}
	_ = server.Serve(l)
}

func (n *internet) serve(name string, w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.seen = append(n.seen, request{r.Method, name, r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("Range")})
	h := n.hosts[name]
	n.mu.Unlock()
	if h == nil {
		http.Error(w, "there is no "+name, http.StatusBadGateway)
		return
	}
	h.ServeHTTP(w, r)
}

// oneConn is a listener with one connection.
type oneConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
	taken  chan struct{}
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{Conn: c, closed: make(chan struct{}), taken: make(chan struct{}, 1)}
	l.taken <- struct{}{}
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case <-l.taken:
		return l, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Conn.Close()
}

func (l *oneConn) Addr() net.Addr { return l.LocalAddr() }

// forward passes requests on to a server of plain HTTP as they are, the Host
// header included, so that what the server says of itself leads back here.
func forward(host string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: host})
			r.Out.Host = r.In.Host
			if r.In.TLS != nil {
				r.Out.Header.Set("X-Forwarded-Proto", "https")
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
	}
}

// faults is a registry in front of another that fails as it is told to.
type faults struct {
	host string
	mu   sync.Mutex
	seen []request
}

// fault looks at a request and may answer it; it says whether it did.
type fault func(w http.ResponseWriter, r *http.Request) bool

// newFaults puts a fault before the server at host.
func newFaults(t *testing.T, host string, f fault) *faults {
	t.Helper()
	out := &faults{}
	next := forward(host)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out.mu.Lock()
		out.seen = append(out.seen, request{r.Method, r.Host, r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("Range")})
		out.mu.Unlock()
		if !f(w, r) {
			next.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	out.host = strings.TrimPrefix(server.URL, "http://")
	return out
}

// count is how many requests had the method and the text in their path.
func (f *faults) count(method, path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.seen {
		if r.method == method && strings.Contains(r.path, path) {
			n++
		}
	}
	return n
}

// parts are the parts that were asked for.
func (f *faults) parts() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, r := range f.seen {
		if r.part != "" {
			out = append(out, r.part)
		}
	}
	return out
}

// first is a fault that answers the first n requests that match.
func first(n int, method, path string, answer http.HandlerFunc) fault {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		hit := n > 0 && r.Method == method && strings.Contains(r.URL.Path, path)
		if hit {
			n--
		}
		mu.Unlock()
		if hit {
			answer(w, r)
		}
		return hit
	}
}

// always is a fault that answers every request that matches.
func always(method, path string, answer http.HandlerFunc) fault {
	return first(1<<30, method, path, answer)
}

// status answers with a status and an error as registries write it.
func status(code int, kind, message string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, `{"errors":[{"code":"`+kind+`","message":"`+message+`"}]}`)
	}
}

// cutUpload reads n bytes of a request and drops the connection.
func cutUpload(n int64) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, n)
		panic(http.ErrAbortHandler)
	}
}

// cutDownload passes a request on to host and drops the connection after n
// bytes of the answer's body. Parts of a blob are not to be had.
func cutDownload(host string, n int64) http.HandlerFunc {
	return cut(host, n, func(request, answer http.Header) {
		request.Del("Range")
		answer.Set("Accept-Ranges", "none")
	})
}

// cutPart is cutDownload of a server that gives parts.
func cutPart(host string, n int64) http.HandlerFunc {
	return cut(host, n, func(_, _ http.Header) {})
}

func cut(host string, n int64, change func(request, answer http.Header)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		change(r.Header, http.Header{})
		forward(host).ServeHTTP(rec, r)
		resp := rec.Result()
		change(http.Header{}, resp.Header)
		raw, _ := io.ReadAll(resp.Body)
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		resp.Body = io.NopCloser(bytes.NewReader(raw))
		resp.ContentLength = int64(len(raw))
		var whole bytes.Buffer
		_ = resp.Write(&whole)
		head := whole.Len() - len(raw)
		_, _ = buf.Write(whole.Bytes()[:min(head+int(n), whole.Len())])
		_ = buf.Flush()
		_ = conn.Close()
	}
}

// guarded lets in those who know a user's password and asks everybody else for
// it.
func guarded(user, password string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="kiln"`)
			status(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// observe remembers the user agent of the last request.
func observe(agent *atomic.Value) fault {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		agent.Store(r.UserAgent())
		return false
	}
}
