package source

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func certPool(srv *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return pool
}

// tlsServer serves h and returns options that trust it.
func tlsServer(t *testing.T, h http.HandlerFunc) (*httptest.Server, Options) {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	return srv, Options{RootCAs: certPool(srv), TempDir: t.TempDir(), RetryWait: time.Millisecond, UserAgent: "kiln/test"}
}

// An archive is fetched over HTTPS with its query and user, and over plain
// HTTP from this machine.
func TestDownload(t *testing.T) {
	b := gzipped(t, tarOf(t, tar.Header{Name: "Dockerfile"}))
	serve := func(w http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		if r.URL.RawQuery != "sig=a%20b" || user != "me" || pass != "pw" || r.UserAgent() != "kiln/test" {
			t.Errorf("request = %s %s %s, agent %s", r.URL, user, pass, r.UserAgent())
		}
		_, _ = w.Write(b)
	}
	srv, opt := tlsServer(t, serve)
	plain := httptest.NewServer(http.HandlerFunc(serve))
	defer plain.Close()
	var done, total int64
	opt.Progress = func(d, n int64) { done, total = d, n }
	for _, base := range []string{srv.URL, plain.URL} {
		c, err := Fetch(t.Context(), strings.Replace(base, "://", "://me:pw@", 1)+"/ctx.tar.gz?sig=a%20b#frag", opt)
		if err != nil {
			t.Fatal(err)
		}
		if got := list(t, c.Dir); got != "-rw-r--r-- Dockerfile \"content of Dockerfile\"\n" {
			t.Errorf("got %s", got)
		}
		if done != int64(len(b)) || total != done {
			t.Errorf("progress = %d of %d", done, total)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Answers other than 200 are errors of their kind; only those that may pass
// are tried again.
func TestDownloadStatus(t *testing.T) {
	for _, tc := range []struct {
		status, tries int
		is            error
		want          string
	}{
		{404, 1, ErrNotFound, "the server answered 404 Not Found"},
		{403, 1, nil, "403 Forbidden: check the credentials"},
		{204, 1, nil, "204 No Content"},
		{503, 3, nil, "503 Service Unavailable"},
		{429, 3, nil, "429 Too Many Requests"},
	} {
		var n atomic.Int32
		srv, opt := tlsServer(t, func(w http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			w.WriteHeader(tc.status)
		})
		opt.Retries = 2
		_, err := Fetch(t.Context(), srv.URL+"/x?sig=secret", opt)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%d: %v, want %q", tc.status, err, tc.want)
		}
		if tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%d: %v is not %v", tc.status, err, tc.is)
		}
		if int(n.Load()) != tc.tries {
			t.Errorf("%d: tried %d times, want %d", tc.status, n.Load(), tc.tries)
		}
	}
}

// A server that recovers is used.
func TestDownloadRecovers(t *testing.T) {
	var n atomic.Int32
	b := tarOf(t, tar.Header{Name: "a"})
	srv, opt := tlsServer(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) < 3 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write(b)
	})
	c, err := Fetch(t.Context(), srv.URL+"/x", opt)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// flaky serves content and breaks the connection after every piece bytes.
func flaky(content []byte, piece int, etag func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", etag())
		http.ServeContent(&cutWriter{ResponseWriter: w, left: piece}, r, "", time.Time{}, bytes.NewReader(content))
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// A broken connection is resumed where it broke, as often as allowed and only
// while the server has the very same bytes.
func TestDownloadResumes(t *testing.T) {
	b := tarOf(t, tar.Header{Name: "big", Size: 400_000})
	fixed := func() string { return `"v1"` }
	var n atomic.Int32
	changing := func() string { return fmt.Sprintf(`"v%d"`, n.Add(1)) }
	for name, tc := range map[string]struct {
		h       http.HandlerFunc
		retries int
		want    string
	}{
		"resumed":      {flaky(b, 150_000, fixed), 4, ""},
		"too often":    {flaky(b, 150_000, fixed), 1, "connection lost after 300000 bytes and not resumed"},
		"changed":      {flaky(b, 150_000, changing), 4, "connection lost after 150000 bytes and not resumed: the server answered 200 OK"},
		"no validator": {flaky(b, 150_000, func() string { return `W/"weak"` }), 4, "connection lost after 150000 bytes: "},
	} {
		t.Run(name, func(t *testing.T) {
			srv, opt := tlsServer(t, tc.h)
			opt.Retries = tc.retries
			c, err := Fetch(t.Context(), srv.URL+"/x", opt)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error = %v, want %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(c.Dir + "/big"); err != nil || info.Size() != 400_000 {
				t.Errorf("file = %v, %v", info, err)
			}
			_ = c.Close()
		})
	}
}

// Redirects are followed without giving the other host the credentials, and
// never from https to http.
func TestRedirects(t *testing.T) {
	b := tarOf(t, tar.Header{Name: "a"})
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/start" { // as 127.0.0.1, on to localhost
			http.Redirect(w, r, "http://localhost:"+strings.Split(r.Host, ":")[1]+"/end", http.StatusFound)
			return
		}
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials were sent to another host")
		}
		_, _ = w.Write(b)
	}))
	defer plain.Close()
	srv, opt := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/plain":
			http.Redirect(w, r, plain.URL, http.StatusFound)
		default:
			http.Redirect(w, r, "/loop", http.StatusFound)
		}
	})
	c, err := Fetch(t.Context(), strings.Replace(plain.URL, "://", "://me:pw@", 1)+"/start", opt)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	withUser := strings.Replace(srv.URL, "://", "://me:pw@", 1)
	if _, err := Fetch(t.Context(), withUser+"/plain", opt); err == nil || !strings.Contains(err.Error(), "refused to follow a redirect to plain http") {
		t.Errorf("error = %v", err)
	}
	if _, err := Fetch(t.Context(), withUser+"/loop", opt); err == nil || !strings.Contains(err.Error(), "10 redirects") {
		t.Errorf("error = %v", err)
	}
	req := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:1/", nil)
	from := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
	if err := checkRedirect(req, []*http.Request{from}); err != nil {
		t.Errorf("redirect on this machine: %v", err)
	}
	req = httptest.NewRequest(http.MethodGet, "http://example.com/", nil)
	if err := checkRedirect(req, []*http.Request{from}); err == nil {
		t.Error("redirect from this machine to plain http elsewhere was followed")
	}
}

// A certificate that is not trusted is an error at once.
func TestDownloadBadCertificate(t *testing.T) {
	var n atomic.Int32
	srv, opt := tlsServer(t, func(http.ResponseWriter, *http.Request) { n.Add(1) })
	opt.RootCAs, opt.RetryWait = x509.NewCertPool(), time.Hour
	_, err := Fetch(t.Context(), srv.URL+"/x", opt)
	if err == nil || !strings.Contains(err.Error(), "certificate") || n.Load() != 0 {
		t.Errorf("error = %v after %d requests", err, n.Load())
	}
}

// A web page instead of an archive is called one.
func TestDownloadWebPage(t *testing.T) {
	srv, opt := tlsServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<html>" + strings.Repeat(" ", 1000)))
	})
	_, err := Fetch(t.Context(), srv.URL+"/x.tar.gz", opt)
	if !errors.Is(err, ErrNotArchive) || !strings.Contains(err.Error(), "a web page") {
		t.Errorf("error = %v", err)
	}
}
