package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kilnhook/kiln/executor/internal/transport"
)

// hostCertificates is what is special about one host.
type hostCertificates struct {
	roots  *x509.CertPool
	client *tls.Certificate // nil: none
}

// loadCertificates reads the certificates of all hosts. Each host has a pool
// of its own: an authority trusted for one is not trusted for another.
func loadCertificates(opt Options) (map[string]hostCertificates, error) {
	out := map[string]hostCertificates{}
	for host, path := range opt.Certificates {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("registry certificate for %s: %w", host, err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("registry certificate for %s: %s holds no PEM certificate", host, path)
		}
		out[host] = hostCertificates{roots: pool}
	}
	for host, files := range opt.ClientCerts {
		cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			return nil, fmt.Errorf("registry client certificate for %s: %w", host, err)
		}
		h := out[host]
		h.client = &cert
		out[host] = h
	}
	return out, nil
}

// router sends each request through the transport that its host needs.
type router struct {
	opt   Options
	certs map[string]hostCertificates
	pull  bool
	asked sync.Map // hosts that want a client certificate and have not answered yet

	mu     sync.Mutex
	byHost map[string]http.RoundTripper
}

func newRouter(opt Options, certs map[string]hostCertificates, pull bool) *router {
	return &router{opt: opt, certs: certs, pull: pull, byHost: map[string]http.RoundTripper{}}
}

// RoundTrip sends req. An answer that asks to come back later is obeyed.
func (r *router) RoundTrip(req *http.Request) (*http.Response, error) {
	rt := r.transport(req.URL.Host)
	for try := 0; ; try++ {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			return nil, r.explain(req.URL.Host, err)
		}
		if req.URL.Scheme == "https" {
			r.asked.Delete(req.URL.Host)
		}
		wait := retryAfter(resp)
		if wait == 0 || try == maxRetryAfter || req.Body != nil && req.GetBody == nil {
			r.resumable(rt, req, resp)
			return resp, nil
		}
		_ = resp.Body.Close()
		r.opt.Log.Warn("registry asks to wait", "host", req.URL.Host, "status", resp.StatusCode, "wait", wait)
		if err := pause(req.Context(), wait); err != nil {
			return nil, err
		}
		if req.GetBody != nil {
			req = req.Clone(req.Context())
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// explain adds what to do to an error of a host that wants to know who we are:
// what TLS says of it depends on when the refusal arrives.
func (r *router) explain(host string, err error) error {
	if _, ok := r.asked.Load(host); !ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if r.special(host).client != nil {
		return fmt.Errorf("%s asks for a client certificate and did not take that of --registry-client-cert: %w", host, err)
	}
	return fmt.Errorf("%s asks for a client certificate: give it with --registry-client-cert %s=CERT,KEY: %w", host, host, err)
}

const (
	maxRetryAfter     = 3               // times that a request waits
	maxRetryAfterWait = 2 * time.Minute // longer waits are not obeyed
)

// retryAfter is how long a registry wants us to wait, in seconds or until a
// time (RFC 9110, 10.2.3); 0 if it does not say.
func retryAfter(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	asked := strings.TrimSpace(resp.Header.Get("Retry-After"))
	wait := time.Duration(0)
	if seconds, err := strconv.Atoi(asked); err == nil && seconds <= int(maxRetryAfterWait/time.Second) {
		wait = time.Duration(seconds) * time.Second
	} else if until, err := http.ParseTime(asked); err == nil {
		if now, err := http.ParseTime(resp.Header.Get("Date")); err == nil { // by the registry's own clock
			wait = until.Sub(now)
		}
	}
	if wait <= 0 || wait > maxRetryAfterWait {
		return 0
	}
	return wait
}

// transport returns the transport for a host.
func (r *router) transport(host string) http.RoundTripper {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byHost[host] == nil {
		r.byHost[host] = transport.New(transport.Options{Proxy: r.opt.Proxy, TLS: r.tlsConfig(host), Header: r.headerTimeout()})
	}
	return r.byHost[host]
}

// headerTimeout is shorter when pulling, so that a mirror that hangs is given
// up in time.
func (r *router) headerTimeout() time.Duration {
	if r.pull {
		return time.Minute
	}
	return 0
}

// tlsConfig returns the TLS configuration for a host.
func (r *router) tlsConfig(host string) *tls.Config {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: r.opt.SkipTLSVerify || r.pull && r.opt.SkipTLSVerifyPull, //nolint:gosec // asked for
	}
	for _, h := range r.opt.SkipTLSVerifyRegistries {
		if sameHost(h, host) {
			cfg.InsecureSkipVerify = true
		}
	}
	special := r.special(host)
	cfg.RootCAs = special.roots
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		r.asked.Store(host, true)
		if special.client != nil {
			return special.client, nil
		}
		return &tls.Certificate{}, nil
	}
	return cfg
}

// special is what was given for a host.
func (r *router) special(host string) hostCertificates {
	for h, special := range r.certs {
		if sameHost(h, host) {
			return special
		}
	}
	return hostCertificates{}
}

// sameHost compares a host that a user wrote with that of a request.
func sameHost(written, host string) bool {
	return canonicalHost(strings.TrimSuffix(written, ":443")) == canonicalHost(strings.TrimSuffix(host, ":443"))
}
