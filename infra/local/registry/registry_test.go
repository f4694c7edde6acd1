package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/kilnhook/kiln/events"
)

// start opens the registry in dir and returns the host it is served at.
func start(t *testing.T, dir string) (host string, stop func()) {
	t.Helper()
	s, err := Open(t.Context(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	return strings.TrimPrefix(srv.URL, "http://"), func() {
		srv.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func image(t *testing.T) (v1.Image, string) {
	t.Helper()
	img, err := random.Image(64<<10, 3)
	if err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return img, d.String()
}

// What was pushed, by digest and by tag, is there after a restart, and can be
// pulled and verified.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	host, stop := start(t, dir)
	var c Client
	img, digest := image(t)
	if err := c.Push(t.Context(), host+"/team/app@"+digest, img); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), host+"/team/app:latest"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a push by digest moved a tag: %v", err)
	}
	if err := c.MoveTags(t.Context(), host+"/team/app", digest, []string{"latest", "v1"}); err != nil {
		t.Fatal(err)
	}
	stop()

	host, stop = start(t, dir)
	defer stop()
	for _, tag := range []string{"latest", "v1"} {
		if got, err := c.Resolve(t.Context(), host+"/team/app:"+tag); err != nil || got != digest {
			t.Errorf("%s is %s, %v; want %s", tag, got, err, digest)
		}
	}
	if err := c.CheckDigest(t.Context(), host+"/team/app", digest); err != nil {
		t.Error(err)
	}
	p, err := c.Pull(t.Context(), host+"/team/app@"+digest)
	if err != nil || p.Digest != digest || p.Layers != 3 || p.Bytes < 3*64<<10 {
		t.Errorf("%+v, %v", p, err)
	}
}

// A tag can be moved on and back; moving it to nowhere is ErrNotFound.
func TestMoveTags(t *testing.T) {
	host, stop := start(t, t.TempDir())
	defer stop()
	var c Client
	one, first := image(t)
	two, second := image(t)
	for d, img := range map[string]v1.Image{first: one, second: two} {
		if err := c.Push(t.Context(), host+"/app@"+d, img); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{first, second, second, first} {
		if err := c.MoveTags(t.Context(), host+"/app", d, []string{"main"}); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Resolve(t.Context(), host+"/app:main"); err != nil || got != d {
			t.Errorf("main is %s, %v; want %s", got, err, d)
		}
	}
	missing := "sha256:" + strings.Repeat("0", 64)
	if err := c.MoveTags(t.Context(), host+"/app", missing, []string{"main"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("moved to nowhere: %v", err)
	}
	if err := c.CheckDigest(t.Context(), host+"/app", missing); !errors.Is(err, ErrNotFound) {
		t.Errorf("checked: %v", err)
	}
	if err := c.CheckDigest(t.Context(), host+"/app", "latest"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("not a digest: %v", err)
	}
	if err := c.CheckDigest(t.Context(), "127.0.0.1:1/app", missing); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("no registry there: %v", err)
	}
}

// A layer that was damaged on disk is noticed when the image is pulled.
func TestPullVerifies(t *testing.T) {
	dir := t.TempDir()
	host, stop := start(t, dir)
	defer stop()
	var c Client
	img, digest := image(t)
	if err := c.Push(t.Context(), host+"/app@"+digest, img); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "docker/registry/v2/blobs/sha256", hash.Hex[:2], hash.Hex, "data")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Pull(t.Context(), host+"/app@"+digest); err == nil {
		t.Error("a damaged layer was not noticed")
	}
}

// The library's log lines become lines of ours, and a miss is no news.
func TestLog(t *testing.T) {
	var out bytes.Buffer
	w := logWriter{slog.New(slog.NewTextHandler(&out, nil))}
	for _, line := range []string{`{"level":"warning","msg":"disk is slow"}`, `{"level":"error","msg":"response completed with error","http.response.status":404}`,
		`{"level":"error","msg":"error closing blobwriter: already closed"}`, `{"msg":"response completed with error","http.response.status":500,"err.detail":"full"}`, "plain"} {
		if n, err := io.WriteString(w, line+"\n"); n != len(line)+1 || err != nil {
			t.Error(n, err)
		}
	}
	if s := out.String(); strings.Count(s, "\n") != 3 || !strings.Contains(s, "disk is slow") || !strings.Contains(s, "error  full") || !strings.Contains(s, "plain") {
		t.Errorf("%s", s)
	}
}

// A registry is reachable if it answers, also when it wants credentials.
func TestReachable(t *testing.T) {
	var c Client
	for status, want := range map[int]bool{200: true, 401: true, 403: false, 502: false} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		if got := c.Reachable(t.Context(), srv.URL+"/v2/"); got != want {
			t.Errorf("%d: %v", status, got)
		}
		srv.Close()
	}
	if c.Reachable(context.Background(), "http://127.0.0.1:1/v2/") {
		t.Error("nobody is there")
	}
}

// configFor is an image's config for a platform.
func configFor(t *testing.T, img v1.Image, p events.PlatformInfo) *v1.ConfigFile {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture, config.Variant = p.OS, p.Arch, p.Variant
	return config
}

// An index has the platforms that were asked for, in their order, is the same for
// the same manifests, and is pushed once; a tag can name it.
func TestPushIndex(t *testing.T) {
	server, err := Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	puts := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/sha256:") {
			puts++
		}
		server.ServeHTTP(w, r)
	}))
	defer srv.Close()
	repo := strings.TrimPrefix(srv.URL, "http://") + "/app"
	var c Client
	var platforms []events.PlatformInfo
	for _, platform := range []string{"linux/amd64", "linux/arm/v7"} {
		info, ok := events.NewPlatformInfo(platform, "")
		if !ok {
			t.Fatal(platform)
		}
		img, _ := image(t)
		img, err := mutate.ConfigFile(img, configFor(t, img, info))
		if err != nil {
			t.Fatal(err)
		}
		hash, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		info.Digest = hash.String()
		if err := c.Push(t.Context(), repo+"@"+info.Digest, img); err != nil {
			t.Fatal(err)
		}
		platforms = append(platforms, info)
	}
	puts = 0
	digest, mediaType, err := c.PushIndex(t.Context(), repo, platforms)
	if err != nil || mediaType != "application/vnd.oci.image.index.v1+json" {
		t.Fatalf("%s, %v", mediaType, err)
	}
	if again, _, err := c.PushIndex(t.Context(), repo, platforms); err != nil || again != digest || puts != 1 {
		t.Errorf("again: %s, %v, after %d pushes", again, err, puts)
	}
	if err := c.MoveTags(t.Context(), repo, digest, []string{"main"}); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(repo + ":main")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 2 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	for i, want := range []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v7"}} {
		if got := manifest.Manifests[i]; !got.Platform.Equals(want) || got.Digest.String() != platforms[i].Digest || got.Size == 0 {
			t.Errorf("manifest %d: %+v", i, got)
		}
	}

	platforms[0].Digest = digest // an index is no image for a platform
	if _, _, err := c.PushIndex(t.Context(), repo, platforms); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an index in an index: %v", err)
	}
	platforms[0].Digest = "sha256:" + strings.Repeat("0", 64)
	if _, _, err := c.PushIndex(t.Context(), repo, platforms); !errors.Is(err, ErrNotFound) {
		t.Errorf("a manifest that is not there: %v", err)
	}
}
