package console

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// Limits of a comparison of files.
const (
	maxDiffBytes = 512 << 20 // of layers that are read, compressed
	maxDiffFiles = 500_000   // in them
	maxDiffRows  = 2000      // shown
	diffTime     = time.Minute
)

// file is what one layer or several make of a path.
type file struct {
	Mode int64
	Size int64
	Sum  string // of the content, the target of a link, or the kind of file
}

// fileRow is a path that differs.
type fileRow struct {
	Path, Kind string // added, removed, changed
	Was, Is    *file
	Grown      int64 // bytes more than before
}

type filesPage struct {
	page
	ID, Before string
	Rows       []fileRow
	Total      int
	Read       int64 // bytes of layers
	Grown      int64
}

// serveFiles compares the files of a build's image with those of the build before:
// the layers that only one of them has are read from the registry.
func (c *Console) serveFiles(w http.ResponseWriter, r *http.Request) error {
	b, err := c.load(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	before, err := c.previous(r.Context(), b)
	if err != nil {
		return err
	}
	if c.cfg.Image == nil || b.Result == nil || b.Result.Digest == "" || before.sum == nil || before.result.Digest == "" {
		return notFound("there is no image here to compare, or none before it")
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), diffTime, errors.New("the registry took too long"))
	defer cancel()
	is, err := c.cfg.Image(ctx, b.Request.Image, b.Result.Digest)
	if err != nil {
		return unreadable(err)
	}
	was, err := c.cfg.Image(ctx, before.sum.Image, before.result.Digest)
	if err != nil {
		return unreadable(err)
	}
	rows, read, err := diffFiles(ctx, was, is)
	if err != nil {
		return unreadable(err)
	}
	d := filesPage{page: c.page("files of build "+buildlog.Short(b.Request.BuildID), ""), ID: b.Request.BuildID, Before: before.sum.ID, Total: len(rows), Read: read}
	for _, row := range rows {
		d.Grown += row.Grown
	}
	d.Rows = rows[:min(len(rows), maxDiffRows)]
	return c.render(w, http.StatusOK, "files", d)
}

func unreadable(err error) error {
	return &statusError{http.StatusBadGateway, "the images could not be read: " + events.CleanText(err.Error(), events.MaxMessage)}
}

// diffFiles says which paths differ between two images, the most grown first. Layers
// that both stand on are not read.
func diffFiles(ctx context.Context, was, is v1.Image) (rows []fileRow, read int64, err error) {
	oldLayers, err := was.Layers()
	if err != nil {
		return nil, 0, err
	}
	newLayers, err := is.Layers()
	if err != nil {
		return nil, 0, err
	}
	common, err := sharedBase(oldLayers, newLayers)
	if err != nil {
		return nil, 0, err
	}
	r := reader{ctx: ctx}
	before, err := r.tree(oldLayers[common:])
	if err != nil {
		return nil, r.bytes, err
	}
	after, err := r.tree(newLayers[common:])
	if err != nil {
		return nil, r.bytes, err
	}
	return rowsOf(before, after), r.bytes, nil
}

// sharedBase is how many layers two images have in common from the bottom up.
func sharedBase(a, b []v1.Layer) (int, error) {
	for i := range min(len(a), len(b)) {
		x, err := a[i].Digest()
		if err != nil {
			return 0, err
		}
		y, err := b[i].Digest()
		if err != nil {
			return 0, err
		}
		if x != y {
			return i, nil
		}
	}
	return min(len(a), len(b)), nil
}

// reader reads layers, within limits.
type reader struct {
	ctx   context.Context //nolint:containedctx // lives as long as the call it belongs to
	bytes int64
	files int
}

// tree is what layers make of the paths that they name; nil is a path that they
// remove.
func (r *reader) tree(layers []v1.Layer) (map[string]*file, error) {
	tree := map[string]*file{}
	for _, l := range layers {
		size, err := l.Size()
		if err != nil {
			return nil, err
		}
		if r.bytes += size; r.bytes > maxDiffBytes {
			return nil, fmt.Errorf("the layers that differ are larger than %s", buildlog.Bytes(maxDiffBytes))
		}
		if err := r.layer(l, tree); err != nil {
			return nil, err
		}
	}
	return tree, nil
}

func (r *reader) layer(l v1.Layer, tree map[string]*file) (err error) {
	rc, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	for tr := tar.NewReader(rc); ; {
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.files++; r.files > maxDiffFiles {
			return fmt.Errorf("the layers that differ have more than %d files", maxDiffFiles)
		}
		if err := put(tree, h, tr); err != nil {
			return err
		}
	}
}

// put makes of a tree what an entry of a layer makes of it (image-spec, layer.md).
func put(tree map[string]*file, h *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	base := path.Base(name)
	if base == ".wh..wh..opq" {
		drop(tree, path.Dir(name), true)
		return nil
	}
	if gone, ok := strings.CutPrefix(base, ".wh."); ok {
		name = path.Join(path.Dir(name), gone)
		drop(tree, name, false)
		tree[name] = nil
		return nil
	}
	f := &file{Mode: h.Mode, Sum: string(h.Typeflag) + " " + h.Linkname}
	if h.Typeflag == tar.TypeReg {
		sum := sha256.New()
		n, err := io.Copy(sum, content)
		if err != nil {
			return err
		}
		f.Size, f.Sum = n, hex.EncodeToString(sum.Sum(nil))
	}
	tree[name] = f
	return nil
}

// drop removes what is below a directory.
func drop(tree map[string]*file, dir string, keepsItself bool) {
	for name := range tree {
		if strings.HasPrefix(name, dir+"/") || name == dir && !keepsItself {
			delete(tree, name)
		}
	}
}

func rowsOf(before, after map[string]*file) []fileRow {
	var rows []fileRow
	for name, is := range after {
		was, known := before[name]
		switch {
		case is == nil && known && was == nil, is != nil && was != nil && *is == *was:
		case is == nil && was == nil:
			rows = append(rows, fileRow{Path: name, Kind: "removed"}) // from what both stand on
		case is == nil:
			rows = append(rows, fileRow{Path: name, Kind: "removed", Was: was, Grown: -was.Size})
		case was == nil:
			rows = append(rows, fileRow{Path: name, Kind: "added", Is: is, Grown: is.Size})
		default:
			rows = append(rows, fileRow{Path: name, Kind: "changed", Was: was, Is: is, Grown: is.Size - was.Size})
		}
	}
	for name, was := range before {
		if _, known := after[name]; !known && was != nil {
			rows = append(rows, fileRow{Path: name, Kind: "removed", Was: was, Grown: -was.Size})
		}
	}
	slices.SortFunc(rows, func(a, b fileRow) int {
		return cmp.Or(cmp.Compare(max(b.Grown, -b.Grown), max(a.Grown, -a.Grown)), cmp.Compare(a.Path, b.Path))
	})
	return rows
}
