package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// guesses saves a round trip to registries that want nobody to log in: what is
// needed first is asked for at the same time as how to log in. If it then is asked for
// without credentials the answer is there. Otherwise the guess was wrong, and what
// the registry said to it counts for nothing.
//
// It also answers for the registry what is known by its digest.
type guesses struct {
	next     http.RoundTripper
	pings    *pings
	document func(ctx context.Context, digest v1.Hash) []byte

	mu    sync.Mutex
	asked map[string]*guess // by method and URL
}

// guess is a request that was sent early.
type guess struct {
	done   chan struct{}
	resp   *http.Response // nil if it failed
	cancel context.CancelCauseFunc
}

func newGuesses(p *pings, document func(context.Context, v1.Hash) []byte) *guesses {
	return &guesses{next: p.next, pings: p, document: document, asked: map[string]*guess{}}
}

// manifestTypes is what a manifest may be.
func manifestTypes() string {
	var accept []string
	for _, t := range []types.MediaType{
		types.OCIImageIndex, types.OCIManifestSchema1, types.DockerManifestList, types.DockerManifestSchema2,
		types.DockerManifestSchema1Signed, types.DockerManifestSchema1,
	} {
		accept = append(accept, string(t))
	}
	return strings.Join(accept, ",")
}

// manifest asks for a manifest unless it is known how its registry is reached, or
// there are credentials for it. giveUp ends what was not asked for.
func (g *guesses) manifest(ctx context.Context, ref name.Reference, keys authn.Keychain, userAgent string) (giveUp func()) {
	repo := ref.Context()
	return g.send(ctx, http.MethodGet, repo, blobURL(repo, "manifests/"+ref.Identifier(), nil), keys, http.Header{
		"Accept": {manifestTypes()}, "User-Agent": {userAgent},
	})
}

// upload asks to begin an upload as manifest asks for a manifest.
func (g *guesses) upload(ctx context.Context, repo name.Repository, keys authn.Keychain, userAgent string) (giveUp func()) {
	return g.send(ctx, http.MethodPost, repo, uploadsURL(repo, nil), keys, http.Header{"User-Agent": {userAgent}})
}

func (g *guesses) send(ctx context.Context, method string, repo name.Repository, at *url.URL, keys authn.Keychain, header http.Header) (giveUp func()) {
	none := func() {}
	if _, known := g.pings.speaks(repo.Scheme(), repo.RegistryStr()); known {
		return none
	}
	auth, err := resolve(ctx, keys, repo)
	if err != nil || auth != authn.Anonymous {
		return none
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, method, at.String(), nil)
	if err != nil {
		cancel(err)
		return none
	}
	req.Header = header
	x, key := &guess{done: make(chan struct{}), cancel: cancel}, method+" "+at.String()
	g.mu.Lock()
	g.asked[key] = x
	g.mu.Unlock()
	go func() {
		defer close(x.done)
		if resp, err := g.next.RoundTrip(req); err == nil { //nolint:bodyclose // who takes it closes it
			x.resp = resp
		}
	}()
	return func() {
		if x := g.take(key); x != nil {
			x.drop()
		}
	}
}

// take returns a guess, once.
func (g *guesses) take(key string) *guess {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.asked[key]
	delete(g.asked, key)
	return x
}

// drop gives up a guess, also if the answer is yet to come. If it is there the
// connection can be used again.
func (x *guess) drop() {
	select {
	case <-x.done:
	default:
		x.cancel(nil)
	}
	go func() {
		<-x.done
		if x.resp != nil {
			_, _ = io.CopyN(io.Discard, x.resp.Body, maxPong)
			_ = x.resp.Body.Close()
		}
		x.cancel(nil)
	}()
}

// RoundTrip implements http.RoundTripper.
func (g *guesses) RoundTrip(req *http.Request) (*http.Response, error) {
	if resp := g.known(req); resp != nil {
		return resp, nil
	}
	x := g.take(req.Method + " " + req.URL.String())
	if x == nil {
		return g.pings.RoundTrip(req)
	}
	if req.Header.Get("Authorization") != "" {
		x.drop()
		return g.pings.RoundTrip(req)
	}
	select {
	case <-x.done:
	case <-req.Context().Done():
		x.drop()
		return nil, req.Context().Err()
	}
	if x.resp == nil {
		x.drop()
		return g.pings.RoundTrip(req)
	}
	resp := *x.resp
	resp.Request, resp.Body = req, &guessed{ReadCloser: x.resp.Body, cancel: x.cancel}
	return &resp, nil
}

// known answers a request for something that is known by its digest.
func (g *guesses) known(req *http.Request) *http.Response {
	if g.document == nil || req.Method != http.MethodGet || req.Header.Get("Range") != "" {
		return nil
	}
	where, last := path.Split(req.URL.Path)
	digest, err := v1.NewHash(last)
	if err != nil || !strings.HasSuffix(where, "/manifests/") && !strings.HasSuffix(where, "/blobs/") {
		return nil
	}
	raw := g.document(req.Context(), digest)
	if got, _, err := v1.SHA256(bytes.NewReader(raw)); raw == nil || err != nil || got != digest {
		return nil
	}
	header := http.Header{"Docker-Content-Digest": {digest.String()}, "Content-Length": {strconv.Itoa(len(raw))}}
	var typed struct {
		MediaType types.MediaType `json:"mediaType"`
		Config    *v1.Descriptor  `json:"config"`
	}
	if strings.HasSuffix(where, "/manifests/") {
		if err := json.Unmarshal(raw, &typed); err != nil {
			return nil
		}
		if typed.MediaType == "" && typed.Config != nil {
			typed.MediaType = types.OCIManifestSchema1
		}
		header.Set("Content-Type", string(typed.MediaType))
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Body: io.NopCloser(bytes.NewReader(raw)), ContentLength: int64(len(raw)), Request: req,
	}
}

// guessed is the body of an answer that was asked for early.
type guessed struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b *guessed) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}
