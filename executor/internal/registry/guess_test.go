package registry

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// The manifest of an image is asked for at the same time as how to log in, and not
// again if that turns out not to be needed.
func TestGuess(t *testing.T) {
	var mu sync.Mutex
	both := make(chan struct{})
	waiting := map[string]bool{}
	s := serve(t, false, nil)
	img := imageFor(t, amd64())
	s.put("a:1", img)
	s.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2/" && r.URL.Path != "/v2/a/manifests/1" {
			return false
		}
		mu.Lock()
		waiting[r.URL.Path] = true
		if len(waiting) == 2 {
			select {
			case <-both:
			default:
				close(both)
			}
		}
		mu.Unlock()
		select {
		case <-both:
		case <-time.After(10 * time.Second):
			t.Errorf("%s was asked alone", r.URL.Path)
		}
		return false
	})
	got, _, err := client(t, Options{}).Image(t.Context(), s.host+"/a:1", amd64())
	if err != nil {
		t.Fatal(err)
	}
	if digestOf(t, got) != digestOf(t, img) {
		t.Error("another image")
	}
	if asked := s.requests("/manifests/"); len(asked) != 1 {
		t.Errorf("asked %q", asked)
	}
}

// Who has to log in is not answered early, and the guess is not what counts.
func TestGuessRefused(t *testing.T) {
	s := serve(t, false, nil)
	img := imageFor(t, amd64())
	s.put("a:1", img)
	s.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "ann" && password == "sesame" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if _, _, err := client(t, Options{}).Image(t.Context(), s.host+"/a:1", amd64()); err == nil {
		t.Error("an image without logging in")
	}
	// With credentials nothing is guessed: what is asked without any is how to log in.
	s.forget()
	if _, _, err := client(t, Options{Keychain: ann{}}).Image(t.Context(), s.host+"/a:1", amd64()); err != nil {
		t.Fatal(err)
	}
	if asked := s.requests("/manifests/"); len(asked) != 1 {
		t.Errorf("asked %q", asked)
	}
}

// ann has credentials for everything.
type ann struct{}

func (ann) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig{Username: "ann", Password: "sesame"}), nil
}

// A config, and what an index refers to, need not be fetched if they are known; what
// is said to be known and is something else counts for nothing.
func TestDocument(t *testing.T) {
	s := serve(t, false, nil)
	img := imageFor(t, amd64())
	s.put("a:1", img)
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		known []byte
		asked int
	}{"known": {raw, 0}, "wrong": {append([]byte(" "), raw...), 1}, "unknown": {nil, 1}} {
		t.Run(name, func(t *testing.T) {
			s.forget()
			c := client(t, Options{Document: func(_ context.Context, digest v1.Hash) []byte {
				if digest == config {
					return tc.known
				}
				return nil
			}})
			got, _, err := c.Image(t.Context(), s.host+"/a:1", amd64())
			if err != nil {
				t.Fatal(err)
			}
			if have, err := got.RawConfigFile(); err != nil || !bytes.Equal(have, raw) {
				t.Errorf("config %q, %v", have, err)
			}
			if asked := s.requests("/blobs/"); len(asked) != tc.asked {
				t.Errorf("asked %q", asked)
			}
		})
	}
}

// What an index refers to is asked for by its digest, unless it is known.
func TestDocumentOfIndex(t *testing.T) {
	s := serve(t, false, nil)
	img := imageFor(t, amd64())
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: new(amd64())}})
	ref, err := name.ParseReference(s.host + "/a:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	s.forget()
	c := client(t, Options{Document: func(_ context.Context, digest v1.Hash) []byte {
		if digest == digestOf(t, img) {
			return raw
		}
		return nil
	}})
	got, _, err := c.Image(t.Context(), s.host+"/a:1", amd64())
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	if asked := s.requests("/manifests/"); len(asked) != 1 {
		t.Errorf("asked %q", asked)
	}
}

// That an upload may be begun is asked at the same time as how to log in, once.
func TestGuessUpload(t *testing.T) {
	s := serve(t, false, nil)
	c := client(t, Options{})
	p, err := c.Push(s.host + "/a:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Finish(t.Context(), imageFor(t, amd64()), false); err != nil {
		t.Fatal(err)
	}
	p.Close(t.Context())
	c.Close()
	begun := 0
	for _, r := range s.requests("/blobs/uploads/") {
		if strings.HasPrefix(r, "DELETE") {
			t.Errorf("given up: %s", r)
		}
		if strings.HasPrefix(r, "POST") {
			begun++
		}
	}
	if begun != 3 {
		t.Errorf("%d uploads were begun for two layers and a config", begun)
	}
}
