package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/executor/internal/decompress"
)

// listed is a layer with a table of contents.
type listed struct {
	counted
	blob   []byte
	sum    string
	diffID v1.Hash
	refuse bool // gives no parts
	parts  int
}

func (l *listed) DiffID() (v1.Hash, error) { return l.diffID, nil }

func (l *listed) Descriptor() (*v1.Descriptor, error) {
	h, err := l.Digest()
	return &v1.Descriptor{Size: int64(len(l.blob)), Digest: h, Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: l.sum}}, err
}

func (l *listed) Range(_ context.Context, from, to int64) (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.parts++
	if l.refuse {
		return nil, errors.New("no parts")
	}
	return io.NopCloser(bytes.NewReader(l.blob[from:to])), nil
}

func listedLayer(t *testing.T, name string) *listed {
	t.Helper()
	var raw, blob bytes.Buffer
	tw := tar.NewWriter(&raw)
	r := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // to be repeated
	for i := range 10 {
		body := make([]byte, 40<<10)
		for j := range body {
			body[j] = byte(r.Uint32())
		}
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprint(name, i), Typeflag: tar.TypeReg, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	w := estargz.NewWriter(&blob)
	err := w.AppendTar(&raw)
	sum, cerr := w.Close()
	if err = errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	l := &listed{counted: counted{Layer: static.NewLayer(blob.Bytes(), types.OCILayer)}, blob: blob.Bytes(), sum: sum.String()}
	plain, _, err := decompress.New(bytes.NewReader(l.blob))
	if err == nil {
		l.diffID, _, err = v1.SHA256(plain)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The index by a table counts for that table only: who has a layer of the same diff id
// and no table, or another one, reads the layer, and others are not told.
func TestTableCountsForItselfOnly(t *testing.T) {
	r := &remote{has: map[v1.Hash][]byte{}}
	dir := t.TempDir()
	s := open(t, dir, Options{Lasting: true, Remote: r})
	l := listedLayer(t, "a")
	by := read(t, s, l, false)
	asked := l.parts
	if again := read(t, s, l, false); again != by || l.reads != 0 || asked == 0 || l.parts != asked {
		t.Errorf("the layer was read %d times, %d parts of it and %d at first; equal %t", l.reads, l.parts, asked, again == by)
	}
	if rc, err := s.Known(t.Context(), l); rc != nil || err != nil {
		t.Errorf("the index is said to be known: %v, %v", rc, err)
	}
	if err := s.Close(); err != nil || r.puts != 0 {
		t.Errorf("error %v, %d indexes were given to others", err, r.puts)
	}
	if _, err := os.Stat(s.path(l.diffID)); err == nil {
		t.Error("the index is kept by the diff id")
	}
	// The table of another layer, under the first one's diff id.
	liar := listedLayer(t, "b")
	liar.diffID = l.diffID
	after := open(t, dir, Options{Lasting: true, Remote: r})
	if other := read(t, after, liar, false); other == by || liar.reads != 0 {
		t.Error("one table was taken for another")
	}
	// Who has no table gets what the layer says.
	plain := &counted{Layer: withDiffID{l.Layer, l.diffID}}
	if got := read(t, after, plain, false); got == by || plain.reads != 1 {
		t.Errorf("the layer was read %d times", plain.reads)
	}
	// And that is better than a table.
	if got := read(t, after, l, false); got == by || l.reads != 0 {
		t.Errorf("a table was used where the index was known")
	}
}

type withDiffID struct {
	v1.Layer
	diffID v1.Hash
}

func (w withDiffID) DiffID() (v1.Hash, error) { return w.diffID, nil }

// Whatever is wrong with a table, the layer is read; one that is not the manifest's is
// worth a warning.
func TestTablesThatAreNotUsed(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*listed)
		level  string
	}{
		"no parts":      {func(l *listed) { l.refuse = true }, "DEBUG"},
		"another table": {func(l *listed) { l.sum = "sha256:" + strings.Repeat("0", 64) }, "WARN"},
		"no digest":     {func(l *listed) { l.sum = "x" }, ""},
	} {
		var log bytes.Buffer
		l := listedLayer(t, "a")
		c.change(l)
		s := open(t, t.TempDir(), Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if read(t, s, l, false); l.reads != 1 {
			t.Errorf("%s: the layer was read %d times", what, l.reads)
		}
		if got := log.String(); c.level == "" && got != "" || c.level != "" && !strings.Contains(got, "level="+c.level) {
			t.Errorf("%s: %q was said", what, got)
		}
		if _, err := os.Stat(s.path(l.diffID)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
