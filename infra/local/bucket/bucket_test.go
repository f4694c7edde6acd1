package bucket

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
)

// hook records announcements and refuses them while err is set.
type hook struct {
	mu   sync.Mutex
	err  error
	seen []events.Change
}

func (h *hook) on(_ context.Context, c events.Change) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.seen = append(h.seen, c)
	}
	return h.err
}

func (h *hook) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func (h *hook) changes() []events.Change {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]events.Change(nil), h.seen...)
}

func open(t *testing.T, dir string, h *hook, maxSize int64) *Store {
	t.Helper()
	s, err := Open(dir, Options{OnObject: h.on, Now: time.Now, MaxObject: maxSize})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func do(t *testing.T, method, url string, body io.Reader, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

// files lists the regular files of a store by their path below it.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A put through the plain door is a generation, announced once, readable as a
// whole, in part and by generation, and all of it survives a restart.
func TestPlainDoor(t *testing.T) {
	dir, h := t.TempDir(), &hook{}
	url := serve(t, open(t, dir, h, 0).Handler("/contexts/")) + "/contexts/"
	status, _, body := do(t, "PUT", url+"team/äpp.tar.gz", strings.NewReader("first"), "Content-Type", "application/gzip", "X-Kiln-Meta-Branch", "main")
	var first Object
	if err := json.Unmarshal([]byte(body), &first); err != nil || status != 201 {
		t.Fatalf("%d %s %v", status, body, err)
	}
	status, _, _ = do(t, "PUT", url+"team/äpp.tar.gz", io.MultiReader(strings.NewReader("sec"), strings.NewReader("ond"))) // chunked
	if status != 201 {
		t.Fatalf("status %d", status)
	}
	got := h.changes()
	if len(got) != 2 {
		t.Fatalf("announced %d changes", len(got))
	}
	want := events.Change{Kind: "object", Location: "kiln://contexts", Name: "team/äpp.tar.gz", Generation: first.Generation, Size: 5, ContentType: "application/gzip"}
	c := got[0]
	if c.Kind != want.Kind || c.Location != want.Location || c.Name != want.Name || c.Generation != want.Generation || c.Size != want.Size ||
		c.ContentType != want.ContentType || c.Metadata["branch"] != "main" || c.Validate() != nil {
		t.Errorf("change %+v, want %+v", c, want)
	}
	if got[1].Generation <= c.Generation {
		t.Errorf("generation %s does not come after %s", got[1].Generation, c.Generation)
	}

	url = serve(t, open(t, dir, h, 0).Handler("/contexts/")) + "/contexts/"
	if status, _, body := do(t, "GET", url+"team/äpp.tar.gz", nil); status != 200 || body != "second" {
		t.Errorf("newest: %d %q", status, body)
	}
	if status, hd, body := do(t, "GET", url+"team/äpp.tar.gz?generation="+first.Generation, nil); status != 200 || body != "first" || hd.Get("X-Kiln-Meta-Branch") != "main" {
		t.Errorf("first generation: %d %q %v", status, body, hd)
	}
	if status, hd, body := do(t, "GET", url+"team/äpp.tar.gz", nil, "Range", "bytes=1-2"); status != 206 || body != "ec" || hd.Get("Content-Range") != "bytes 1-2/6" {
		t.Errorf("range: %d %q %v", status, body, hd)
	}
	if status, _, _ := do(t, "DELETE", url+"team/äpp.tar.gz", nil); status != 204 {
		t.Errorf("delete: %d", status)
	}
	if status, _, _ := do(t, "GET", url+"team/äpp.tar.gz", nil); status != 404 {
		t.Errorf("after delete: %d", status)
	}
	if len(h.changes()) != 2 {
		t.Errorf("a delete or a restart announced something: %v", h.changes())
	}
}

// Every refusal has its status and says what to do, nothing is left of a
// refused upload, and nothing is announced.
func TestPlainDoorRefuses(t *testing.T) {
	dir, h := t.TempDir(), &hook{}
	s := open(t, dir, h, 10)
	url := serve(t, s.Handler("/contexts/")) + "/contexts/"
	other := base64.StdEncoding.EncodeToString(md5.New().Sum(nil))
	for _, tc := range []struct {
		name, method, path, body, header, value string
		status                                  int
		text                                    string
	}{
		{"empty", "PUT", "a", "", "", "", 400, "0 bytes|empty"},
		{"too large", "PUT", "a", "12345678901", "", "", 413, "at most 10 bytes"},
		{"no name", "PUT", "", "x", "", "", 400, "needs a name"},
		{"dot dot", "PUT", "a/%2e%2e/b", "x", "", "", 400, `component ".."`},
		{"control", "PUT", "a%00b", "x", "", "", 400, "control characters"},
		{"not text", "PUT", "a%ffb", "x", "", "", 400, "UTF-8"},
		{"long name", "PUT", strings.Repeat("n", 1025), "x", "", "", 400, "1024"},
		{"wrong checksum", "PUT", "a", "x", "Content-MD5", other, 400, "checksum"},
		{"no checksum", "PUT", "a", "x", "Content-MD5", "??", 400, "base64"},
		{"method", "POST", "a", "x", "", "", 405, "use PUT"},
		{"missing", "GET", "a", "", "", "", 404, "no such object"},
		{"missing generation", "GET", "a?generation=../../x", "", "", "", 404, "no such object"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var header []string
			if tc.header != "" {
				header = []string{tc.header, tc.value}
			}
			status, _, body := do(t, tc.method, url+tc.path, strings.NewReader(tc.body), header...)
			found := false
			for _, alt := range strings.Split(tc.text, "|") {
				found = found || strings.Contains(body, alt)
			}
			if status != tc.status || !found {
				t.Errorf("%d %q, want %d and %q", status, body, tc.status, tc.text)
			}
		})
	}
	if got := files(t, dir); len(got) != 0 || len(h.changes()) != 0 {
		t.Errorf("left behind %v, announced %v", got, h.changes())
	}
	if status, _, _ := do(t, "PUT", url+"a", strings.NewReader("x"), "If-None-Match", "*"); status != 201 {
		t.Errorf("create only: %d", status)
	}
	if status, _, _ := do(t, "PUT", url+"a", strings.NewReader("y"), "If-None-Match", "*"); status != 412 {
		t.Errorf("create only again: %d", status)
	}
}

// A full disk is 507, not a server error without a reason.
func TestFullDisk(t *testing.T) {
	err := fmt.Errorf("store a: %w", noSpace(&fs.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}))
	if status, text := refusal(err); status != http.StatusInsufficientStorage || !strings.Contains(text, "free some") {
		t.Errorf("%d %s", status, text)
	}
}

// An upload whose client goes away in the middle leaves nothing and starts
// nothing, whether it said its length or not.
func TestAbortedUpload(t *testing.T) {
	dir, h := t.TempDir(), &hook{}
	done := make(chan struct{}, 2)
	handler := open(t, dir, h, 0).Handler("/contexts/")
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		done <- struct{}{}
	}))
	for _, head := range []string{"Content-Length: 100\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT /contexts/a HTTP/1.1\r\nHost: x\r\n%s", head)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(conn)
		conn.Close()
		<-done
		if bytes.Contains(answer, []byte(" 201 ")) {
			t.Errorf("accepted: %s", answer)
		}
	}
	if got := files(t, dir); len(got) != 0 || len(h.changes()) != 0 {
		t.Errorf("left behind %v, announced %v", got, h.changes())
	}
}

// A put whose announcement does not succeed is 503 and stays; the client's
// second try is the same generation; Sweep settles what nobody tries again,
// also after a restart, and announces nothing twice.
func TestAnnouncementOwed(t *testing.T) {
	dir, h := t.TempDir(), &hook{err: errors.New("ledger is down")}
	s := open(t, dir, h, 0)
	url := serve(t, s.Handler("/contexts/")) + "/contexts/"
	for range 2 {
		status, hd, body := do(t, "PUT", url+"a", strings.NewReader("one"))
		if status != 503 || hd.Get("Retry-After") == "" || !strings.Contains(body, "ledger is down") {
			t.Fatalf("%d %s", status, body)
		}
	}
	if status, _, body := do(t, "GET", url+"a", nil); status != 200 || body != "one" {
		t.Fatalf("%d %q", status, body)
	}
	all, err := s.versions(Contexts, "", false)
	if err != nil || len(all) != 1 {
		t.Fatalf("a second try made another generation: %v %v", all, err)
	}
	do(t, "PUT", url+"a", strings.NewReader("two"))
	do(t, "PUT", url+"b", strings.NewReader("three"))
	if err := s.Sweep(t.Context()); err == nil {
		t.Error("sweep hides that it could not announce")
	}

	h.set(nil)
	s = open(t, dir, h, 0)
	for range 2 {
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, c := range h.changes() {
		got = append(got, fmt.Sprintf("%s %d", c.Name, c.Size))
	}
	// "one" was never acknowledged, and "two" took its place.
	if len(got) != 2 || strings.Join(got, ",") != "a 3,b 5" && strings.Join(got, ",") != "b 5,a 3" {
		t.Errorf("announced %v", got)
	}
	if left := files(t, filepath.Join(dir, "pending")); len(left) != 0 {
		t.Errorf("still owed: %v", left)
	}
}

// A put that died between its debt and its record never was.
func TestCrashBeforeRecord(t *testing.T) {
	dir, h := t.TempDir(), &hook{}
	s := open(t, dir, h, 0)
	o := Object{Bucket: Contexts, Name: "a", Generation: "1700000000000000"}
	if err := os.MkdirAll(s.objectDir(o.Bucket, o.Name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(s.dataPath(o), []byte("x"), 0o600), s.owe(o)); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, h, 0)
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) != 0 || len(h.changes()) != 0 {
		t.Errorf("left behind %v, announced %v", got, h.changes())
	}
}

// Puts of one name at once are as many generations, all different, and what
// is read is always one of them as a whole.
func TestConcurrentPuts(t *testing.T) {
	h := &hook{}
	s := open(t, t.TempDir(), h, 0)
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			text := strings.Repeat(string(rune('a'+i)), 10_000)
			if _, err := s.Put(context.Background(), Contexts, "a", strings.NewReader(text), PutOptions{Unsized: true}); err != nil {
				t.Error(err)
			}
			_, f, err := s.Open(Contexts, "a", "")
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			data, err := io.ReadAll(f)
			if err != nil || len(data) != 10_000 || strings.Count(string(data), string(data[:1])) != 10_000 {
				t.Errorf("read %d bytes, %v", len(data), err)
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, c := range h.changes() {
		seen[c.Generation] = true
	}
	if len(seen) != n {
		t.Errorf("%d generations", len(seen))
	}
}

// An upload is not held in memory, whatever its size.
func TestConstantMemory(t *testing.T) {
	s := open(t, t.TempDir(), &hook{}, 0)
	const size = 64 << 20
	body := io.LimitReader(rand.New(rand.NewSource(1)), size)
	allocs := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range 1 {
			if _, err := s.Put(t.Context(), Contexts, "big", body, PutOptions{Unsized: true}); err != nil {
				t.Error(err)
			}
			body = io.LimitReader(rand.New(rand.NewSource(1)), 1<<20)
		}
	})
	if got := allocs.AllocedBytesPerOp(); got > 4<<20 {
		t.Errorf("%d bytes allocated for %d bytes stored", got, size)
	}
}
