package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
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
