// Package transport makes the HTTP transport that everything in the executor
// talks through: no wait is without an end, a body that stops flowing is an
// error, and what a Dockerfile or a registry names cannot lead to the
// link-local addresses where clouds keep their credentials.
package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

// ErrStalled is the error of a response body that brought no byte for
// Options.Stall.
var ErrStalled = errors.New("connection stalled")

// ErrLinkLocal is the error of a connection to a link-local address.
var ErrLinkLocal = errors.New("link-local addresses are not allowed")

// ErrNotAllowed is the error of a connection to an address that is not among
// Options.Only.
var ErrNotAllowed = errors.New("the address is not one of a metadata service")

// Options of a transport. The zero value works.
type Options struct {
	// Proxy finds the proxy for a request; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS is the TLS configuration; nil: the system's certificates.
	TLS *tls.Config
	// UserAgent is set on requests that have none.
	UserAgent string
	// Only, if set, are the addresses that may be connected to besides those of
	// this machine itself. They may be link-local: this is for look-ups of the
	// machine's own credentials, never for what a user names.
	Only []netip.Addr
	// Dial is how long connecting may take; 0: 30 s.
	Dial time.Duration
	// Header is how long the answer to a completely sent request may take to
	// begin; 0: 5 min, since a registry may verify a large blob first.
	Header time.Duration
	// Stall is how long a response body may bring nothing; 0: 2 min.
	Stall time.Duration
}

func (o *Options) applyDefaults() {
	o.Dial = orElse(o.Dial, 30*time.Second)
	o.Header = orElse(o.Header, 5*time.Minute)
	o.Stall = orElse(o.Stall, 2*time.Minute)
}

func orElse(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}

// bufferSize of connections: large enough for the disk and the network to work
// in large pieces.
const bufferSize = 64 << 10

// New returns a transport. It is safe for concurrent use.
func New(opt Options) http.RoundTripper {
	opt.applyDefaults()
	dialer := &net.Dialer{Timeout: opt.Dial, KeepAlive: 30 * time.Second, Control: opt.control}
	early := &spares{dial: dialer.DialContext, ready: map[string][]*spare{}}
	return &roundTripper{
		stall:     opt.Stall,
		userAgent: opt.UserAgent,
		spares:    early,
		inner: &http.Transport{
			Proxy:                 opt.Proxy,
			DialContext:           early.connect,
			TLSClientConfig:       opt.TLS,
			TLSHandshakeTimeout:   15 * time.Second,
			ResponseHeaderTimeout: opt.Header,
			ExpectContinueTimeout: time.Second,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConns:          64,
			MaxIdleConnsPerHost:   32,
			ReadBufferSize:        bufferSize,
			WriteBufferSize:       bufferSize,
			ForceAttemptHTTP2:     true,
			// Layers and archives are compressed already, and their bytes count.
			DisableCompression: true,
		},
	}
}

// control judges the address that is really connected to.
func (o *Options) control(network, address string, c syscall.RawConn) error {
	if len(o.Only) == 0 {
		return refuseLinkLocal(network, address, c)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", address, ErrNotAllowed)
	}
	if a := ap.Addr().Unmap(); !a.IsLoopback() && !slices.Contains(o.Only, a) {
		return fmt.Errorf("connect to %s: %w", address, ErrNotAllowed)
	}
	return nil
}

// refuseLinkLocal looks at the address that is really connected to, after all
// names are resolved.
func refuseLinkLocal(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil //nolint:nilerr // not an IP address: nothing to judge
	}
	if a := ap.Addr().Unmap(); a.IsLinkLocalUnicast() || a == awsMetadataIPv6() {
		return fmt.Errorf("connect to %s: %w", address, ErrLinkLocal)
	}
	return nil
}

// awsMetadataIPv6 is not link-local but as good as.
func awsMetadataIPv6() netip.Addr { return netip.MustParseAddr("fd00:ec2::254") }

type roundTripper struct {
	inner     *http.Transport
	stall     time.Duration
	userAgent string
	spares    *spares
}

// RoundTrip sends the request. The body of the response ends with ErrStalled
// when it stops flowing.
func (t *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	out := req.WithContext(ctx)
	if t.userAgent != "" && req.Header.Get("User-Agent") == "" {
		out.Header = req.Header.Clone()
		out.Header.Set("User-Agent", t.userAgent)
	}
	resp, err := t.inner.RoundTrip(out)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Body = &body{rc: resp.Body, ctx: ctx, cancel: cancel, stall: t.stall}
	return resp, nil
}

// CloseIdleConnections closes connections that carry no request.
func (t *roundTripper) CloseIdleConnections() { t.inner.CloseIdleConnections() }

// body is a response body that watches its own flow.
type body struct {
	rc     io.ReadCloser
	ctx    context.Context //nolint:containedctx // of the request whose body this is
	cancel context.CancelCauseFunc
	stall  time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	timer := time.AfterFunc(b.stall, func() {
		b.cancel(fmt.Errorf("%w: no data for %v", ErrStalled, b.stall))
	})
	n, err := b.rc.Read(p)
	timer.Stop()
	if cause := context.Cause(b.ctx); err != nil && !errors.Is(err, io.EOF) && errors.Is(cause, ErrStalled) {
		err = cause
	}
	return n, err
}

func (b *body) Close() error {
	err := b.rc.Close()
	b.cancel(nil)
	return err
}
