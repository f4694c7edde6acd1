package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/infra/local/registry"
)

// depths finds how many round trips a build waits for: the depth of a request is one
// more than that of any answer that was on its way before it came, and a new
// connection has one more than that of any such answer when it was opened, for its
// handshake. Every answer is held back for a while, and as long the first request of
// a connection, so that what does not wait for each other is seen to be under way
// together; a slow machine makes no request deeper than it is.
type depths struct {
	next http.Handler

	mu    sync.Mutex
	wait  time.Duration
	done  int // greatest depth of an answer
	seen  []string
	conns int
}

// opened is what a connection's requests know of it.
type opened struct {
	depth int           // of its handshake
	ready chan struct{} // closed when that is over
}

type openedKey struct{}

// connect is http.Server.ConnContext.
func (d *depths) connect(ctx context.Context, _ net.Conn) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns++
	o := &opened{depth: d.done + 1, ready: make(chan struct{})}
	time.AfterFunc(d.wait, func() { close(o.ready) })
	return context.WithValue(ctx, openedKey{}, o)
}

func (d *depths) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn := r.Context().Value(openedKey{}).(*opened)
	<-conn.ready
	d.mu.Lock()
	depth, wait := max(d.done, conn.depth)+1, d.wait
	d.seen = append(d.seen, fmt.Sprintf("%d %s %s", depth, r.Method, r.URL.RequestURI()))
	d.mu.Unlock()
	answer := httptest.NewRecorder()
	d.next.ServeHTTP(answer, r)
	time.Sleep(wait)
	d.mu.Lock()
	d.done = max(d.done, depth)
	d.mu.Unlock()
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// far serves a registry at a distance.
func far(t *testing.T, next http.Handler) (d *depths, host string) {
	t.Helper()
	d = &depths{next: next}
	srv := httptest.NewUnstartedServer(d)
	srv.Config.ConnContext = d.connect
	srv.Start()
	t.Cleanup(srv.Close)
	return d, strings.TrimPrefix(srv.URL, "http://")
}

// hold holds back every answer to come.
func (d *depths) hold(wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wait = wait
}

// take returns the greatest depth, what was asked, and how many connections were
// opened, since it was called last.
func (d *depths) take() (depth int, seen string, conns int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	depth, seen, conns = d.done, strings.Join(d.seen, "\n"), d.conns
	d.done, d.seen, d.conns = 0, nil, 0
	return depth, seen, conns
}

// A build of twenty steps that the cache has takes few round trips, to the
// repository that it was built for before and to a new one.
func TestRoundTrips(t *testing.T) {
	need.Root(t)
	store, err := registry.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	clock, host := far(t, store)
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
	clock.take()
	clock.hold(250 * time.Millisecond)
	for _, tc := range []struct {
		name string
		args []string
		want int
	}{
		{"again", []string{"--destination", host + "/app:2"}, 4},
		{"elsewhere", []string{"--destination", host + "/other:1"}, 4},
		{"by digest", []string{"--destination", host + "/third", "--push-by-digest"}, 4},
		{"another target", []string{"--destination", host + "/app:3", "--target", "0"}, 6}, // nothing is known of it
	} {
		build(tc.args...)
		n, seen, conns := clock.take()
		t.Logf("%s: %d round trips, %d connections\n%s", tc.name, n, conns, seen)
		if n > tc.want {
			t.Errorf("%s: %d round trips, want at most %d:\n%s", tc.name, n, tc.want, seen)
		}
		if strings.Contains(seen, "PATCH") || strings.Contains(seen, "GET /v2/cache/blobs/") {
			t.Errorf("%s: layers were moved:\n%s", tc.name, seen)
		}
	}
}

// A cache whose entries are there but not their layers costs a build that takes all
// of them for hits nothing but time.
func TestCacheLosesLayers(t *testing.T) {
	need.Root(t)
	store, err := registry.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var lost atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !lost.Load():
		case strings.HasPrefix(r.URL.Path, "/v2/cache/blobs/") && (r.Method == http.MethodHead || r.Method == http.MethodGet):
			http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, http.StatusNotFound)
			return
		case r.URL.Query().Get("from") == "cache":
			r.URL.RawQuery = ""
		}
		store.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	pushLayers(t, host+"/library/base:1")
	dir := t.TempDir()
	for name, content := range map[string]string{"Dockerfile": "FROM " + host + "/library/base:1\nCOPY file /a\nCOPY file /b\n", "file": "content"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{`"cache":{"hits":0,"misses":2}`, `"cache":{"hits":2,"misses":0}`, `"cache":{"hits":0,"misses":2}`} {
		lost.Store(i == 2)
		dest := fmt.Sprintf("%s/app%d:1", host, i)
		result := filepath.Join(t.TempDir(), "result.json")
		out, err := exec.Command("executor", "--context", dir, "--cache", "--cache-copy-layers", "--cache-repo", host+"/cache", "--destination", dest, "--result-file", result).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if said, err := os.ReadFile(result); err != nil || !strings.Contains(string(said), want) {
			t.Errorf("build %d: %s, want %s, %v", i, said, want, err)
		}
		lost.Store(false)
		ref, err := name.ParseReference(dest)
		if err != nil {
			t.Fatal(err)
		}
		img, err := remote.Image(ref)
		if err == nil {
			err = validate.Image(img)
		}
		if err != nil {
			t.Errorf("build %d: %v", i, err)
		}
	}
}

// A base that goes to another registry is fetched once, though it is read for its
// names and to be uploaded.
func TestBaseElsewhere(t *testing.T) {
	need.Root(t)
	var hosts []string
	var fetched sync.Map
	for i := range 2 {
		store, err := registry.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if i == 0 && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				n, _ := fetched.LoadOrStore(r.URL.Path, &atomic.Int32{})
				n.(*atomic.Int32).Add(1)
			}
			store.ServeHTTP(w, r)
		}))
		defer srv.Close()
		hosts = append(hosts, strings.TrimPrefix(srv.URL, "http://"))
	}
	pushLayers(t, hosts[0]+"/library/base:1")
	dir := t.TempDir()
	for name, content := range map[string]string{"Dockerfile": "FROM " + hosts[0] + "/library/base:1\nCOPY file /a\n", "file": "content"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dest := hosts[1] + "/app:1"
	if out, err := exec.Command("executor", "--context", dir, "--destination", dest).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n := 0
	fetched.Range(func(path, times any) bool {
		n++
		if got := times.(*atomic.Int32).Load(); got != 1 {
			t.Errorf("%s was fetched %d times", path, got)
		}
		return true
	})
	if n != 4 { // three layers and the config
		t.Errorf("%d blobs were fetched", n)
	}
	ref, err := name.ParseReference(dest)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err == nil {
		err = validate.Image(img)
	}
	if err != nil {
		t.Error(err)
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
