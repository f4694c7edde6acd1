package registry

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
)

// pings remembers what registries answer when they are asked how to log in
// (distribution-spec, "Determining Support"). Every client of every repository
// asks first, and the answer is the same each time: this saves the round trips.
type pings struct {
	next http.RoundTripper

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

func newPings(next http.RoundTripper) *pings {
	return &pings{next: next, seen: map[string]*pong{}, refused: map[string]error{}}
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
	if err := p.refused[req.URL.Host]; err != nil && req.URL.Scheme == "http" {
		p.seen["https://"+req.URL.Host] = &pong{done: k.done, failed: err}
	}
	return k.answer(req), nil
}

func (k *pong) answer(req *http.Request) *http.Response {
	resp := *k.resp
	resp.Request, resp.Header = req, resp.Header.Clone()
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(k.body)), int64(len(k.body))
	return &resp
}
