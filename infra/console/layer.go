package console

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// layerFiles is how many of the largest files of a layer its page names.
const layerFiles = 50

type layerPage struct {
	page
	ID, Digest string
	Size       int64
	Contents   *events.ProgressContents
}

// serveLayer reads a layer of a build's image from the registry, and says what is in
// it. The layers of a base, which builds need not look into, are known only so.
func (c *Console) serveLayer(w http.ResponseWriter, r *http.Request) error {
	b, err := c.load(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	digest := r.PathValue("digest")
	if c.cfg.Image == nil || b.Result == nil || b.Result.Digest == "" ||
		!slices.ContainsFunc(b.Result.Layers, func(l events.LayerInfo) bool { return l.Digest == digest }) {
		return notFound("the image of this build has no such layer, or is not to be had here")
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), diffTime, errors.New("the registry took too long"))
	defer cancel()
	img, err := c.cfg.Image(ctx, b.Request.Image, b.Result.Digest)
	if err != nil {
		return unreadable(err)
	}
	hash, err := v1.NewHash(digest)
	if err != nil {
		return badRequest("%q is not a digest", digest)
	}
	l, err := img.LayerByDigest(hash)
	if err != nil {
		return unreadable(err)
	}
	d := layerPage{page: c.page("layer "+brief(digest), ""), ID: b.Request.BuildID, Digest: digest}
	if d.Size, err = l.Size(); err == nil && d.Size > maxDiffBytes {
		err = fmt.Errorf("the layer is larger than %s", buildlog.Bytes(maxDiffBytes))
	}
	if err == nil {
		d.Contents, err = contentsOf(ctx, l)
	}
	if err != nil {
		return unreadable(err)
	}
	return c.render(w, http.StatusOK, "layer", d)
}

// contentsOf reads the names and sizes in a layer.
func contentsOf(ctx context.Context, l v1.Layer) (out *events.ProgressContents, err error) {
	rc, err := l.Uncompressed()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	out = &events.ProgressContents{}
	for tr := tar.NewReader(rc); ; {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		switch {
		case strings.HasPrefix(path.Base(h.Name), ".wh."):
			out.Removed++
		case h.Typeflag == tar.TypeReg:
			out.Files++
			out.Bytes += h.Size
			at, _ := slices.BinarySearchFunc(out.Largest, h.Size, func(f events.ProgressFile, size int64) int {
				if f.Size >= size {
					return -1
				}
				return 1
			})
			if at < layerFiles {
				out.Largest = slices.Insert(out.Largest, at, events.ProgressFile{Path: strings.TrimPrefix(path.Clean("/"+h.Name), "/"), Size: h.Size})
				out.Largest = out.Largest[:min(len(out.Largest), layerFiles)]
			}
		case h.Typeflag != tar.TypeDir:
			out.Files++
		}
		if out.Files > maxDiffFiles {
			return nil, fmt.Errorf("the layer has more than %d files", maxDiffFiles)
		}
	}
}
