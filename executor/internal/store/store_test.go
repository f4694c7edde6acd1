package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/executor/internal/layer"
)

// counted is a layer that knows how often it was read.
type counted struct {
	v1.Layer
	mu    sync.Mutex
	reads int
}

func (c *counted) Compressed() (io.ReadCloser, error) {
	c.mu.Lock()
	c.reads++
	c.mu.Unlock()
	return c.Layer.Compressed()
}

func layerOf(t *testing.T, files ...string) *counted {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		if err := tw.WriteHeader(&tar.Header{Name: f, Typeflag: tar.TypeReg, Size: int64(len(f))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return &counted{Layer: static.NewLayer(buf.Bytes(), types.OCIUncompressedLayer)}
}

// remote is a Remote in memory.
type remote struct {
	mu   sync.Mutex
	has  map[v1.Hash][]byte
	puts int
}

func (r *remote) Index(_ context.Context, diffID v1.Hash) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.has[diffID]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return nil, nil
}

func (r *remote) PutIndex(_ context.Context, diffID v1.Hash, content []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.puts++
	r.has[diffID] = content
	return nil
}

func open(t *testing.T, dir string, opt Options) *Store {
	t.Helper()
	opt.Now = time.Now
	s, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, s *Store, l v1.Layer, anew bool) string {
	t.Helper()
	rc, err := s.Index(t.Context(), l, anew)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// An index is made once on a machine, and once for all that share a remote.
func TestIndexIsMadeOnce(t *testing.T) {
	r := &remote{has: map[v1.Hash][]byte{}}
	l := layerOf(t, "a", "b")
	dir := t.TempDir()
	s := open(t, dir, Options{Remote: r})
	first := read(t, s, l, false)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if again := read(t, open(t, dir, Options{}), l, false); again != first || l.reads != 1 {
		t.Errorf("the layer was read %d times, the index is the same: %t", l.reads, again == first)
	}
	other := open(t, t.TempDir(), Options{Remote: r})
	if again := read(t, other, l, false); again != first || l.reads != 1 || r.puts != 1 {
		t.Errorf("the layer was read %d times and its index stored %d times", l.reads, r.puts)
	}
	// One that is of no use is replaced, for others too.
	if again := read(t, other, l, true); again != first || l.reads != 2 {
		t.Errorf("the layer was read %d times", l.reads)
	}
	if _ = other.Close(); r.puts != 2 {
		t.Errorf("the index was stored %d times", r.puts)
	}
}

// What is recorded while something else reads the layer need not be made; what
// fails leaves nothing.
func TestRecord(t *testing.T) {
	l := layerOf(t, "a")
	dir := t.TempDir()
	s := open(t, dir, Options{Lasting: true})
	broken := errors.New("broken")
	if err := s.Record(t.Context(), l, func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if err := s.Record(t.Context(), l, func(w io.Writer) error { return layer.WriteIndex(t.Context(), l, w) }); err != nil {
		t.Fatal(err)
	}
	if read(t, s, l, false); l.reads != 1 {
		t.Errorf("the layer was read %d times", l.reads)
	}
	if err := s.Record(t.Context(), l, func(w io.Writer) error {
		if w != nil {
			t.Error("an index that is known is asked for")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir + "/new"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// Many at once get the same.
func TestConcurrentIndexes(t *testing.T) {
	l := layerOf(t, strings.Fields("a b c d e f g")...)
	dir := t.TempDir()
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() { got[i] = read(t, open(t, dir, Options{}), l, false) })
	}
	wg.Wait()
	for _, g := range got {
		if g != got[0] || g == "" {
			t.Fatal("the indexes differ")
		}
	}
}
