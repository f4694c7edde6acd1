package registry

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// guesses saves a round trip to registries that want nobody to log in: the
// manifest is asked for at the same time as how to log in. If it then is asked for
// without credentials the answer is there. Otherwise the guess was wrong, and what
// the registry said to it counts for nothing.
type guesses struct {
	next  http.RoundTripper
	pings *pings

	mu    sync.Mutex
	asked map[string]*guess // by URL
}

// guess is a request that was sent early.
type guess struct {
	done   chan struct{}
	resp   *http.Response // nil if it failed
	cancel context.CancelCauseFunc
}

func newGuesses(p *pings) *guesses {
	return &guesses{next: p.next, pings: p, asked: map[string]*guess{}}
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
	none := func() {}
	repo := ref.Context()
	if _, known := g.pings.speaks(repo.Scheme(), repo.RegistryStr()); known {
		return none
	}
	auth, err := resolve(ctx, keys, repo)
	if err != nil || auth != authn.Anonymous {
		return none
	}
	at := blobURL(repo, "manifests/"+ref.Identifier(), nil)
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		cancel(err)
		return none
	}
	req.Header.Set("Accept", manifestTypes())
	if userAgent != "" {
		req.Header.Set("User-Agent", userAgent)
	}
	x := &guess{done: make(chan struct{}), cancel: cancel}
	g.mu.Lock()
	g.asked[at.String()] = x
	g.mu.Unlock()
	go func() {
		defer close(x.done)
		if resp, err := g.next.RoundTrip(req); err == nil { //nolint:bodyclose // who takes it closes it
			x.resp = resp
		}
	}()
	return func() {
		if x := g.take(at.String()); x != nil {
			x.drop()
		}
	}
}

// take returns a guess, once.
func (g *guesses) take(at string) *guess {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.asked[at]
	delete(g.asked, at)
	return x
}

// drop gives up a guess, also if the answer is yet to come.
func (x *guess) drop() {
	x.cancel(nil)
	go func() {
		<-x.done
		if x.resp != nil {
			_ = x.resp.Body.Close()
		}
	}()
}

// RoundTrip implements http.RoundTripper.
func (g *guesses) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/manifests/") {
		return g.pings.RoundTrip(req)
	}
	x := g.take(req.URL.String())
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

// guessed is the body of an answer that was asked for early.
type guessed struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b *guessed) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}
