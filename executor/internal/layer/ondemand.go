package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// layerFiles are the files of a layer that was applied by its index.
type layerFiles struct {
	ctx   context.Context //nolint:containedctx // a reader of a file has none
	layer v1.Layer
	spool *rootfs.Spool
}

// layerFile is what one of them holds. Hardly anybody asks: when somebody does,
// the layer is read for it, and verified, once.
type layerFile struct {
	from  *layerFiles
	n     int // which entry it is
	print snapshot.Print

	once    sync.Once
	content rootfs.Content
	err     error
}

var _ rootfs.Content = (*layerFile)(nil)

// Print implements rootfs.Content.
func (f *layerFile) Print() [2]uint64 { return f.print }

// Open implements rootfs.Content.
func (f *layerFile) Open() (io.ReadCloser, error) {
	f.once.Do(f.fetch)
	switch {
	case f.err != nil:
		return nil, f.err
	case f.content == nil:
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	return f.content.Open()
}

func (f *layerFile) fetch() {
	err := unpack(f.from.ctx, f.from.layer, nil, func(r io.Reader) error {
		tr := tar.NewReader(r)
		for at := 0; ; at++ {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("its index says that it has %d entries, and it has %d", f.n+1, at)
			}
			if err != nil {
				return err
			}
			if h.Typeflag == tar.TypeXGlobalHeader {
				at--
				continue
			}
			if at == f.n {
				f.content, _, err = f.from.spool.Keep(tr)
				return err
			}
		}
	})
	if err != nil {
		f.err = fmt.Errorf("read a file of layer%w", err)
	}
}
