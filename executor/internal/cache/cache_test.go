package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// clock is a clock that tests move.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// hooks let a test answer for the registry.
type hooks struct {
	mu   sync.Mutex
	hook func(http.ResponseWriter, *http.Request) bool
	log  []string
}

func (h *hooks) set(f func(http.ResponseWriter, *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hook, h.log = f, nil
}

func (h *hooks) requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.log...)
}

// registryServer serves an empty registry.
func registryServer(t *testing.T) (string, *hooks) {
	t.Helper()
	reg, h := fake.New(fake.Logger(log.New(io.Discard, "", 0))), &hooks{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.log = append(h.log, r.Method+" "+r.URL.Path)
		hook := h.hook
		h.mu.Unlock()
		if hook == nil || !hook(w, r) {
			reg.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), h
}

func repositoryCache(t *testing.T, host string, opt Options) *Cache {
	t.Helper()
	repo, err := name.NewRepository(host + "/cache")
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewRepository(repo, []remote.Option{remote.WithRetryBackoff(remote.Backoff{Duration: time.Millisecond, Steps: 2})}, opt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stores returns a constructor of each kind of cache, for what all must do.
func stores() map[string]func(*testing.T, Options) *Cache {
	return map[string]func(*testing.T, Options) *Cache{
		"repository": func(t *testing.T, opt Options) *Cache {
			host, _ := registryServer(t)
			return repositoryCache(t, host, opt)
		},
		"directory": func(t *testing.T, opt Options) *Cache {
			return NewDir(filepath.Join(t.TempDir(), "deep", "cache"), opt)
		},
	}
}

func forStores(t *testing.T, ttl time.Duration, do func(t *testing.T, c *Cache, clk *clock)) {
	t.Helper()
	for name, open := range stores() {
		t.Run(name, func(t *testing.T) {
			clk := newClock()
			do(t, open(t, Options{Now: clk.now, TTL: ttl}), clk)
		})
	}
}

func randomLayer(t *testing.T) v1.Layer {
	t.Helper()
	l, err := random.Layer(5000, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func key(s string) Key { return NewKey([]byte(s)) }

// What was put is got, as it was; what was not is a miss with a reason.
func TestPutGet(t *testing.T) {
	forStores(t, 0, func(t *testing.T, c *Cache, clk *clock) {
		l := randomLayer(t)
		if err := c.Put(t.Context(), key("a"), l, Meta{CreatedBy: "RUN make"}); err != nil {
			t.Fatal(err)
		}
		if err := c.Put(t.Context(), key("empty"), nil, Meta{}); err != nil {
			t.Fatal(err)
		}
		made := clk.now()
		clk.advance(1000 * time.Hour)
		e, reason, err := c.Get(t.Context(), key("a"))
		if err != nil || reason != "" || !e.Hit() || e.Empty || e.Miss != "" || !e.Created.Equal(made) {
			t.Fatalf("%+v, %q, %v", e, reason, err)
		}
		if err := validate.Layer(e.Layer); err != nil {
			t.Error(err)
		}
		want, _ := l.Digest()
		wantDiff, _ := l.DiffID()
		if got, _ := e.Layer.Digest(); got != want {
			t.Errorf("digest = %s, want %s", got, want)
		}
		if got, _ := e.Layer.DiffID(); got != wantDiff {
			t.Errorf("diff id = %s, want %s", got, wantDiff)
		}
		if mt, _ := e.Layer.MediaType(); mt != types.OCILayer {
			t.Errorf("media type %s", mt)
		}
		if ok, err := e.Layer.(interface{ Exists() (bool, error) }).Exists(); !ok || err != nil {
			t.Errorf("Exists = %v, %v", ok, err)
		}
		e, _, err = c.Get(t.Context(), key("empty"))
		if err != nil || !e.Hit() || !e.Empty || e.Layer != nil {
			t.Errorf("empty: %+v, %v", e, err)
		}
		e, reason, err = c.Get(t.Context(), key("none"))
		if err != nil || e.Hit() || reason != "no entry" || e.Miss != reason {
			t.Errorf("none: %+v, %q, %v", e, reason, err)
		}
	})
}

// The last put wins, also over an empty entry.
func TestPutReplaces(t *testing.T) {
	forStores(t, 0, func(t *testing.T, c *Cache, clk *clock) {
		first, second := randomLayer(t), randomLayer(t)
		for _, l := range []v1.Layer{first, nil, second, second} {
			clk.advance(time.Second)
			if err := c.Put(t.Context(), key("a"), l, Meta{}); err != nil {
				t.Fatal(err)
			}
		}
		e, _, err := c.Get(t.Context(), key("a"))
		if err != nil || e.Layer == nil || !e.Created.Equal(clk.now()) {
			t.Fatalf("%+v, %v", e, err)
		}
		want, _ := second.Digest()
		if got, _ := e.Layer.Digest(); got != want {
			t.Errorf("digest = %s, want %s", got, want)
		}
	})
}

// Entries are good for as long as the TTL says.
func TestTTL(t *testing.T) {
	forStores(t, time.Hour, func(t *testing.T, c *Cache, clk *clock) {
		if err := c.Put(t.Context(), key("a"), randomLayer(t), Meta{}); err != nil {
			t.Fatal(err)
		}
		clk.advance(time.Hour)
		if e, reason, _ := c.Get(t.Context(), key("a")); !e.Hit() {
			t.Errorf("after one hour: %s", reason)
		}
		clk.advance(time.Minute)
		if _, reason, _ := c.Get(t.Context(), key("a")); reason != "expired: made 1h1m0s ago, entries are good for 1h0m0s" {
			t.Errorf("reason = %q", reason)
		}
	})
}

// Many keys are looked up at once, hits and misses; a done context is a miss
// for all of them but an error of Get.
func TestProbe(t *testing.T) {
	forStores(t, 0, func(t *testing.T, c *Cache, _ *clock) {
		var keys []Key
		for i := range 40 {
			keys = append(keys, key(fmt.Sprint(i)))
			if i%4 == 0 {
				if err := c.Put(t.Context(), keys[i], randomLayer(t), Meta{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		var seen atomic.Int32
		found, check := c.Probe(t.Context(), append(keys, keys[0]))
		got := check(func(Key, v1.Layer) bool { seen.Add(1); return false })()
		if !maps.EqualFunc(found, got, func(a, b Entry) bool { return a.Hit() == b.Hit() }) {
			t.Error("other entries were found than there are")
		}
		if seen.Load() != 11 {
			t.Errorf("%d layers seen", seen.Load())
		}
		for i, k := range keys {
			if e, ok := got[k]; !ok || e.Hit() != (i%4 == 0) || e.Hit() == (e.Miss != "") {
				t.Errorf("key %d: %+v", i, e)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("superseded"))
		_, cancelled := c.Probe(ctx, keys)
		for _, e := range cancelled(nil)() {
			if e.Hit() || e.Miss != "superseded" {
				t.Errorf("cancelled: %+v", e)
			}
		}
		if _, _, err := c.Get(ctx, keys[0]); err == nil || err.Error() != "superseded" {
			t.Errorf("cancelled: %v", err)
		}
		if err := c.Put(ctx, keys[0], randomLayer(t), Meta{}); err == nil || err.Error() != "superseded" {
			t.Errorf("cancelled: %v", err)
		}
		if found, check := c.Probe(t.Context(), nil); len(found) != 0 || len(check(nil)()) != 0 {
			t.Errorf("%d entries for no keys", len(found))
		}
	})
}

// Builds that store the same key at once do not disturb each other.
func TestConcurrentPut(t *testing.T) {
	forStores(t, 0, func(t *testing.T, c *Cache, _ *clock) {
		var wg sync.WaitGroup
		for range 8 {
			l := randomLayer(t)
			wg.Go(func() {
				if err := c.Put(t.Context(), key("a"), l, Meta{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		e, reason, err := c.Get(t.Context(), key("a"))
		if err != nil || !e.Hit() {
			t.Fatalf("%q, %v", reason, err)
		}
		if err := validate.Layer(e.Layer); err != nil {
			t.Error(err)
		}
	})
}

// A layer that has not been made yet cannot be stored.
func TestPutUnmade(t *testing.T) {
	forStores(t, 0, func(t *testing.T, c *Cache, _ *clock) {
		l := stream.NewLayer(io.NopCloser(strings.NewReader("x")))
		if err := c.Put(t.Context(), key("a"), l, Meta{}); !errors.Is(err, stream.ErrNotComputed) || !strings.HasPrefix(err.Error(), "store cache entry "+key("a").String()) {
			t.Errorf("error = %v", err)
		}
	})
}

func warnings(b *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// A directory that was tampered with is a miss with a warning that says what
// is wrong, or an error while the layer is read; storing again repairs it.
func TestDirDamage(t *testing.T) {
	var b bytes.Buffer
	clk := newClock()
	path := t.TempDir()
	c := NewDir(path, Options{Now: clk.now, Log: warnings(&b)})
	l := randomLayer(t)
	digest, _ := l.Digest()
	entry := filepath.Join(path, key("a").String())
	blob := filepath.Join(entry, "blobs/sha256", digest.Hex)
	manifest := func() string {
		var index v1.IndexManifest
		raw, _ := os.ReadFile(filepath.Join(entry, "index.json"))
		if err := json.Unmarshal(raw, &index); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(entry, "blobs/sha256", index.Manifests[0].Digest.Hex)
	}
	overwrite := func(path, content string) {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for want, damage := range map[string]func(){
		"its index is not valid":                func() { overwrite(filepath.Join(entry, "index.json"), "{") },
		"no such file or directory":             func() { _ = os.Remove(manifest()) },
		"its manifest does not have the digest": func() { overwrite(manifest(), "{}") },
		"the entry's layer is gone":             func() { _ = os.Remove(blob) },
		"its layer does not have the size":      func() { overwrite(blob, "short") },
		"is larger than 4194304 bytes":          func() { overwrite(manifest(), strings.Repeat(" ", maxDocument+1)) },
	} {
		b.Reset()
		if err := c.Put(t.Context(), key("a"), l, Meta{}); err != nil {
			t.Fatal(err)
		}
		damage()
		e, reason, err := c.Get(t.Context(), key("a"))
		if err != nil || e.Hit() || !strings.Contains(reason, want) || !strings.Contains(b.String(), want) {
			t.Errorf("%s: %+v, %q, %v; log %s", want, e, reason, err, b.String())
		}
	}
	if err := c.Put(t.Context(), key("a"), l, Meta{}); err != nil {
		t.Fatal(err)
	}
	size, _ := l.Size()
	overwrite(blob, strings.Repeat("x", int(size)))
	e, reason, err := c.Get(t.Context(), key("a"))
	if err != nil || !e.Hit() {
		t.Fatalf("%q, %v", reason, err)
	}
	rc, err := e.Layer.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(rc); err == nil || !strings.Contains(err.Error(), "cached layer is corrupt") {
		t.Errorf("error = %v", err)
	}
	_ = rc.Close()
	if left, _ := filepath.Glob(filepath.Join(path, ".new-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A layer that does not unpack to what the entry says is an error at its end.
func TestDiffIDIsVerified(t *testing.T) {
	l := randomLayer(t)
	digest, _ := l.Digest()
	size, _ := l.Size()
	bad := &layer{desc: v1.Descriptor{Digest: digest, Size: size, MediaType: types.OCILayer}, diffID: digest, open: l.Compressed}
	rc, err := bad.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.ReadAll(rc); err == nil || !strings.Contains(err.Error(), "cached layer is corrupt") {
		t.Errorf("error = %v", err)
	}
}

// An entry of a directory is an OCI image layout that other tools can read.
func TestDirIsLayout(t *testing.T) {
	path := t.TempDir()
	c := NewDir(path, Options{Now: newClock().now})
	if err := c.Put(t.Context(), key("a"), randomLayer(t), Meta{CreatedBy: "RUN x", Platform: v1.Platform{OS: "linux", Architecture: "arm64"}}); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(path, key("a").String()))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := index.IndexManifest()
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	cf, _ := img.ConfigFile()
	if cf.Architecture != "arm64" || cf.History[0].CreatedBy != "RUN x" {
		t.Errorf("config = %+v", cf)
	}
}

// A directory that cannot be written to is an error of Put and a miss.
func TestDirBroken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	c := NewDir(file, Options{Now: newClock().now, Log: warnings(&b)})
	if err := c.Put(t.Context(), key("a"), nil, Meta{}); err == nil {
		t.Error("no error")
	}
	for range 5 {
		if e, reason, err := c.Get(t.Context(), key("a")); err != nil || e.Hit() || reason == "" {
			t.Errorf("%+v, %q, %v", e, reason, err)
		}
	}
	if n := strings.Count(b.String(), "cache is not used any more"); n != 1 {
		t.Errorf("it was said %d times that the cache is given up:\n%s", n, b.String())
	}
	if err := c.Put(t.Context(), key("a"), nil, Meta{}); err != nil {
		t.Errorf("a cache that was given up still fails: %v", err)
	}
}

// A hit in a registry takes two requests, moves no layer, and the layer can be
// mounted.
func TestRepositoryIsCheap(t *testing.T) {
	host, h := registryServer(t)
	c := repositoryCache(t, host, Options{Now: newClock().now})
	if err := c.Put(t.Context(), key("a"), randomLayer(t), Meta{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Get(t.Context(), key("warm up")); err != nil {
		t.Fatal(err)
	}
	h.set(nil)
	e, _, err := c.Get(t.Context(), key("a"))
	if err != nil || !e.Hit() {
		t.Fatal(err)
	}
	got := h.requests()
	if len(got) != 2 || got[0] != "GET /v2/cache/manifests/"+key("a").String() || !strings.HasPrefix(got[1], "HEAD /v2/cache/blobs/") {
		t.Errorf("requests: %q", got)
	}
	if m, ok := e.Layer.(*remote.MountableLayer); !ok || m.Reference.Context().Name() != host+"/cache" {
		t.Errorf("%T cannot be mounted", e.Layer)
	}
}

// Whatever a registry answers is a miss that says why, and no error.
func TestRepositoryFails(t *testing.T) {
	host, h := registryServer(t)
	foreign, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	repo, _ := name.NewRepository(host + "/cache")
	if err := remote.Write(repo.Tag(key("foreign").String()), foreign); err != nil {
		t.Fatal(err)
	}
	status := func(code int, part string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, part) {
				return false
			}
			w.WriteHeader(code)
			return true
		}
	}
	for name, tc := range map[string]struct {
		key  string
		hook func(http.ResponseWriter, *http.Request) bool
		want string
		warn int // warnings after two look-ups
	}{
		"forbidden":      {"a", status(403, "/manifests/"), "the registry does not let us read " + host + "/cache", 1},
		"layer is gone":  {"a", status(404, "/blobs/"), "the entry's layer is gone", 2},
		"blob forbidden": {"a", status(403, "/blobs/"), "look for layer in cache repository", 2},
		"not ours":       {"foreign", nil, "what is there was not written by Kiln", 2},
		"garbage": {"a", func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			_, _ = io.WriteString(w, "<html>")
			return true
		}, "its manifest is not valid JSON", 2},
		"down": {"a", status(500, "/manifests/"), "read cache repository", 2},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			c := repositoryCache(t, host, Options{Now: newClock().now, Log: warnings(&b)})
			h.set(nil)
			if err := c.Put(t.Context(), key("a"), randomLayer(t), Meta{}); err != nil {
				t.Fatal(err)
			}
			h.set(tc.hook)
			for range 2 {
				e, reason, err := c.Get(t.Context(), key(tc.key))
				if err != nil || e.Hit() || !strings.Contains(reason, tc.want) {
					t.Errorf("%+v, %q, %v; want %q", e, reason, err, tc.want)
				}
			}
			if n := strings.Count(b.String(), "cache entry cannot be used"); n != tc.warn {
				t.Errorf("%d warnings, want %d:\n%s", n, tc.warn, b.String())
			}
		})
	}
}

// A registry that is gone is left alone after a few tries.
func TestRepositoryGone(t *testing.T) {
	host, h := registryServer(t)
	c := repositoryCache(t, host, Options{Now: newClock().now, Parallel: 1})
	h.set(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	var keys []Key
	for i := range 50 {
		keys = append(keys, key(fmt.Sprint(i)))
	}
	_, check := c.Probe(t.Context(), keys)
	for k, e := range check(nil)() {
		if e.Hit() || e.Miss == "" {
			t.Errorf("%s: %+v", k, e)
		}
	}
	if n := len(h.requests()); n > 30 {
		t.Errorf("%d requests to a registry that is down", n)
	}
}

// Keys depend on every part, their order and their borders, and on nothing
// else.
func TestKeys(t *testing.T) {
	seen := map[Key]string{}
	b := func(parts ...string) [][]byte {
		var out [][]byte
		for _, p := range parts {
			out = append(out, []byte(p))
		}
		return out
	}
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"ab"}, {"a", "b"}, {"b", "a"}, {"ab", ""}, {"", "ab"}, {"a\x00b"}} {
		for prefix, k := range map[string]Key{"new": NewKey(b(parts...)...), "derived": NewKey().Derive(b(parts...)...)} {
			s := fmt.Sprintf("%s %q", prefix, parts)
			if other, dup := seen[k]; dup {
				t.Errorf("%s and %s have the same key", s, other)
			}
			seen[k] = s
		}
	}
	k := NewKey([]byte("x"))
	if k != NewKey([]byte("x")) || k.Derive() == k {
		t.Error("keys are not a function of their parts")
	}
	if got, err := ParseKey(k.String()); err != nil || got != k {
		t.Errorf("ParseKey = %s, %v", got, err)
	}
	for _, s := range []string{"", "00", strings.ToUpper(k.String()), k.String() + "00", strings.Repeat("g", 64)} {
		if _, err := ParseKey(s); err == nil {
			t.Errorf("%q is a key", s)
		}
	}
	// Fixed for ever: another value would lose every cache there is.
	if got := NewKey([]byte("vector")).Derive([]byte("a"), []byte("bc")).String(); got != "08bd1c0ad50adf7f3aff117cc190cc194e2312f53db346137b4068df341c9c52" {
		t.Errorf("vector = %s", got)
	}
}

func FuzzParseManifest(f *testing.F) {
	img, err := entryImage(key("a"), nil, Meta{}, newClock().now())
	if err != nil {
		f.Fatal(err)
	}
	raw, _ := img.RawManifest()
	f.Add(raw)
	f.Add([]byte(`{"layers":[{}],"annotations":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parseManifest(raw, key("a"))
		if err != nil {
			if !errors.As(err, new(*badEntryError)) {
				t.Errorf("error = %v", err)
			}
			return
		}
		if !isSHA256(d.layer.Digest) || !isSHA256(d.diffID) || d.layer.Size < 0 {
			t.Errorf("%+v", d)
		}
	})
}
