package cache

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	layers "github.com/kilnhook/kiln/executor/internal/layer"
)

// Indexes of layers are kept as layers that hold one file, since there are
// registries that take nothing else: beside the layer of an entry, and, for
// layers that no step made, as entries of their own.

// indexed is a layer that knows its index.
type indexed interface {
	Index() (io.ReadCloser, error)
}

// indexFile is the name of the file that is an index.
const indexFile = "index"

// maxIndex is how large an index is that is still kept, in bytes.
const maxIndex = 64 << 20

// packIndex makes a layer of an index.
func packIndex(l indexed) (v1.Layer, error) {
	rc, err := l.Index()
	if err != nil {
		return nil, err
	}
	defer rc.Close() // read only
	content, err := io.ReadAll(io.LimitReader(rc, maxIndex+1))
	if err != nil {
		return nil, fmt.Errorf("read layer index: %w", err)
	}
	if len(content) > maxIndex {
		return nil, errors.New("the layer's index is too large")
	}
	return packedIndex(content)
}

func packedIndex(content []byte) (v1.Layer, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	err := tw.WriteHeader(&tar.Header{Name: indexFile, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = tw.Write(content)
	}
	if err := errors.Join(err, tw.Close()); err != nil {
		return nil, fmt.Errorf("pack layer index: %w", err)
	}
	return static.NewLayer(buf.Bytes(), types.OCIUncompressedLayer), nil
}

// unpackIndex reads an index from the layer it is packed in, and closes that.
func unpackIndex(rc io.ReadCloser) (io.ReadCloser, error) {
	defer rc.Close()                                              // read only
	packed, err := io.ReadAll(io.LimitReader(rc, maxIndex+1<<20)) // to the end: then it is verified
	if err != nil {
		return nil, fmt.Errorf("read cached layer index: %w", err)
	}
	tr := tar.NewReader(bytes.NewReader(packed))
	h, err := tr.Next()
	if err == nil && h.Name != indexFile {
		err = fmt.Errorf("it holds %q", h.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("read cached layer index: %w", err)
	}
	return io.NopCloser(tr), nil
}

func (c *Cache) openIndex(ctx context.Context, k Key, desc v1.Descriptor) (io.ReadCloser, error) {
	rc, err := c.store.blob(ctx, k, desc)
	if err != nil {
		return nil, fmt.Errorf("read cached layer index: %w", err)
	}
	return unpackIndex(rc)
}

// indexKey is where the index of a layer is that no step made.
func indexKey(diffID v1.Hash) Key {
	return NewKey([]byte(layers.IndexFormat), []byte(diffID.String()))
}

// Index returns the index of a layer that PutIndex stored; nil if there is none.
// Like Get it fails only when ctx is done.
func (c *Cache) Index(ctx context.Context, diffID v1.Hash) (io.ReadCloser, error) {
	e, _, err := c.Get(ctx, indexKey(diffID))
	if err != nil || e.Layer == nil {
		return nil, err
	}
	rc, err := e.Layer.Uncompressed()
	if err == nil {
		rc, err = unpackIndex(rc)
	}
	if err != nil {
		c.opt.Log.Warn("cached layer index cannot be used", "layer", diffID.String(), "err", err)
		return nil, nil
	}
	return rc, nil
}

// PutIndex stores the index of a layer that no step made. An error is for the
// log.
func (c *Cache) PutIndex(ctx context.Context, diffID v1.Hash, content []byte) error {
	l, err := packedIndex(content)
	if err != nil {
		return err
	}
	_, err = c.put(ctx, indexKey(diffID), l, Meta{CreatedBy: "index of " + diffID.String()})
	return err
}
