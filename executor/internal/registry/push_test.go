package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/kilnhook/kiln/executor/internal/image"
)

// streaming is a streaming layer of Kiln's own kind: not ggcr's type, its
// digest is known once it has been read, and it cannot be read twice.
type streaming struct{ *stream.Layer }

func newStreaming(t *testing.T, size int64) streaming {
	t.Helper()
	l, err := random.Layer(size, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	return streaming{stream.NewLayer(rc, stream.WithMediaType(types.OCILayer))}
}

// assemble makes an image of base and layers.
func assemble(t *testing.T, base v1.Image, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := image.Assemble(image.Input{Base: base, Platform: amd64(), Layers: layers, History: make([]v1.History, len(layers))})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// An image goes to every destination, streamed layers are read once, the
// manifest is put by digest before any tag, and blobs before both.
func TestPush(t *testing.T) {
	one, two, hub := serve(t, false, nil), serve(t, false, nil), serve(t, false, nil)
	hub.put("base:1", imageFor(t, amd64()))
	c := client(t, Options{})
	base, _, err := c.Image(t.Context(), hub.host+"/base:1", amd64())
	if err != nil {
		t.Fatal(err)
	}
	dests := []string{one.host + "/app:v1", one.host + "/app", one.host + "/copy/app:v1", two.host + "/app:v1", one.host + "/app:v1"}
	p, err := c.Push(dests...)
	if err != nil {
		t.Fatal(err)
	}
	first, second := newStreaming(t, 50_000), newStreaming(t, 1000)
	var done, total int64
	if err := p.Upload(t.Context(), first, func(d, n int64) { done, total = d, n }); err != nil {
		t.Fatal(err)
	}
	if size, _ := first.Size(); done != size || total != size {
		t.Errorf("progress = %d of %d, want %d", done, total, size)
	}
	if err := p.Upload(t.Context(), second, nil); err != nil {
		t.Fatal(err)
	}
	img := assemble(t, base, first, second)
	digest, err := p.Finish(t.Context(), img, false)
	if err != nil {
		t.Fatal(err)
	}
	if digest != digestOf(t, img) {
		t.Errorf("digest = %s", digest)
	}
	for s, refs := range map[*server][]string{one: {"app:v1", "app:latest", "copy/app:v1", "app@" + digest.String()}, two: {"app:v1"}} {
		for _, ref := range refs {
			got := s.get(ref)
			if err := validate.Image(got); err != nil || digestOf(t, got) != digest {
				t.Errorf("%s: %s, %v", ref, digestOf(t, got), err)
			}
		}
	}
	var puts []string
	for _, l := range one.requests("PUT ") {
		if strings.Contains(l, "/blobs/") && len(puts) > 0 {
			t.Errorf("blob after a manifest: %s", l)
		}
		if strings.Contains(l, "/manifests/") {
			puts = append(puts, strings.TrimPrefix(l, "PUT /v2/"))
		}
	}
	want := []string{"app/manifests/" + digest.String(), "copy/app/manifests/" + digest.String(), "app/manifests/latest", "app/manifests/v1", "copy/app/manifests/v1"}
	if len(puts) == len(want) { // those by digest at the same time, and then those of tags
		slices.Sort(puts[:2])
		slices.Sort(puts[2:])
	}
	if !slices.Equal(puts, want) {
		t.Errorf("manifests put: %q\nwant %q", puts, want)
	}
}

// By digest only, no tag is touched.
func TestPushByDigest(t *testing.T) {
	s := serve(t, false, nil)
	p, err := client(t, Options{}).Push(s.host + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	digest, err := p.Finish(t.Context(), imageFor(t, amd64()), true)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.get("app@" + digest.String()); digestOf(t, got) != digest {
		t.Error("another image")
	}
	if r := s.requests("/manifests/v1"); len(r) != 0 {
		t.Errorf("the tag was touched: %v", r)
	}
}

// A layer that the registry has elsewhere is mounted, wrapped or not, and one
// that the repository has is not sent.
func TestPushMounts(t *testing.T) {
	var have sync.Map // paths of blobs; layers are pushed at the same time
	s := serve(t, false, nil)
	base := imageFor(t, amd64())
	s.put("base:1", base)
	s.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v2/app/blobs/") {
			return false
		}
		q := r.URL.Query()
		switch {
		case r.Method == http.MethodHead: // blobs of this fake are in all repositories
			if _, ok := have.Load(r.URL.Path); ok {
				return false
			}
			w.WriteHeader(http.StatusNotFound)
			return true
		case q.Get("mount") != "" && q.Get("from") == "base":
			have.Store("/v2/app/blobs/"+q.Get("mount"), true)
			w.WriteHeader(http.StatusCreated)
			return true
		}
		return false
	})
	c := client(t, Options{})
	pulled, _, err := c.Image(t.Context(), s.host+"/base:1", amd64())
	if err != nil {
		t.Fatal(err)
	}
	s.forget()
	p, err := c.Push(s.host + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	img := assemble(t, pulled) // its layers have other media types and are wrapped
	layers, _ := img.Layers()
	var done int64
	for range 2 {
		if err := p.Upload(t.Context(), layers[0], func(d, _ int64) { done = d }); err != nil {
			t.Fatal(err)
		}
	}
	if size, _ := layers[0].Size(); done != size {
		t.Errorf("progress ended at %d of %d", done, size)
	}
	if _, err := p.Finish(t.Context(), img, false); err != nil {
		t.Fatal(err)
	}
	if got := s.requests("mount="); len(got) != 2 {
		t.Errorf("mounts: %q", got)
	}
	if got := slices.Concat(s.requests("GET /v2/base/blobs"), s.requests("PATCH "), s.requests("digest=")); len(got) != 1 { // the config
		t.Errorf("bytes moved: %q", got)
	}
}

// Uploads and manifests are repeated as long as the registry may recover.
func TestPushRetries(t *testing.T) {
	for name, match := range map[string]string{"begin": "POST", "send": "PATCH", "commit": "PUT /v2/app/blobs", "manifest": "PUT /v2/app/manifests/sha256", "tag": "PUT /v2/app/manifests/v1"} {
		t.Run(name, func(t *testing.T) {
			var failures atomic.Int32
			s := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.Method+" "+r.URL.Path, match) && failures.Add(-1) >= 0 {
					_, _ = io.Copy(io.Discard, r.Body)
					w.WriteHeader(http.StatusServiceUnavailable)
					return true
				}
				return false
			})
			for n, ok := range map[int32]bool{1: true, 4: true, 100: false} {
				failures.Store(n)
				large, err := random.Layer(maxSingle+1, types.OCILayer)
				if err != nil {
					t.Fatal(err)
				}
				p, err := client(t, Options{PushRetry: 2}).Push(s.host+"/app:v1", s.host+"/app:v2")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := p.Finish(t.Context(), assemble(t, imageFor(t, amd64()), large), false); (err == nil) != ok {
					t.Errorf("%d failures: %v", n, err)
				}
			}
		})
	}
}

// A refusal is final, says to which repository and with which credentials.
func TestPushRefused(t *testing.T) {
	s := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"no push for you"}]}`)
		return true
	})
	c := client(t, Options{PushRetry: 5, Keychain: &Keychain{}})
	p, err := c.Push(s.host + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Finish(t.Context(), imageFor(t, amd64()), false)
	for _, want := range []string{"push layer sha256:", " to " + s.host + "/app: ", "no push for you", "(without credentials: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	if n := len(s.requests("manifests")); n != 0 {
		t.Errorf("%d requests for manifests after a failed layer", n)
	}
	if err := c.CheckPush(t.Context(), s.host+"/app:v1"); err == nil || !strings.Contains(err.Error(), "check push permission for "+s.host+"/app:v1: ") {
		t.Errorf("error = %v", err)
	}
}

// A streaming layer whose upload fails before it was read is sent after all;
// one that was read cannot be sent again, and the error is the first one.
func TestPushStreamingRetries(t *testing.T) {
	for name, tc := range map[string]struct {
		match string
		ok    bool
	}{"begin": {"POST", true}, "send": {"PATCH", false}, "commit": {"PUT", true}} {
		t.Run(name, func(t *testing.T) {
			var failed atomic.Bool
			s := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != tc.match || failed.Swap(true) {
					return false
				}
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusBadGateway)
				return true
			})
			p, err := client(t, Options{}).Push(s.host + "/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			err = p.Upload(t.Context(), newStreaming(t, 1000), nil)
			if (err == nil) != tc.ok {
				t.Errorf("error = %v", err)
			}
			if err != nil && (!strings.Contains(err.Error(), "502 Bad Gateway") || !strings.Contains(err.Error(), "cannot be sent again")) {
				t.Errorf("error = %v", err)
			}
		})
	}
}

// A layer that cannot be made is the error, not something about HTTP.
func TestPushLayerFails(t *testing.T) {
	s := serve(t, false, nil)
	p, err := client(t, Options{PushRetry: 3}).Push(s.host + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("disk is gone")
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
		w.CloseWithError(cause)
	}()
	if err := p.Upload(t.Context(), streaming{stream.NewLayer(r)}, nil); !errors.Is(err, cause) {
		t.Errorf("error = %v", err)
	}
	for _, l := range s.requests("PUT ") {
		t.Errorf("half a layer was committed: %s", l)
	}
}

// An immutable tag is an error unless it is where it should be or that is
// asked to be ignored.
func TestPushImmutable(t *testing.T) {
	img := imageFor(t, amd64())
	for _, text := range []string{"The repository has enabled tag immutability", "tag 'v1' cannot be overwritten because the tag is immutable."} {
		s := serve(t, false, nil)
		s.put("app:v1", imageFor(t, amd64()))
		s.put("same:v1", img)
		s.setHook(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, "/v1") {
				return false
			}
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"errors":[{"code":"TAG_INVALID","message":%q}]}`, text)
			return true
		})
		for _, tc := range []struct {
			repo   string
			ignore bool
			ok     bool
		}{{"app", false, false}, {"app", true, true}, {"same", false, true}} {
			p, err := client(t, Options{IgnoreImmutableTagErrors: tc.ignore}).Push(s.host + "/" + tc.repo + ":v1")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Finish(t.Context(), img, false); (err == nil) != tc.ok {
				t.Errorf("%+v: %v", tc, err)
			}
		}
	}
}

// Destinations are tags.
func TestPushDestinations(t *testing.T) {
	c := client(t, Options{})
	for dest, want := range map[string]string{"app@sha256:" + strings.Repeat("0", 64): "has a digest", "Bad Name": "is not valid", "": "is not valid"} {
		if _, err := c.Push(dest); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", dest, err, want)
		}
	}
	if _, err := c.Push(); err == nil {
		t.Error("a push to nowhere")
	}
	p, err := c.Push("a/b", "docker.io/a/b:latest", "reg.example/a/b:2")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.tags) != 2 || len(p.targets) != 2 || p.tags[0].Name() != "index.docker.io/a/b:latest" {
		t.Errorf("tags %v, repositories %v", p.tags, p.targets)
	}
}

// The permission check begins an upload and cancels it.
func TestCheckPush(t *testing.T) {
	s := serve(t, false, nil)
	if err := client(t, Options{UserAgent: "kiln/1"}).CheckPush(t.Context(), s.host+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	if len(s.requests("POST /v2/app/blobs/uploads/")) != 1 || len(s.requests("DELETE /v2/app/blobs/uploads/")) != 1 {
		t.Errorf("requests: %q", s.requests(""))
	}
	if err := client(t, Options{}).CheckPush(t.Context(), "a@b"); err == nil {
		t.Error("no error for a bad destination")
	}
}

// What was uploaded can be read and mounted from where it is now.
func TestUploaded(t *testing.T) {
	s := serve(t, false, nil)
	p, err := client(t, Options{}).Push(s.host + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	l := newStreaming(t, 1000)
	if _, err := p.Uploaded(t.Context(), l); !errors.Is(err, stream.ErrNotComputed) {
		t.Errorf("error = %v", err)
	}
	if err := p.Upload(t.Context(), l, nil); err != nil {
		t.Fatal(err)
	}
	there, err := p.Uploaded(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Layer(there); err != nil {
		t.Error(err)
	}
	m, ok := there.(*remote.MountableLayer)
	if !ok || m.Reference.Context().Name() != s.host+"/app" {
		t.Errorf("%T cannot be mounted", there)
	}
	if mt, _ := there.MediaType(); mt != types.OCILayer {
		t.Errorf("media type %s", mt)
	}
	if ok, err := m.Exists(); !ok || err != nil {
		t.Errorf("Exists = %v, %v", ok, err)
	}
}

// The cache gets a repository and how to reach it.
func TestRepository(t *testing.T) {
	s := serve(t, false, nil)
	img := imageFor(t, amd64())
	s.put("cache:k", img)
	repo, opts, err := client(t, Options{}).Repository(s.host + "/cache")
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(repo.Tag("k"), opts...)
	if err != nil || digestOf(t, got) != digestOf(t, img) {
		t.Errorf("%v, %v", got, err)
	}
	if _, _, err := client(t, Options{}).Repository("UPPER"); err == nil {
		t.Error("no error for a bad name")
	}
}

// Layers that may not be distributed are not sent.
func TestPushForeignLayer(t *testing.T) {
	s := serve(t, false, nil)
	l, err := random.Layer(100, types.DockerForeignLayer)
	if err != nil {
		t.Fatal(err)
	}
	base, err := mutate.AppendLayers(imageFor(t, amd64()), l)
	if err != nil {
		t.Fatal(err)
	}
	p, err := client(t, Options{}).Push(s.host + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Finish(t.Context(), assemble(t, base), true); err != nil {
		t.Fatal(err)
	}
	if got := s.requests(digestOf(t, l).Hex); len(got) != 0 {
		t.Errorf("requests: %q", got)
	}
}
