package registry

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
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
