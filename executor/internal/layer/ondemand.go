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

	mu     sync.Mutex
	prints []snapshot.Print // of listed files, by entry, once one was read
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
func (f *layerFile) Open() (io.ReadCloser, error) { return f.open(wish{n: f.n}) }

func (f *layerFile) open(w wish) (io.ReadCloser, error) {
	f.once.Do(func() { f.fetch(w) })
	switch {
	case f.err != nil:
		return nil, f.err
	case f.content == nil:
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	return f.content.Open()
}

func (f *layerFile) fetch(w wish) {
	found, err := f.from.read(f.from.ctx, []wish{w})
	if f.err = err; err == nil {
		f.content = found[0]
	}
}

// listedFile is a file of a layer that was applied by its table of contents, which may
// be wrong, and has no prints. When one is read all of its layer are printed: whoever
// looks whether a file is put again as it was asks for many.
type listedFile struct {
	layerFile
	name string
	size int64
}

// Open implements rootfs.Content.
func (f *listedFile) Open() (io.ReadCloser, error) { return f.open(f.wish()) }

func (f *listedFile) wish() wish { return wish{f.n, f.name, f.size} }

// Print implements rootfs.Content.
func (f *listedFile) Print() [2]uint64 {
	f.from.mu.Lock()
	defer f.from.mu.Unlock()
	if f.n < len(f.from.prints) {
		return f.from.prints[f.n]
	}
	return [2]uint64{}
}

// wish is an entry of a layer that is read, and what it must be if it has a name.
type wish struct {
	n    int
	name string
	size int64
}

func (w wish) check(h *tar.Header) error {
	if w.name == "" || h.Typeflag == tar.TypeReg && h.Size == w.size && rootfs.Clean(h.Name) == w.name {
		return nil
	}
	return fmt.Errorf("it is not what its table of contents says: entry %d is /%s with %d bytes, not /%s with %d: make the image anew, or remove the annotations of its layers",
		w.n, rootfs.Clean(h.Name), h.Size, w.name, w.size)
}

// read reads the entries of the layer that want has, in ascending order.
func (l *layerFiles) read(ctx context.Context, want []wish) ([]rootfs.Content, error) {
	r := &wishes{want: want, spool: l.spool}
	if len(want) > 0 && want[0].name != "" {
		r.printer = snapshot.NewPrinter()
	}
	if err := unpack(ctx, l.layer, nil, r.read); err != nil {
		return nil, fmt.Errorf("read files of layer%w", err)
	}
	if r.printer != nil {
		l.mu.Lock()
		l.prints = r.prints
		l.mu.Unlock()
	}
	return r.out, nil
}

// wishes are what is read of a layer.
type wishes struct {
	want    []wish
	spool   *rootfs.Spool
	out     []rootfs.Content
	printer *snapshot.Printer // nil: nothing is printed
	prints  []snapshot.Print
}

func (r *wishes) read(layer io.Reader) error {
	tr := tar.NewReader(layer)
	for at := 0; len(r.out) < len(r.want) || r.printer != nil; at++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if len(r.out) == len(r.want) {
				return nil
			}
			return fmt.Errorf("its index has more entries than it has, %d", at)
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			at--
			continue
		}
		if err := r.entry(at, h, tr); err != nil {
			return err
		}
	}
	return nil
}

func (r *wishes) entry(at int, h *tar.Header, content io.Reader) error {
	if r.printer != nil {
		r.printer.Reset()
		content = io.TeeReader(content, r.printer)
	}
	if len(r.out) < len(r.want) && at == r.want[len(r.out)].n {
		if err := r.want[len(r.out)].check(h); err != nil {
			return err
		}
		c, _, err := r.spool.Keep(content)
		if err != nil {
			return err
		}
		r.out = append(r.out, c)
	}
	if r.printer == nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, content); err != nil {
		return err
	}
	r.prints = append(r.prints, r.printer.Print())
	return nil
}

// Fetch reads what files hold that were applied by an index: each layer at most
// once, and none that is not needed. Other content is at hand already.
func Fetch(ctx context.Context, contents []rootfs.Content) error {
	files := map[*layerFiles][]asked{}
	for _, c := range contents {
		switch f := c.(type) {
		case *layerFile:
			files[f.from] = append(files[f.from], asked{f, wish{n: f.n}})
		case *listedFile:
			files[f.from] = append(files[f.from], asked{&f.layerFile, f.wish()})
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

// asked is a file that is fetched.
type asked struct {
	*layerFile
	wish wish
}

func (l *layerFiles) fetch(ctx context.Context, files []asked) error {
	slices.SortFunc(files, func(a, b asked) int { return a.n - b.n })
	files = slices.Compact(files)
	want := make([]wish, 0, len(files))
	for _, f := range files {
		want = append(want, f.wish)
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
