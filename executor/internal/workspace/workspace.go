// Package workspace makes the root filesystems that stages are built in, and
// says after each step what the step changed. There are two kinds: overlay
// mounts on private directories, any number at once, and the container's own
// root, one at a time. Steps and layers cannot tell which they have.
package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// Ground is what a stage starts from: the layers of an image and, on top of
// them, those of the stages it is built on. Both are empty for scratch.
type Ground struct {
	Image  Image
	Parent Root       // the stage it is built on, finished; nil if none
	Layers []v1.Layer // that the parent and its parents have added
}

// Image is a set of layers with a name that is the same whenever they are.
type Image struct {
	Key    string // hex digest of the manifest; "" is the empty image
	Layers []v1.Layer
	Meter  progress.Meter // told when layers are pulled and extracted
}

// Root is the root filesystem of one stage.
type Root interface {
	// FS is where the next step reads and writes. It is valid until Commit.
	FS() rootfs.FS
	// Run runs a process in the root, where it sees the mounts, made in their
	// order, and returns once nothing of it and of them is left.
	// It returns a *sandbox.ExitError for a status other than 0.
	Run(ctx context.Context, p sandbox.Process, mounts ...Mount) error
	// Commit ends the steps since the last Commit and says what they changed.
	Commit(ctx context.Context) (Commit, error)
	// Keep returns the finished root to copy from, of which only what the
	// paths lead to needs to be there. It stays when the root is closed.
	Keep(ctx context.Context, paths []string) (rootfs.FS, error)
	// Close gives the root up. What Keep returned and roots that stand on
	// this one are of use still.
	Close() error
}

// Commit is what a step changed.
type Commit struct {
	Changes []snapshot.Change
	FS      rootfs.FS // shows the root as the step left it
	Stable  bool      // FS stays so while later steps run; otherwise it must be read before
	// Learn takes what writing the layer finds out; it may be nil.
	Learn func(name string, p snapshot.Print, xattrs map[string]string)
	// Release is called when FS is not read any more.
	Release func()
}

// Apply puts a layer onto a root that a step would have made, and ends that step.
func Apply(ctx context.Context, r Root, l v1.Layer) error {
	if o, ok := r.(*outline); ok {
		return o.put(ctx, l)
	}
	if err := layer.Extract(ctx, r.FS(), l, layer.ApplyOptions{}, nil); err != nil {
		return fmt.Errorf("apply cached layer: %w", err)
	}
	c, err := r.Commit(ctx)
	if err == nil {
		c.Release()
	}
	return err
}

// Report takes what people should know: progress of an extraction in bytes,
// and files that could not be made. It also says how images are extracted.
//
// Retries is how often the extraction of a layer is tried again.
type Report struct {
	Bytes   func(name string, done, total int64)
	Note    func(text string)
	Retries int
	// Spool is the directory for layers that are fetched ahead.
	Spool string

	// Image, if set, returns a directory with an image's files; extract makes and
	// fills one that is not there.
	Image func(ctx context.Context, key string, extract func(dir string) error) (string, error)
	// Index, if set, calls extract for a layer with where to write its index, or
	// nil if nobody wants that.
	Index func(ctx context.Context, l v1.Layer, extract func(index io.Writer) error) error
}

// image returns the directory of an image: the one at path, which is made, unless
// images are kept elsewhere.
func (r Report) image(ctx context.Context, path string, img Image) (string, error) {
	if r.Image == nil || img.Key == "" {
		return path, extractTo(ctx, path, img, r)
	}
	return r.Image(ctx, img.Key, func(dir string) error { return extractTo(ctx, dir, img, r) })
}

func (r Report) indexed(ctx context.Context, l v1.Layer, extract func(index io.Writer) error) error {
	if r.Index == nil {
		return extract(nil)
	}
	return r.Index(ctx, l, extract)
}

// extract applies the layers of an image, from the bottom up.
func extract(ctx context.Context, fsys rootfs.FS, img Image, first bool, opt layer.ApplyOptions, r Report) error {
	layers, stop := layer.FetchAhead(ctx, r.Spool, img.Layers, img.Meter)
	defer stop()
	lost := 0
	opt.Lost = func(name string, err error) {
		if lost++; lost <= 3 {
			r.Note(fmt.Sprintf("/%s is in the image but not visible to RUN: %v", name, err))
		}
	}
	for i, l := range layers {
		size, _ := l.Size()
		name := ""
		if h, err := l.Digest(); err == nil {
			name = h.Hex[:12]
		}
		opt.First = first && i == 0
		for try := 0; ; try++ {
			end, extracted := img.Meter.Begin(progress.PhaseExtract, name), int64(0)
			err := r.indexed(ctx, l, func(index io.Writer) error {
				opt := opt
				opt.Index = index
				return layer.Extract(ctx, fsys, l, opt, func(done int64) {
					extracted = done
					r.Bytes(name, done, size)
				})
			})
			end(extracted, err)
			if err == nil {
				break
			}
			if try >= r.Retries || ctx.Err() != nil || errors.Is(err, unix.ENOSPC) {
				return err
			}
			r.Note(fmt.Sprintf("layer %s is extracted again: %v", name, err))
			opt.First = false // some of it is there
		}
	}
	if lost > 3 {
		r.Note(fmt.Sprintf("%d more files like these", lost-3))
	}
	return nil
}
