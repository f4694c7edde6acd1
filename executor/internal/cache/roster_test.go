package cache

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func digest(t *testing.T, raw []byte) v1.Hash {
	t.Helper()
	h, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// recalled is a cache that has asked for a roster.
func recalled(t *testing.T, host string, opt Options) *Cache {
	t.Helper()
	c := repositoryCache(t, host, opt)
	told := make(chan struct{})
	c.Recall(t.Context(), RosterKey([]byte("FROM scratch")), func() { close(told) })
	<-told
	return c
}

// A build knows by one request what the last one used: entries that it made, and
// documents.
func TestRoster(t *testing.T) {
	host, h := registryServer(t)
	opt := Options{Now: newClock().now}
	config := []byte(`{"os":"linux"}`)
	first := recalled(t, host, opt)
	l := randomLayer(t)
	for k, made := range map[string]v1.Layer{"a": l, "empty": nil} {
		if err := first.Put(t.Context(), key(k), made, Meta{}); err != nil {
			t.Fatal(err)
		}
	}
	first.Note(digest(t, config), config)
	if err := first.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}

	second := recalled(t, host, opt)
	h.set(nil)
	found, check := second.Probe(t.Context(), []Key{key("a"), key("empty"), key("other")})
	if got, _ := found[key("a")].Layer.Digest(); got != mustDigest(t, l) || !found[key("empty")].Empty || found[key("other")].Hit() {
		t.Errorf("found %+v", found)
	}
	asked := strings.Join(h.requests(), "\n")
	if strings.Count(asked, "/manifests/") != 1 || !strings.Contains(asked, "/manifests/"+key("other").String()) {
		t.Errorf("asked\n%s", asked)
	}
	if e := check(nil)()[key("a")]; !e.Hit() {
		t.Errorf("verified %+v", e)
	}
	if got := second.Document(t.Context(), digest(t, config)); !bytes.Equal(got, config) {
		t.Errorf("document %q", got)
	}
	if got := second.Document(t.Context(), digest(t, []byte("x"))); got != nil {
		t.Errorf("document %q", got)
	}

	// It is stored again only if there is another one, and then with one request.
	second.Note(digest(t, config), config)
	h.set(nil)
	if err := second.Keep(t.Context()); err != nil || len(h.requests()) != 0 {
		t.Errorf("%v, %q", err, h.requests())
	}
	if err := second.Put(t.Context(), key("b"), nil, Meta{}); err != nil {
		t.Fatal(err)
	}
	h.set(nil)
	if err := second.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if asked := strings.Join(h.requests(), "\n"); strings.Count(asked, "PUT") != 1 || strings.Contains(asked, "/blobs/") {
		t.Errorf("asked\n%s", asked)
	}
}

func mustDigest(t *testing.T, l v1.Layer) v1.Hash {
	t.Helper()
	d, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// An entry whose layer is gone is asked for anew: another build may have made it
// again.
func TestRosterOld(t *testing.T) {
	host, h := registryServer(t)
	opt := Options{Now: newClock().now}
	old, fresh := randomLayer(t), randomLayer(t)
	first := recalled(t, host, opt)
	for _, k := range []string{"a", "b"} {
		if err := first.Put(t.Context(), key(k), old, Meta{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := repositoryCache(t, host, opt).Put(t.Context(), key("a"), fresh, Meta{}); err != nil {
		t.Fatal(err)
	}
	second := recalled(t, host, opt)
	h.set(func(w http.ResponseWriter, r *http.Request) bool {
		lost := strings.HasSuffix(r.URL.Path, mustDigest(t, old).String())
		if lost {
			w.WriteHeader(http.StatusNotFound)
		}
		return lost
	})
	keys := []Key{key("a"), key("b")}
	found, check := second.Probe(t.Context(), keys)
	verified := check(nil)()
	if e := verified[keys[0]]; e.Same(found[keys[0]]) || !e.Same(Entry{Layer: fresh}) {
		t.Errorf("found %+v, then %+v", found[keys[0]], e)
	}
	if e := verified[keys[1]]; e.Hit() || !found[keys[1]].Hit() {
		t.Errorf("found %+v, then %+v", found[keys[1]], e)
	}
	if err := second.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What was deleted from the cache, or replaced, is not used because the last build used
// it, though its layer may be there; nor is it said to be old where another build has
// stored it again.
func TestRosterIsNotTheCache(t *testing.T) {
	host, h := registryServer(t)
	clock := newClock()
	opt := Options{Now: clock.now, TTL: time.Hour}
	old, fresh := randomLayer(t), randomLayer(t)
	first := recalled(t, host, opt)
	keys := []Key{key("kept"), key("deleted"), key("replaced"), key("empty"), key("refreshed")}
	put := func(c *Cache, k Key, l v1.Layer) {
		t.Helper()
		if err := c.Put(t.Context(), k, l, Meta{}); err != nil {
			t.Fatal(err)
		}
	}
	put(first, key("refreshed"), old)
	clock.advance(50 * time.Minute)
	for _, k := range keys[:3] {
		put(first, k, old)
	}
	put(first, key("empty"), nil)
	if err := first.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock.advance(50 * time.Minute)
	other := repositoryCache(t, host, opt)
	put(other, key("replaced"), fresh)
	put(other, key("refreshed"), fresh)
	deleted := map[string]bool{key("deleted").String(): true, key("empty").String(): true}
	h.set(func(w http.ResponseWriter, r *http.Request) bool {
		_, tag, _ := strings.Cut(r.URL.Path, "/manifests/")
		if deleted[tag] {
			http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
		}
		return deleted[tag]
	})
	second := recalled(t, host, opt)
	// Where a layer is already does not matter.
	for name, there := range map[string]func(Key, v1.Layer) bool{"looked for": nil, "there": func(Key, v1.Layer) bool { return true }} {
		found, check := second.Probe(t.Context(), keys)
		verified := check(there)()
		for k, want := range map[string]Entry{"kept": {Layer: old}, "deleted": {}, "replaced": {Layer: fresh}, "empty": {}, "refreshed": {Layer: fresh}} {
			if e := verified[key(k)]; !e.Same(want) {
				t.Errorf("%s: %s: found %+v, verified %+v", name, k, found[key(k)], e)
			}
		}
	}
	// The next build knows what the cache has.
	if err := second.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := recalled(t, host, opt)
	h.set(nil)
	found, _ := third.Probe(t.Context(), []Key{key("kept"), key("replaced"), key("refreshed")})
	if asked := h.requests(); len(asked) != 0 || !found[key("replaced")].Same(Entry{Layer: fresh}) {
		t.Errorf("found %+v, asked %q", found, asked)
	}
}

// A registry that does not answer whether it has what the roster says says nothing.
func TestRosterCannotBeAsked(t *testing.T) {
	host, h := registryServer(t)
	opt := Options{Now: newClock().now}
	first := recalled(t, host, opt)
	if err := first.Put(t.Context(), key("a"), randomLayer(t), Meta{}); err != nil {
		t.Fatal(err)
	}
	if err := first.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := recalled(t, host, opt)
	h.set(func(w http.ResponseWriter, r *http.Request) bool {
		refused := r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/")
		if refused {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
		return refused
	})
	if _, check := second.Probe(t.Context(), []Key{key("a")}); !check(nil)()[key("a")].Hit() {
		t.Error("it is a miss")
	}
}

// What there knows to be where it is needed is not looked for in the cache.
func TestProbeThere(t *testing.T) {
	host, h := registryServer(t)
	c := repositoryCache(t, host, Options{Now: newClock().now})
	for _, k := range []string{"a", "b"} {
		if err := c.Put(t.Context(), key(k), randomLayer(t), Meta{}); err != nil {
			t.Fatal(err)
		}
	}
	_, check := c.Probe(t.Context(), []Key{key("a"), key("b")})
	h.set(nil)
	verified := check(func(k Key, _ v1.Layer) bool { return k == key("a") })()
	if !verified[key("a")].Hit() || !verified[key("b")].Hit() {
		t.Errorf("verified %+v", verified)
	}
	if asked := h.requests(); len(asked) != 1 {
		t.Errorf("asked %q", asked)
	}
}

// A roster that is of no use is none, and one that no registry would take is not
// sent.
func TestRosterBroken(t *testing.T) {
	host, _ := registryServer(t)
	var said bytes.Buffer
	opt := Options{Now: newClock().now, Log: warnings(&said)}
	c := recalled(t, host, opt)
	if said.Len() > 0 {
		t.Errorf("said %q where there is none", said.String())
	}
	img, err := entryImage(c.roster.key, nil, Meta{}, opt.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.store.put(t.Context(), c.roster.key, mutate.Annotations(img, map[string]string{annotationRoster: "%"}).(v1.Image)); err != nil {
		t.Fatal(err)
	}
	c = recalled(t, host, opt)
	if !strings.Contains(said.String(), "read roster") {
		t.Errorf("said %q", said.String())
	}
	if err := c.Put(t.Context(), key("a"), nil, Meta{}); err != nil {
		t.Fatal(err)
	}
	large := make([]byte, maxRoster)
	_, _ = rand.Read(large)
	c.Note(digest(t, large), large)
	if err := c.Keep(t.Context()); !errors.Is(err, errRosterSize) {
		t.Errorf("error = %v", err)
	}
}

// In a directory, or where nobody asked, there is no roster.
func TestRosterNone(t *testing.T) {
	c := NewDir(t.TempDir(), Options{Now: newClock().now})
	called := false
	c.Recall(t.Context(), RosterKey(), func() { called = true })
	c.Note(v1.Hash{}, nil)
	if c.Document(t.Context(), v1.Hash{}) != nil || c.Keep(t.Context()) != nil || !called {
		t.Error("a directory has a roster")
	}
}

// Whatever a manifest holds as a roster, it is read or refused.
func FuzzParseRoster(f *testing.F) {
	k := RosterKey()
	r := &roster{key: k, have: newRosterContent()}
	r.have.Entries[key("a").String()] = []byte("{}")
	img, err := r.image(Options{Now: newClock().now})
	if err != nil {
		f.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		f.Fatal(err)
	}
	good, err := base64.StdEncoding.DecodeString(m.Annotations[annotationRoster])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		raw, err := mutate.Annotations(img, map[string]string{annotationRoster: base64.StdEncoding.EncodeToString(packed)}).(v1.Image).RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		c, err := parseRoster(raw, k)
		if err != nil && len(c.Entries)+len(c.Documents) > 0 {
			t.Error("what is refused is used")
		}
	})
}
