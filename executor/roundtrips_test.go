package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/infra/local/registry"
)

// depths finds how many requests to a registry had to wait for one another: the
// depth of a request is one more than that of any answer that was on its way
// before it came. Every answer is held back for a while, so that requests which
// do not wait for each other are seen to be under way together; a slow machine
// makes no request deeper than it is.
type depths struct {
	next http.Handler
	wait time.Duration

	mu   sync.Mutex
	done int // greatest depth of an answer
	seen []string
}

func (d *depths) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	depth := d.done + 1
	d.seen = append(d.seen, fmt.Sprintf("%d %s %s", depth, r.Method, r.URL.RequestURI()))
	d.mu.Unlock()
	answer := httptest.NewRecorder()
	d.next.ServeHTTP(answer, r)
	time.Sleep(d.wait)
	d.mu.Lock()
	d.done = max(d.done, depth)
	d.mu.Unlock()
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// take returns the greatest depth, and what was asked, since it was called last.
func (d *depths) take() (int, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	depth, seen := d.done, strings.Join(d.seen, "\n")
	d.done, d.seen = 0, nil
	return depth, seen
}

// maxRoundTrips is how many round trips a build whose steps are all cached may
// take, to a registry that it need not log in to.
const maxRoundTrips = 7

// A build of twenty steps that the cache has takes few round trips, to the
// repository that it was built for before and to a new one.
func TestRoundTrips(t *testing.T) {
	need.Root(t)
	store, err := registry.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	far := &depths{next: store}
	srv := httptest.NewServer(far)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	pushLayers(t, host+"/library/base:1")

	dir := t.TempDir()
	dockerfile := "FROM " + host + "/library/base:1\n"
	for i := range 20 {
		dockerfile += fmt.Sprintf("COPY file /to/%d\n", i)
	}
	for name, content := range map[string]string{"Dockerfile": dockerfile, "file": "content"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := func(args ...string) {
		t.Helper()
		out, err := exec.Command("executor", append([]string{"--context", dir, "--cache", "--cache-copy-layers", "--cache-repo", host + "/cache"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	build("--destination", host+"/app:1")
	far.take()
	far.wait = 150 * time.Millisecond
	for _, tc := range []struct {
		name string
		args []string
	}{
		{"again", []string{"--destination", host + "/app:2"}},
		{"elsewhere", []string{"--destination", host + "/other:1"}},
		{"by digest", []string{"--destination", host + "/third", "--push-by-digest"}},
	} {
		build(tc.args...)
		n, seen := far.take()
		t.Logf("%s: %d round trips", tc.name, n)
		if n > maxRoundTrips {
			t.Errorf("%s: %d round trips, want at most %d:\n%s", tc.name, n, maxRoundTrips, seen)
		}
		if strings.Contains(seen, "PATCH") || strings.Contains(seen, "GET /v2/cache/blobs/") {
			t.Errorf("%s: layers were moved:\n%s", tc.name, seen)
		}
	}
}

// pushLayers stores an image with three layers.
func pushLayers(t *testing.T, ref string) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img := v1.Image(empty.Image)
	for range 3 {
		l, err := random.Layer(1000, types.DockerLayer)
		if err == nil {
			img, err = mutate.AppendLayers(img, l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	img, err = mutate.ConfigFile(img, platformed(t, img))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

func platformed(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	return cf
}

