package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// lfsStore serves large files by the API of Git LFS, from a host of its own.
type lfsStore struct {
	mu      sync.Mutex
	objects map[string]string // by digest
	storage string            // where downloads are; "" here
	header  map[string]string // that a download must bring
	auth    []string          // the Authorization of each request
	batches int
	refuse  string // an object's error
}

func (s *lfsStore) put(content string) (pointerText string) {
	oid := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	s.objects[oid] = content
	return fmt.Sprintf("%soid sha256:%s\nsize %d\n", lfsHeader, oid, len(content))
}

func (s *lfsStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = append(s.auth, r.Header.Get("Authorization"))
	if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/objects/batch") {
		s.batch(w, r)
		return
	}
	for k, v := range s.header {
		if r.Header.Get(k) != v {
			w.WriteHeader(http.StatusForbidden)
			return
		}
	}
	content, ok := s.objects[filepath.Base(r.URL.Path)]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write([]byte(content))
}

func (s *lfsStore) batch(w http.ResponseWriter, r *http.Request) {
	s.batches++
	var ask struct {
		Operation string
		Objects   []struct {
			OID  string `json:"oid"`
			Size int64  `json:"size"`
		}
	}
	if json.NewDecoder(r.Body).Decode(&ask) != nil || ask.Operation != "download" || len(ask.Objects) > lfsBatch ||
		r.Header.Get("Accept") != lfsType || r.Header.Get("Content-Type") != lfsType {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	base := s.storage
	if base == "" {
		base = "http://" + r.Host + strings.TrimSuffix(r.URL.Path, "/objects/batch")
	}
	var objects []map[string]any
	for _, o := range ask.Objects {
		one := map[string]any{"oid": o.OID, "size": o.Size, "actions": map[string]any{"download": map[string]any{"href": base + "/get/" + o.OID, "header": s.header}}}
		if s.refuse != "" {
			one = map[string]any{"oid": o.OID, "error": map[string]any{"code": 404, "message": s.refuse}}
		}
		objects = append(objects, one)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": objects})
}

// Files in Git LFS are the files themselves, also in submodules; credentials go
// to the repository's own host, and what the server gives for a download with
// that one alone.
func TestGitLFS(t *testing.T) {
	g := newGitServer(t)
	store := &lfsStore{objects: map[string]string{}, header: map[string]string{"X-Download": "signed"}}
	bucket := &lfsStore{objects: store.objects, header: store.header}
	away := httptest.NewServer(bucket)
	defer away.Close()
	g.lfs = store
	big := strings.Repeat("large file ", 100000)
	text := store.put(big)
	files := map[string]string{"f": "x", "d/big.bin": text, "copy.bin": text, "empty.bin": store.put(""), "like.txt": lfsHeader + "but not one\n"}
	for i := range 130 {
		files[fmt.Sprintf("many/%d", i)] = store.put(fmt.Sprint("number ", i))
	}
	g.repo("r.git", files)
	if err := os.Chmod(filepath.Join(g.root, "r.git", "copy.bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.commit("r.git", nil)
	g.user = "me"
	for _, storage := range []string{"", away.URL + "/lfs"} {
		store.storage, store.auth, store.batches = storage, nil, 0
		opt := g.options()
		opt.GitToken = "me"
		c, err := Fetch(t.Context(), g.url+"/r.git", opt)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"d/big.bin": big, "copy.bin": big, "empty.bin": "", "many/129": "number 129", "f": "x", "like.txt": lfsHeader + "but not one\n"} {
			if b, err := os.ReadFile(filepath.Join(c.Dir, name)); err != nil || string(b) != want {
				t.Errorf("%s: %d bytes, %v; want %d", name, len(b), err, len(want))
			}
		}
		if got := list(t, c.Dir); !strings.Contains(got, "-rwxr-xr-x copy.bin") || strings.Contains(got, "oid sha256") {
			t.Errorf("files:\n%.500s", got)
		}
		if store.batches != 2 {
			t.Errorf("%d batches for 132 objects", store.batches)
		}
		if len(store.auth)+len(bucket.auth) != 2+133 || storage != "" && len(bucket.auth) != 133 {
			t.Errorf("%d requests here and %d there", len(store.auth), len(bucket.auth))
		}
		if slices.Contains(store.auth, "") {
			t.Error("a request to the repository's host had no credentials")
		}
		if slices.ContainsFunc(bucket.auth, func(a string) bool { return a != "" }) {
			t.Error("another host was given credentials")
		}
		_ = c.Close()
	}
}

// A redirect takes neither the credentials nor what the server gave for its own
// download to another host.
func TestGitLFSRedirect(t *testing.T) {
	g := newGitServer(t)
	var leaked []string
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if !slices.Contains([]string{"User-Agent", "Accept-Encoding", "Referer"}, name) {
				leaked = append(leaked, name)
			}
		}
		_, _ = w.Write([]byte("large"))
	}))
	defer evil.Close()
	store := &lfsStore{objects: map[string]string{}, header: map[string]string{"Authorization": "Bearer download", "X-Signature": "s"}}
	g.lfs = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			http.Redirect(w, r, evil.URL+"/x", http.StatusFound)
			return
		}
		store.ServeHTTP(w, r)
	})
	g.repo("r.git", map[string]string{"f": store.put("large")})
	got, _, err := g.content("/r.git", g.options())
	if err != nil || got != "large" || len(leaked) > 0 {
		t.Errorf("%q, %v; leaked %v", got, err, leaked)
	}
}

// A pointer is never delivered in silence: what cannot be fetched is an error
// that names the file and says what to do.
func TestGitLFSErrors(t *testing.T) {
	g := newGitServer(t)
	store := &lfsStore{objects: map[string]string{}}
	text := store.put("content")
	g.repo("r.git", map[string]string{"f": "x", "data.bin": text})
	g.repo("config.git", map[string]string{"f": "x", "data.bin": text, ".lfsconfig": "[lfs]\n\turl = file:///etc\n"})
	for name, tc := range map[string]struct {
		repo string
		do   func(opt *Options)
		want string
	}{
		"no LFS":  {"r", func(*Options) { g.lfs = nil }, `1 files, "data.bin" for one, are kept in Git LFS and cannot be fetched (set GIT_LFS_SKIP_SMUDGE=1 to build with the pointers to them): ask 127.0.0.1:`},
		"refused": {"r", func(*Options) { store.refuse = "gone for ever" }, "answered 404 gone for ever"},
		"other": {"r", func(*Options) {
			clear(store.objects)
			store.objects[fmt.Sprintf("%x", sha256.Sum256([]byte("content")))] = "CONTENT"
		}, "is something else: 7 bytes with SHA-256"},
		"long":      {"r", func(*Options) { store.objects[fmt.Sprintf("%x", sha256.Sum256([]byte("content")))] = "content!" }, "is something else: 8 bytes"},
		"missing":   {"r", func(*Options) { clear(store.objects) }, `"data.bin": download object`},
		"config":    {"config", func(*Options) {}, "the lfs.url in .lfsconfig is not an https:// URL"},
		"too large": {"r", func(o *Options) { o.Limits.Bytes = 150 }, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			store.objects, store.refuse, g.lfs = map[string]string{}, "", store
			store.put("content")
			opt := g.options()
			tc.do(&opt)
			_, _, err := g.content("/"+tc.repo+".git", opt)
			if name == "too large" && err == nil {
				t.Skip("the pack alone is larger")
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want %q", err, tc.want)
			}
		})
	}
	g.lfs = nil
	var b bytes.Buffer
	opt := g.options()
	opt.GitSkipLFS, opt.Log = true, slog.New(slog.NewTextHandler(&b, nil))
	c, err := Fetch(t.Context(), g.url+"/r.git", opt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, _ := os.ReadFile(filepath.Join(c.Dir, "data.bin")); string(got) != text || !strings.Contains(b.String(), "files=1 first=data.bin") {
		t.Errorf("data.bin = %q, log = %s", got, b.String())
	}
}

// Only what Git LFS itself takes for a pointer is one.
func TestParsePointer(t *testing.T) {
	oid := strings.Repeat("ab", 32)
	for text, want := range map[string]int64{
		lfsHeader + "oid sha256:" + oid + "\nsize 12\n":                            12,
		lfsHeader + "ext-0-x sha256:1\noid sha256:" + oid + "\nsize 3\n":           3,
		lfsHeader + "oid sha256:" + oid + "\n":                                     -1,
		lfsHeader + "oid sha256:00\nsize 1\n":                                      -1,
		lfsHeader + "oid sha256:" + oid + "\nsize -1\n":                            -1,
		" " + lfsHeader + "oid sha256:" + oid + "\nsize 1\n":                       -1,
		lfsHeader + "oid sha256:" + oid + "\nsize 1\n" + strings.Repeat("x", 1000): -1,
		"": -1,
	} {
		p, ok := parsePointer([]byte(text))
		if ok != (want >= 0) || ok && (p.size != want || p.oid != oid) {
			t.Errorf("%q: %+v, %v", text, p, ok)
		}
	}
}
