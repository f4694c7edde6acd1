package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

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
	found, err := f.from.read(f.from.ctx, []int{f.n})
	if f.err = err; err == nil {
		f.content = found[0]
	}
}

// read reads the entries of the layer that want names, in ascending order.
func (l *layerFiles) read(ctx context.Context, want []int) ([]rootfs.Content, error) {
	out := make([]rootfs.Content, 0, len(want))
	err := unpack(ctx, l.layer, nil, func(r io.Reader) error {
		tr := tar.NewReader(r)
		for at := 0; len(out) < len(want); at++ {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("its index has more entries than it has, %d", at)
			}
			if err != nil {
				return err
			}
			if h.Typeflag == tar.TypeXGlobalHeader {
				at--
				continue
			}
			if at == want[len(out)] {
				c, _, err := l.spool.Keep(tr)
				if err != nil {
					return err
				}
				out = append(out, c)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read files of layer%w", err)
	}
	return out, nil
}

// Fetch reads what files hold that were applied by an index: each layer at most
// once, and none that is not needed. Other content is at hand already.
func Fetch(ctx context.Context, contents []rootfs.Content) error {
	files := map[*layerFiles][]*layerFile{}
	for _, c := range contents {
		if f, ok := c.(*layerFile); ok {
			files[f.from] = append(files[f.from], f)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxFetches)
	for from, of := range files {
		group.Go(func() error { return from.fetch(ctx, of) })
	}
	return group.Wait()
}

// maxFetches is how many layers Fetch reads at once.
const maxFetches = 2

func (l *layerFiles) fetch(ctx context.Context, files []*layerFile) error {
	slices.SortFunc(files, func(a, b *layerFile) int { return a.n - b.n })
	files = slices.Compact(files)
	want := make([]int, 0, len(files))
	for _, f := range files {
		want = append(want, f.n)
	}
	found, err := l.read(ctx, want)
	if err != nil {
		return err
	}
	for i, f := range files {
		f.once.Do(func() { f.content = found[i] })
	}
	return nil
}
