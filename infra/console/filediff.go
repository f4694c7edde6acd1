package console

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/imagediff"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// Limits of a comparison of files.
const (
	maxDiffBytes = 1 << 30 // of layers that are read, compressed
	maxDiffFiles = 500_000 // in them
	maxDiffRows  = 2000    // shown
	diffTime     = time.Minute
)

type filesPage struct {
	page
	ID, Before string
	Rows       []imagediff.Change
	Total      int
	Read       int64 // bytes of layers
	Grown      int64
}

// serveFiles compares the files of a build's image with those of the build before. Layers
// are read from the registry: those that only one of them has, and what both stand on if that
// is needed.
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
	diff, err := imagediff.Images(ctx, was, is, imagediff.Options{MaxBytes: maxDiffBytes, MaxFiles: maxDiffFiles})
	if err != nil {
		return unreadable(err)
	}
	rows := diff.Files
	d := filesPage{page: c.page("files of build "+buildlog.Short(b.Request.BuildID), ""), ID: b.Request.BuildID, Before: before.sum.ID, Total: len(rows), Read: diff.Read}
	for _, row := range rows {
		d.Grown += row.Grown()
	}
	mostGrown(rows)
	d.Rows = rows[:min(len(rows), maxDiffRows)]
	return c.render(w, http.StatusOK, "files", d)
}

// mostGrown orders paths by how much their size has changed, the most first.
func mostGrown(rows []imagediff.Change) {
	slices.SortFunc(rows, func(a, b imagediff.Change) int {
		x, y := a.Grown(), b.Grown()
		return cmp.Or(cmp.Compare(max(y, -y), max(x, -x)), cmp.Compare(a.Path, b.Path))
	})
}

func unreadable(err error) error {
	return &statusError{http.StatusBadGateway, "the images could not be read: " + events.CleanText(err.Error(), events.MaxMessage)}
}
