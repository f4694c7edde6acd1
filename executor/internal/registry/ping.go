package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// pings remembers what registries answer when they are asked how to log in
// (distribution-spec, "Determining Support"). Every client of every repository
// asks first, and the answer is the same each time: this saves the round trips.
//
// Where http may be spoken it is asked for at the same time as https, so that it is
// known already when https turns out not to be served.
type pings struct {
	next  http.RoundTripper
	plain func(host string) bool // whether http may be spoken

	mu      sync.Mutex
	seen    map[string]*pong // by scheme and host
	refused map[string]error // of https, by host
}

// pong is an answer. Who asks while it is awaited waits too.
type pong struct {
	done   chan struct{}
	resp   *http.Response // without a body; nil if it is not worth remembering
	body   []byte
	failed error // of https, where the registry speaks http
}

func newPings(next http.RoundTripper, plain func(host string) bool) *pings {
	return &pings{next: next, plain: plain, seen: map[string]*pong{}, refused: map[string]error{}}
}

// maxPong is how much of an answer is read, in bytes.
const maxPong = 64 << 10

// RoundTrip implements http.RoundTripper.
func (p *pings) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet || req.URL.Path != "/v2/" || req.URL.RawQuery != "" || req.Header.Get("Authorization") != "" {
		return p.next.RoundTrip(req)
	}
	key := req.URL.Scheme + "://" + req.URL.Host
	for {
		p.mu.Lock()
		known := p.seen[key]
		if known == nil {
			known = &pong{done: make(chan struct{})}
			p.seen[key] = known
			p.mu.Unlock()
			if req.URL.Scheme == "https" && p.plain(req.URL.Host) {
				go p.askPlain(req)
			}
			return p.ask(req, key, known)
		}
		p.mu.Unlock()
		select {
		case <-known.done:
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
		if known.failed != nil {
			return nil, known.failed
		}
		if known.resp != nil {
			return known.answer(req), nil
		}
	}
}

// maxPlain is how long the answer to a question may take that nobody waits for yet.
const maxPlain = 30 * time.Second

// errSlow ends a request that nobody waits for.
var errSlow = errors.New("the registry takes too long")

// askPlain asks what req asks, by http.
func (p *pings) askPlain(req *http.Request) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(req.Context()), maxPlain, errSlow)
	defer cancel()
	req = req.Clone(ctx)
	req.URL.Scheme = "http"
	if resp, err := p.RoundTrip(req); err == nil {
		_ = resp.Body.Close()
	}
}

// speaks tells whether a registry is known to answer by a scheme without wanting to
// be logged in to; known is false if it was not asked yet.
func (p *pings) speaks(scheme, host string) (open, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.seen[scheme+"://"+host]
	if k == nil {
		return false, false
	}
	select {
	case <-k.done:
		return k.resp != nil && k.resp.StatusCode == http.StatusOK, true
	default:
		return false, false
	}
}

// ask asks for all who wait.
func (p *pings) ask(req *http.Request, key string, k *pong) (*http.Response, error) {
	resp, err := p.next.RoundTrip(req)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(k.done)
	if err != nil {
		delete(p.seen, key)
		if req.URL.Scheme == "https" && req.Context().Err() == nil {
			p.refused[req.URL.Host] = err
			if p.plain(req.URL.Host) {
				k.failed = err // who waited need not ask again, there is http
			}
			p.settle(req.URL.Host)
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		delete(p.seen, key)
		return resp, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPong))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		delete(p.seen, key)
		return nil, err
	}
	kept := *resp
	kept.Body, kept.Request = nil, nil
	k.resp, k.body = &kept, body
	p.settle(req.URL.Host)
	return k.answer(req), nil
}

// settle remembers that a host speaks http and no https, once both are known.
func (p *pings) settle(host string) {
	plain, err := p.seen["http://"+host], p.refused[host]
	if err == nil || plain == nil || plain.resp == nil {
		return
	}
	done := make(chan struct{})
	close(done)
	p.seen["https://"+host] = &pong{done: done, failed: err}
}

func (k *pong) answer(req *http.Request) *http.Response {
	resp := *k.resp
	resp.Request, resp.Header = req, resp.Header.Clone()
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(k.body)), int64(len(k.body))
	return &resp
}
