package registry

import (
	"bytes"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// server is an in-process registry that records requests and can be made to
// misbehave.
type server struct {
	t    *testing.T
	host string
	srv  *httptest.Server

	mu   sync.Mutex
	log  []string // "METHOD path?query"
	hook func(w http.ResponseWriter, r *http.Request) bool
}

// serve starts a registry. hook, which may be nil, answers the requests that
// it returns true for.
func serve(t *testing.T, tls bool, hook func(w http.ResponseWriter, r *http.Request) bool) *server {
	t.Helper()
	s := &server{t: t, hook: hook}
	reg := fake.New(fake.Logger(log.New(io.Discard, "", 0)))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.log = append(s.log, r.Method+" "+r.URL.RequestURI())
		hook := s.hook
		s.mu.Unlock()
		if hook == nil || !hook(w, r) {
			reg.ServeHTTP(w, r)
		}
	})
	if tls {
		s.srv = httptest.NewUnstartedServer(h)
		s.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.srv.StartTLS()
	} else {
		s.srv = httptest.NewServer(h)
	}
	t.Cleanup(s.srv.Close)
	s.host = strings.TrimPrefix(strings.TrimPrefix(s.srv.URL, "http://"), "https://")
	return s
}

func (s *server) setHook(hook func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// requests returns those whose line contains part.
func (s *server) requests(part string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, l := range s.log {
		if strings.Contains(l, part) {
			out = append(out, l)
		}
	}
	return out
}

func (s *server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// put stores an image or index in the registry.
func (s *server) put(ref string, what remote.Taggable) {
	s.t.Helper()
	r, err := name.ParseReference(s.host + "/" + ref)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.Push(r, what, remote.WithTransport(s.srv.Client().Transport)); err != nil {
		s.t.Fatal(err)
	}
	s.forget()
}

// get reads an image back.
func (s *server) get(ref string) v1.Image {
	s.t.Helper()
	r, err := name.ParseReference(s.host + "/" + ref)
	if err != nil {
		s.t.Fatal(err)
	}
	img, err := remote.Image(r, remote.WithTransport(s.srv.Client().Transport))
	if err != nil {
		s.t.Fatal(err)
	}
	return img
}

func client(t *testing.T, opt Options) *Client {
	t.Helper()
	if opt.RetryWait == 0 {
		opt.RetryWait = time.Millisecond
	}
	c, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// imageFor is a random image for a platform.
func imageFor(t *testing.T, p v1.Platform) v1.Image {
	t.Helper()
	img, err := random.Image(2000, 2)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Variant = p.OS, p.Architecture, p.Variant
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

func amd64() v1.Platform { return v1.Platform{OS: "linux", Architecture: "amd64"} }

func digestOf(t *testing.T, img interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// logTo returns a logger that writes to b.
func logTo(b *lockedBuffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Options that make no sense are refused at once.
func TestNewRefuses(t *testing.T) {
	for want, opt := range map[string]Options{
		"write a host, without a scheme":   {Maps: map[string][]string{"docker.io": {"https://mirror"}}},
		"registry map index.docker.io=a b": {Mirrors: []string{"a b"}, Maps: map[string][]string{"docker.io": {"a b"}}},
		"registry certificate for h":       {Certificates: map[string]string{"h": "/does/not/exist"}},
		"holds no PEM certificate":         {Certificates: map[string]string{"h": "registry_test.go"}},
		"registry client certificate":      {ClientCerts: map[string]ClientCert{"h": {Cert: "/none", Key: "/none"}}},
	} {
		if _, err := New(opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q", err, want)
		}
	}
	if _, err := New(Options{}); err != nil {
		t.Errorf("zero options: %v", err)
	}
}

// The places of an image are its maps in order, then the registry itself.
func TestPlaces(t *testing.T) {
	maps := map[string][]string{
		"docker.io":      {"mirror.example", "harbor.example:8443/proj/hub/"},
		"quay.io":        {"localhost:5000"},
		"plain.example":  {"bare/prefix"},
		"second.example": {"mirror.example"},
	}
	digest := "@sha256:" + strings.Repeat("ab", 32)
	for _, tc := range []struct {
		ref  string
		skip bool
		want string
	}{
		{"debian", false, "mirror.example/library/debian:latest harbor.example:8443/proj/hub/library/debian:latest last.example/library/debian:latest index.docker.io/library/debian:latest"},
		{"docker.io/a/b:1", true, "mirror.example/a/b:1 harbor.example:8443/proj/hub/a/b:1 last.example/a/b:1"},
		{"quay.io/a/b" + digest, false, "localhost:5000/a/b" + digest + " quay.io/a/b" + digest},
		{"plain.example/x", false, "bare:443/prefix/x:latest plain.example/x:latest"},
		{"other.example/x", true, "other.example/x:latest"},
	} {
		c := client(t, Options{Maps: maps, Mirrors: []string{"last.example"}, SkipDefaultFallback: tc.skip})
		places, err := c.places(tc.ref)
		if err != nil {
			t.Error(err)
			continue
		}
		var got []string
		for _, p := range places {
			got = append(got, p.Name())
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %v\nwant %s", tc.ref, got, tc.want)
		}
	}
}

// Of an index the image for the platform is chosen, with the best variant.
func TestChoose(t *testing.T) {
	index := func(platforms ...string) []v1.Descriptor {
		var out []v1.Descriptor
		for _, s := range platforms {
			d := v1.Descriptor{MediaType: types.OCIManifestSchema1}
			if s != "" {
				p, _ := v1.ParsePlatform(s)
				d.Platform = p
			}
			out = append(out, d)
		}
		return out
	}
	for _, tc := range []struct {
		want  string
		index []v1.Descriptor
		best  int
	}{
		{"linux/amd64", index("linux/arm64", "linux/amd64", "unknown/unknown"), 1},
		{"linux/amd64", index("linux/amd64/v3", "linux/amd64"), 1},
		{"linux/amd64/v3", index("linux/amd64", "linux/amd64/v2", "linux/amd64/v4"), 1},
		{"linux/arm", index("linux/arm/v5", "linux/arm/v7", "linux/arm/v6", "linux/arm/v8"), 1},
		{"linux/arm/v6", index("linux/arm/v7", "linux/arm/v5"), 1},
		{"linux/arm64", index("linux/arm64/v8"), 0},
		{"linux/arm64/v8", index("linux/arm64"), 0},
		{"linux/arm64/v8", index("linux/arm64/v9"), -1},
		{"linux/arm64/v9.2", index("linux/arm64/v8", "linux/arm64/v9.1", "linux/arm64/v9.3"), 1},
		{"linux/ppc64le", index("linux/ppc64le"), 0},
		{"linux/mips", index("linux/mips/weird"), 0},
		{"linux/mips/x", index("linux/mips/weird", "linux/mips"), 1},
		{"linux/mips/x", index("linux/mips/y"), -1},
		{"linux/s390x", index("linux/amd64"), -1},
		{"linux/amd64", index(""), 0},
		{"linux/amd64", index("", ""), -1},
		{"windows/amd64:10.0.2", index("windows/amd64:10.0.1", "windows/amd64:10.0.2"), 1},
	} {
		p, err := v1.ParsePlatform(tc.want)
		if err != nil {
			t.Fatal(err)
		}
		if got := choose(tc.index, *p); got != tc.best {
			t.Errorf("%s in %s: %d, want %d", tc.want, available(tc.index), got, tc.best)
		}
	}
	other := []v1.Descriptor{{MediaType: "application/x"}}
	if choose(other, amd64()) != -1 || available(other) != "none" {
		t.Error("something that is no image was chosen")
	}
}

// Errors that may pass are told from those that do not.
func TestTemporary(t *testing.T) {
	if !temporary(io.ErrUnexpectedEOF) || temporary(permanent{io.ErrUnexpectedEOF}) || temporary(errors.New("x")) || temporary(nil) {
		t.Error("wrong judgement")
	}
}
