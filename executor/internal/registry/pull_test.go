package registry

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// An image is pulled by tag and by digest, and out of nested indexes, whole.
func TestImage(t *testing.T) {
	s := serve(t, false, nil)
	arm, amd := imageFor(t, v1.Platform{OS: "linux", Architecture: "arm64"}), imageFor(t, amd64())
	inner := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	p := amd64()
	outer := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: inner, Descriptor: v1.Descriptor{Platform: &p}})
	s.put("a/plain:1", amd)
	s.put("a/index:1", inner)
	s.put("a/nested:1", outer)
	c := client(t, Options{})
	want := digestOf(t, amd)
	for _, ref := range []string{"/a/plain:1", "/a/plain@" + want.String(), "/a/index:1", "/a/nested:1"} {
		img, used, err := c.Image(t.Context(), s.host+ref, amd64())
		if err != nil {
			t.Fatal(err)
		}
		if got := digestOf(t, img); got != want || used.Name() != s.host+ref {
			t.Errorf("%s: %s from %s", ref, got, used)
		}
		if err := validate.Image(img); err != nil {
			t.Error(err)
		}
	}
	_, _, err := c.Image(t.Context(), s.host+"/a/index:1", v1.Platform{OS: "linux", Architecture: "s390x"})
	if !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "no image for the platform linux/s390x; it has linux/arm64, linux/amd64") {
		t.Errorf("error = %v", err)
	}
}

// An image for another platform that is no index is used with a warning.
func TestImageOtherPlatform(t *testing.T) {
	s := serve(t, false, nil)
	s.put("a:1", imageFor(t, v1.Platform{OS: "linux", Architecture: "arm64"}))
	var b lockedBuffer
	c := client(t, Options{Log: logTo(&b)})
	if _, _, err := c.Image(t.Context(), s.host+"/a:1", amd64()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "image is for another platform") || !strings.Contains(b.String(), "platform=linux/arm64 wanted=linux/amd64") {
		t.Errorf("log = %s", b.String())
	}
}

// What is no image is refused with what it is.
func TestImageNotAnImage(t *testing.T) {
	s := serve(t, false, nil)
	artifact := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.cncf.helm.config.v1+json")
	artifact, err := mutate.AppendLayers(artifact, static.NewLayer([]byte("x"), "application/x"))
	if err != nil {
		t.Fatal(err)
	}
	s.put("chart:1", artifact)
	_, _, err = client(t, Options{}).Image(t.Context(), s.host+"/chart:1", amd64())
	if err == nil || !strings.Contains(err.Error(), "it is not an image: its config has the type application/vnd.cncf.helm") {
		t.Errorf("error = %v", err)
	}
}

// Mirrors are asked in order, then the registry; the error names every place.
func TestImageMirrors(t *testing.T) {
	broken := serve(t, false, func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	without, with, origin := serve(t, false, nil), serve(t, false, nil), serve(t, false, nil)
	img := imageFor(t, amd64())
	with.put("proxy/team/app:1", img)
	origin.put("team/app:1", img)
	origin.put("team/other:1", img)
	maps := map[string][]string{origin.host: {broken.host, without.host, with.host + "/proxy"}}
	var b lockedBuffer
	c := client(t, Options{Maps: maps, Log: logTo(&b)})
	_, used, err := c.Image(t.Context(), origin.host+"/team/app:1", amd64())
	if err != nil || used.Name() != with.host+"/proxy/team/app:1" {
		t.Fatalf("from %v, %v", used, err)
	}
	if len(origin.requests("")) != 0 || strings.Count(b.String(), "image is not at its mirror") != 2 {
		t.Errorf("origin was asked %v; log:\n%s", origin.requests(""), b.String())
	}
	if _, used, err = c.Image(t.Context(), origin.host+"/team/other:1", amd64()); err != nil || used.Name() != origin.host+"/team/other:1" {
		t.Errorf("from %v, %v", used, err)
	}
	_, _, err = c.Image(t.Context(), origin.host+"/team/none:1", amd64())
	if err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("error = %v: one mirror did not say that it has none", err)
	}
	for _, place := range []string{broken.host + "/team/none:1: ", without.host + "/team/none:1: ", with.host + "/proxy/team/none:1: ", origin.host + "/team/none:1: "} {
		if err != nil && !strings.Contains(err.Error(), place) {
			t.Errorf("error %q does not name %s", err, place)
		}
	}
	c = client(t, Options{Maps: map[string][]string{origin.host: {without.host}}, SkipDefaultFallback: true})
	_, _, err = c.Image(t.Context(), origin.host+"/team/app:1", amd64())
	want := fmt.Sprintf("image %s/team/app:1 not found; tried %s/team/app:1: ", origin.host, without.host)
	if !errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error = %v, want %s", err, want)
	}
	// What was asked for is not said twice.
	_, _, err = client(t, Options{}).Image(t.Context(), origin.host+"/team/none:1", amd64())
	if want := fmt.Sprintf("image %s/team/none:1 not found: GET ", origin.host); !errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error = %v, want %s", err, want)
	}
}

// References that are none are refused.
func TestImageBadReference(t *testing.T) {
	for _, ref := range []string{"", "UPPER", "a:b:c", "http://host/x"} {
		if _, _, err := client(t, Options{}).Image(t.Context(), ref, amd64()); err == nil || !strings.Contains(err.Error(), "is not a valid reference") {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// A registry that fails for a while is asked again, as often as allowed.
func TestImageRetries(t *testing.T) {
	var failures atomic.Int32
	s := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") && failures.Add(-1) >= 0 {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	})
	s.put("a:1", imageFor(t, amd64()))
	for n, ok := range map[int32]bool{2: true, 5: true, 20: false} {
		failures.Store(n)
		_, _, err := client(t, Options{DownloadRetry: 1}).Image(t.Context(), s.host+"/a:1", amd64())
		if (err == nil) != ok {
			t.Errorf("%d failures: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("deadline of the job"))
	if _, _, err := client(t, Options{}).Image(ctx, s.host+"/a:1", amd64()); err == nil || !strings.Contains(err.Error(), "deadline of the job") {
		t.Errorf("cancelled: %v", err)
	}
}

// A registry that asks for patience gets it.
func TestRetryAfter(t *testing.T) {
	var n atomic.Int32
	s := serve(t, false, nil)
	s.put("a:1", imageFor(t, amd64()))
	s.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") && n.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		return false
	})
	start := time.Now()
	if _, _, err := client(t, Options{}).Image(t.Context(), s.host+"/a:1", amd64()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("waited only %v", took)
	}
	for header, want := range map[string]time.Duration{"": 0, "x": 0, "-1": 0, "7": 7 * time.Second, "100000": 0} {
		resp := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {header}}}
		if got := retryAfter(resp); got != want {
			t.Errorf("Retry-After %q: %v, want %v", header, got, want)
		}
	}
}

// Layers survive broken connections; a layer that keeps breaking, or has the
// wrong bytes, is an error.
func TestLayerResumes(t *testing.T) {
	var cuts atomic.Int32
	var corrupt atomic.Bool
	s := serve(t, false, nil)
	s.put("a:1", imageFor(t, amd64()))
	s.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		if corrupt.Load() {
			w.Header().Set("Content-Length", "1")
			_, _ = io.WriteString(w, "x")
			return true
		}
		if cuts.Add(-1) >= 0 {
			w.Header().Set("Content-Length", "100000")
			panic(http.ErrAbortHandler)
		}
		return false
	})
	c := client(t, Options{})
	img, _, err := c.Image(t.Context(), s.host+"/a:1", amd64())
	if err != nil {
		t.Fatal(err)
	}
	layers, _ := img.Layers()
	if _, ok := innermost(layers[0]).(*remote.MountableLayer); !ok {
		t.Errorf("a layer is %T and cannot be mounted", layers[0])
	}
	s.setHook(cutting(s, &cuts, 700))
	for n, ok := range map[int32]bool{0: true, 2: true, 3: true, 9: false} {
		cuts.Store(n)
		err := validate.Layer(layers[0]) // reads compressed and uncompressed
		cuts.Store(0)
		if (err == nil) != ok {
			t.Errorf("%d cuts: %v", n, err)
		}
		if err != nil && !strings.Contains(err.Error(), "broke off after 700 bytes") {
			t.Errorf("%d cuts: %v", n, err)
		}
	}
	byDigest, err := img.LayerByDigest(digestOf(t, layers[1]))
	if err != nil {
		t.Fatal(err)
	}
	cuts.Store(1)
	if err := validate.Layer(byDigest); err != nil {
		t.Error(err)
	}
	diffID, _ := byDigest.DiffID()
	if l, err := img.LayerByDiffID(diffID); err != nil || digestOf(t, l) != digestOf(t, byDigest) {
		t.Errorf("layer by diff id: %v, %v", l, err)
	}
	if ok, err := layers[0].(interface{ Exists() (bool, error) }).Exists(); !ok || err != nil {
		t.Errorf("Exists = %v, %v", ok, err)
	}
}

// cutting serves blobs and breaks the connection after some bytes.
func cutting(s *server, cuts *atomic.Int32, after int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") || cuts.Add(-1) < 0 {
			return false
		}
		digest, err := v1.NewHash(filepath.Base(r.URL.Path))
		if err != nil {
			return false
		}
		s.setHook(nil) // the next request is our own
		l, err := s.get("a:1").LayerByDigest(digest)
		if err != nil {
			return false
		}
		size, _ := l.Size()
		rc, _ := l.Compressed()
		defer rc.Close()
		s.setHook(cutting(s, cuts, after))
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.CopyN(w, rc, int64(after))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// writePEM writes the certificate of a server to a file.
func writePEM(t *testing.T, s *server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.srv.Certificate().Raw})
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Each way to trust a server works for what it is for and nothing else: an
// authority for one host is not trusted for another, and pulling is not
// pushing.
func TestTLS(t *testing.T) {
	a, b := serve(t, true, nil), serve(t, true, nil) // one certificate, two hosts
	img := imageFor(t, amd64())
	a.put("x:1", img)
	b.put("x:1", img)
	for name, tc := range map[string]struct {
		opt                 Options
		pullA, pullB, pushA bool
	}{
		"nothing":              {Options{}, false, false, false},
		"certificate":          {Options{Certificates: map[string]string{a.host: writePEM(t, a)}}, true, false, true},
		"skip all":             {Options{SkipTLSVerify: true}, true, true, true},
		"skip pull":            {Options{SkipTLSVerifyPull: true}, true, true, false},
		"skip one":             {Options{SkipTLSVerifyRegistries: []string{a.host}}, true, false, true},
		"skip a mere hostname": {Options{SkipTLSVerifyRegistries: []string{"127.0.0.1"}}, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, tc.opt)
			for s, want := range map[*server]bool{a: tc.pullA, b: tc.pullB} {
				if _, _, err := c.Image(t.Context(), s.host+"/x:1", amd64()); (err == nil) != want {
					t.Errorf("pull: %v, want success %v", err, want)
				}
			}
			if err := c.CheckPush(t.Context(), a.host+"/x:2"); (err == nil) != tc.pushA {
				t.Errorf("push: %v, want success %v", err, tc.pushA)
			}
		})
	}
}

// Plain HTTP is used only where it is allowed. Loopback addresses always are,
// so the names are looked at.
func TestInsecure(t *testing.T) {
	for name, tc := range map[string]struct {
		opt        Options
		pull, push string
	}{
		"default": {Options{}, "https", "https"},
		"push":    {Options{Insecure: true}, "https", "http"},
		"pull":    {Options{InsecurePull: true}, "http", "https"},
		"host":    {Options{InsecureRegistries: []string{"reg.example:5000"}}, "http", "http"},
		"other":   {Options{InsecureRegistries: []string{"reg.example"}}, "https", "https"},
	} {
		c := client(t, tc.opt)
		places, err := c.places("reg.example:5000/a")
		if err != nil {
			t.Fatal(err)
		}
		dest, err := c.destination("reg.example:5000/a")
		if err != nil {
			t.Fatal(err)
		}
		if pull, push := places[0].Context().Scheme(), dest.Scheme(); pull != tc.pull || push != tc.push {
			t.Errorf("%s: pull by %s, push by %s", name, pull, push)
		}
	}
	for s, want := range map[string]string{"debian": "index.docker.io", "a/b": "index.docker.io", "docker.io/a": "index.docker.io", "localhost/a": "localhost", "h:1/a": "h:1", "h.x/a": "h.x"} {
		if got := hostOf(s); got != want {
			t.Errorf("hostOf(%q) = %q, want %q", s, got, want)
		}
	}
}

// Credentials are sent to the registry, and not to where it redirects to.
func TestCredentialsStayHome(t *testing.T) {
	var leaked, asked atomic.Bool
	storage := serve(t, false, nil)
	img := imageFor(t, amd64())
	storage.put("a:1", img)
	storage.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		return false
	})
	front := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
		user, pass, _ := r.BasicAuth()
		if user != "me" || pass != "pw" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		asked.Store(true)
		if strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet {
			_, port, _ := strings.Cut(storage.host, ":")
			http.Redirect(w, r, "http://localhost:"+port+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	front.srv.Config.Handler = swapManifests(front.srv.Config.Handler, storage)
	keys, err := NewKeychain(KeychainOptions{Content: fmt.Sprintf(`{"auths":{"%s":{"username":"me","password":"pw"}}}`, front.host)})
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, Options{Keychain: keys})
	got, _, err := c.Image(t.Context(), front.host+"/a:1", amd64())
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	if leaked.Load() || !asked.Load() {
		t.Errorf("leaked %v, asked %v", leaked.Load(), asked.Load())
	}
	none := client(t, Options{Keychain: &Keychain{}})
	_, _, err = none.Image(t.Context(), front.host+"/a:1", amd64())
	if err == nil || !strings.Contains(err.Error(), "without credentials: there is no Docker config with any for "+front.host) {
		t.Errorf("error = %v", err)
	}
}

// swapManifests answers for manifests what another registry has, after h had
// its say.
func swapManifests(h http.Handler, other *server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok && strings.Contains(r.URL.Path, "/manifests/") {
			other.srv.Config.Handler.ServeHTTP(w, withoutCredentials(r))
			return
		}
		h.ServeHTTP(w, r)
	})
}

func withoutCredentials(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	r.Header.Del("Authorization")
	return r
}
