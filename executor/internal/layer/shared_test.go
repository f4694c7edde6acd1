package layer

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// countedLayer counts how often it is read, and may fail.
type countedLayer struct {
	v1.Layer
	reads atomic.Int32
	fail  func(read int32) error
}

func (c *countedLayer) Compressed() (io.ReadCloser, error) {
	n := c.reads.Add(1)
	rc, err := c.Layer.Compressed()
	if err != nil || c.fail == nil || c.fail(n) == nil {
		return rc, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(rc, 1000), iotest.ErrReader(c.fail(n)))), nil
}

// sharedImageOf is an image of one layer, shared by two readers.
func sharedImageOf(t *testing.T, dir string, fail func(int32) error) (*countedLayer, v1.Layer, []byte) {
	t.Helper()
	l, err := random.Layer(300_000, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	c := &countedLayer{Layer: l, fail: fail}
	img, err := mutate.AppendLayers(empty.Image, c)
	if err != nil {
		t.Fatal(err)
	}
	both, err := Share(t.Context(), img, dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := both.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	rc, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	c.reads.Store(0) // making the image may have read it
	return c, layers[0], content
}

func readLayer(l v1.Layer) ([]byte, error) {
	rc, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(rc)
	return b, errors.Join(err, rc.Close())
}

// Two who read a layer, at the same time or one after the other, or through
// FetchAhead, cause it to be fetched once; its file goes when both are done.
func TestShare(t *testing.T) {
	for name, read := range map[string]func(t *testing.T, dir string, l v1.Layer, check func(v1.Layer)){
		"at once": func(_ *testing.T, _ string, l v1.Layer, check func(v1.Layer)) {
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { check(l) })
			}
			wg.Wait()
		},
		"in turn": func(_ *testing.T, _ string, l v1.Layer, check func(v1.Layer)) {
			check(l)
			check(l)
		},
		"ahead": func(t *testing.T, dir string, l v1.Layer, check func(v1.Layer)) {
			first, err := random.Layer(10, types.OCILayer)
			if err != nil {
				t.Fatal(err)
			}
			ahead, stop := FetchAhead(t.Context(), dir, []v1.Layer{first, l}, progress.Meter{})
			check(ahead[1])
			stop()
			check(l)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			from, l, want := sharedImageOf(t, dir, nil)
			read(t, dir, l, func(l v1.Layer) {
				if got, err := readLayer(l); err != nil || !bytes.Equal(got, want) {
					t.Errorf("read %d bytes, %v", len(got), err)
				}
			})
			if n := from.reads.Load(); n != 1 {
				t.Errorf("fetched %d times", n)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// One that could not be fetched is an error for who reads it, and is read from where
// it is when somebody tries again.
func TestShareFails(t *testing.T) {
	cause := errors.New("the registry is gone")
	dir := t.TempDir()
	from, l, want := sharedImageOf(t, dir, func(read int32) error {
		if read == 1 {
			return cause
		}
		return nil
	})
	if _, err := readLayer(l); !errors.Is(err, cause) {
		t.Errorf("error = %v", err)
	}
	if got, err := readLayer(l); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if n := from.reads.Load(); n != 2 {
		t.Errorf("read %d times", n)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Where there is no room for it a layer is read from where it is.
func TestShareWithoutRoom(t *testing.T) {
	from, l, want := sharedImageOf(t, "/nowhere/at/all", nil)
	for range 2 {
		if got, err := readLayer(l); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	}
	if n := from.reads.Load(); n != 2 {
		t.Errorf("read %d times", n)
	}
}
