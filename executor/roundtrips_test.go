package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	clock.hold(500 * time.Millisecond)
	for _, tc := range []struct {
		name string
		args []string
		want int
	}{
		{"again", []string{"--destination", host + "/app:2"}, 4},
		{"elsewhere", []string{"--destination", host + "/other:1"}, 4},
		{"by digest", []string{"--destination", host + "/third", "--push-by-digest"}, 4},
		{"another Dockerfile", []string{"--destination", host + "/app:3"}, 6}, // nobody has built it
	} {
		n, seen, conns := clock.least(tc.want, func() {
			if tc.want == 6 {
				dockerfile += "# changed\n"
				if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			build(tc.args...)
		})
		t.Logf("%s: %d round trips, %d connections", tc.name, n, conns)
		if conns > 70 { // two for each of twenty steps, three layers of the base, two pools
			t.Errorf("%s: %d connections", tc.name, conns)
		}
		if n > tc.want {
			t.Errorf("%s: %d round trips, want at most %d:\n%s", tc.name, n, tc.want, seen)
		}
		if strings.Contains(seen, "PATCH") || strings.Contains(seen, "GET /v2/cache/blobs/") {
			t.Errorf("%s: layers were moved:\n%s", tc.name, seen)
		}
	}
}

// least builds until that takes no more round trips than wanted, a few times at most:
// on a machine that is busy with something else a request may go out when others have
// come back that it does not need.
func (d *depths) least(want int, build func()) (depth int, seen string, conns int) {
	for range 4 {
		d.take()
		build()
		if depth, seen, conns = d.take(); depth <= want {
			break
		}
	}
	return depth, seen, conns
}

// tokens asks for a token for everything, as registries of clouds do, and gives one to
// everybody. A token is the scopes that it is for.
func tokens(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			token := base64.RawURLEncoding.EncodeToString([]byte(strings.Join(r.URL.Query()["scope"], " ")))
			fmt.Fprintf(w, `{"token":%q}`, token)
			return
		}
		repo := strings.TrimPrefix(r.URL.Path, "/v2/")
		for _, part := range []string{"/manifests/", "/blobs/"} {
			repo, _, _ = strings.Cut(repo, part)
		}
		action := "push"
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			action = "pull"
		}
		given, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		may := func(repo, action string) bool {
			return slices.ContainsFunc(strings.Fields(string(given)), func(scope string) bool {
				return strings.HasPrefix(scope, "repository:"+repo+":") && strings.Contains(scope, action)
			})
		}
		from := r.URL.Query().Get("from")
		if r.URL.Path == "/v2/" && len(given) == 0 || r.URL.Path != "/v2/" && !may(repo, action) || from != "" && !may(from, "pull") {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// To log in to a registry with tokens costs a build two round trips: to be told so, and
// to ask for all tokens at once.
func TestRoundTripsWithTokens(t *testing.T) {
	need.Root(t)
	store, err := registry.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	clock, host := far(t, tokens(store))
	build := twoCopies(t, host)
	build(`"hits":0,"misses":2`)
	clock.hold(500 * time.Millisecond)
	n, seen, _ := clock.least(6, func() { build(`"hits":2,"misses":0`) })
	t.Logf("%d round trips\n%s", n, seen)
	if n > 6 {
		t.Errorf("%d round trips, want at most 6:\n%s", n, seen)
	}
	asked := map[string]int{}
	for line := range strings.SplitSeq(seen, "\n") {
		if _, what, _ := strings.Cut(line, " "); strings.HasPrefix(what, "GET /token") {
			if asked[what]++; asked[what] > 2 { // to pull, and to push
				t.Errorf("asked for a token %d times: %s", asked[what], what)
			}
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
	build := twoCopies(t, host)
	for i, want := range []string{`"hits":0,"misses":2`, `"hits":2,"misses":0`, `"hits":0,"misses":2`} {
		lost.Store(i == 2)
		img := build(want)
		lost.Store(false)
		whole(t, img)
	}
}

// twoCopies prepares a Dockerfile of two steps, whose base and cache are at host. build
// builds it with the cache, for another image each time, fails the test unless the result
// says what is wanted of the cache, and returns the image.
func twoCopies(t *testing.T, host string) (build func(want string) string) {
	t.Helper()
	pushLayers(t, host+"/library/base:1")
	dir := t.TempDir()
	for name, content := range map[string]string{"Dockerfile": "FROM " + host + "/library/base:1\nCOPY file /a\nCOPY file /b\n", "file": "content"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	builds := 0
	return func(want string) string {
		t.Helper()
		dest, result := fmt.Sprintf("%s/app%d:1", host, builds), filepath.Join(t.TempDir(), "result.json")
		builds++
		out, err := exec.Command("executor", "--context", dir, "--cache", "--cache-copy-layers", "--cache-repo", host+"/cache", "--destination", dest, "--result-file", result).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if said, err := os.ReadFile(result); err != nil || !strings.Contains(string(said), `"cache":{`+want+`}`) {
			t.Errorf("%s: %s, want %s, %v", dest, said, want, err)
		}
		return dest
	}
}

// whole fails the test unless all of an image is in its registry.
func whole(t *testing.T, image string) {
	t.Helper()
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err == nil {
		err = validate.Image(img)
	}
	if err != nil {
		t.Errorf("%s: %v", image, err)
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
