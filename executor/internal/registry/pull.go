package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Errors of Image, for errors.Is.
var (
	// ErrNotFound: no place that was tried has the image.
	ErrNotFound = errors.New("image not found")
	// ErrPlatform: the image is not made for the platform.
	ErrPlatform = errors.New("no image for the platform")
)

// maxNesting is how deep indexes may lie in indexes.
const maxNesting = 3

// Image finds the image ref for a platform, in the mirrors and maps of its
// registry first and then in the registry itself. It returns the image and
// the reference that it was found under. Manifest and config are read and
// verified; layers are read when asked for, with broken connections taken up
// again, while ctx lives. The error lists every place that was tried and why
// it did not do.
func (c *Client) Image(ctx context.Context, ref string, p v1.Platform) (v1.Image, name.Reference, error) {
	places, err := c.places(ref)
	if err != nil {
		return nil, nil, err
	}
	var failures []error
	missing := 0
	itself := len(places) == 1 && places[0].String() == ref
	for i, place := range places {
		var img v1.Image
		err := c.again(ctx, c.opt.DownloadRetry, func() (err error) {
			img, err = c.imageAt(ctx, place, p)
			return err
		})
		if err == nil {
			return img, place, nil
		}
		if ctx.Err() != nil {
			return nil, nil, fmt.Errorf("pull image %s: %w", ref, context.Cause(ctx))
		}
		if isMissing(err) {
			missing++
		}
		err = c.explain(err, place.Context())
		if !itself {
			err = fmt.Errorf("%s: %w", place, err)
		}
		failures = append(failures, err)
		if i < len(places)-1 {
			c.opt.Log.Warn("image is not at its mirror", "image", ref, "mirror", place.String(), "err", err)
		}
	}
	err = errors.Join(failures...)
	tried := strings.ReplaceAll(err.Error(), "\n", "; ")
	if missing == len(places) {
		where := "; tried "
		if itself {
			where = ": "
		}
		return nil, nil, &pullError{text: fmt.Sprintf("image %s not found%s%s", ref, where, tried), errs: append(failures, ErrNotFound)}
	}
	text := fmt.Sprintf("pull image %s: %s", ref, tried)
	var unreachable *net.OpError
	if errors.As(err, &unreachable) {
		text += " (--registry-mirror and --registry-map name other hosts to pull from)"
	}
	return nil, nil, &pullError{text: text, errs: failures}
}

// pullError is all that went wrong in one line.
type pullError struct {
	text string
	errs []error
}

func (e *pullError) Error() string { return e.text }

func (e *pullError) Unwrap() []error { return e.errs }

// isMissing says whether a registry does not have what was asked for.
func isMissing(err error) bool {
	var status *ggcr.Error
	return errors.As(err, &status) && status.StatusCode == http.StatusNotFound
}

// places lists where an image may be, in the order to try.
func (c *Client) places(s string) ([]name.Reference, error) {
	ref, err := name.ParseReference(s, c.nameOptions(s, true)...)
	if err != nil {
		return nil, fmt.Errorf("image %q is not a valid reference: %w", s, err)
	}
	var places []name.Reference
	for _, target := range c.maps[ref.Context().RegistryStr()] {
		repo := mapped(target, ref.Context().RepositoryStr())
		r, err := name.NewRepository(repo, c.nameOptions(repo, true)...)
		if err != nil {
			return nil, fmt.Errorf("image %q at %s: %w", s, target, err)
		}
		if d, ok := ref.(name.Digest); ok {
			places = append(places, r.Digest(d.DigestStr()))
		} else {
			places = append(places, r.Tag(ref.Identifier()))
		}
	}
	if len(places) == 0 || !c.opt.SkipDefaultFallback {
		places = append(places, ref)
	}
	return places, nil
}

// imageAt reads an image from one place.
func (c *Client) imageAt(ctx context.Context, ref name.Reference, p v1.Platform) (v1.Image, error) {
	defer c.guess.manifest(ctx, ref, c.opt.Keychain, c.opt.UserAgent)()
	desc, err := c.puller.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	indexed := false
	for range maxNesting {
		if !desc.MediaType.IsIndex() {
			break
		}
		indexed = true
		digest, err := entryOf(desc, p)
		if err != nil {
			return nil, err
		}
		if img := c.opt.Local(digest); img != nil {
			return img, c.check(img, ref, p, indexed)
		}
		if desc, err = c.puller.Get(ctx, ref.Context().Digest(digest.String())); err != nil {
			return nil, err
		}
	}
	if img := c.opt.Local(desc.Digest); img != nil && desc.MediaType.IsImage() {
		return img, c.check(img, ref, p, indexed)
	}
	if desc.MediaType.IsSchema1() {
		return nil, errors.New("the image has the obsolete format of Docker schema 1: pull and push it once with a current tool")
	}
	img, err := desc.Image()
	if err != nil {
		return nil, err
	}
	if err := c.check(img, ref, p, indexed); err != nil {
		return nil, err
	}
	return &pulled{Image: img, ctx: ctx, c: c}, nil
}

// entryOf returns the entry of an index that suits p best.
func entryOf(desc *remote.Descriptor, p v1.Platform) (v1.Hash, error) {
	index, err := desc.ImageIndex()
	if err != nil {
		return v1.Hash{}, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return v1.Hash{}, fmt.Errorf("parse index: %w", err)
	}
	best := choose(m.Manifests, p)
	if best < 0 {
		return v1.Hash{}, fmt.Errorf("%w %s; it has %s", ErrPlatform, p, available(m.Manifests))
	}
	return m.Manifests[best].Digest, nil
}

// Unreachable tells whether err, of Image, means that no place could be
// reached that may have the image, and none said that it has it not or that it
// may not be had.
func Unreachable(err error) bool {
	var pull *pullError
	if !errors.As(err, &pull) || len(pull.errs) == 0 {
		return false
	}
	for _, failure := range pull.errs {
		var status *ggcr.Error
		var network net.Error
		switch {
		case errors.As(failure, &status):
			if status.StatusCode < http.StatusInternalServerError {
				return false
			}
		case !errors.As(failure, &network) && !errors.Is(failure, io.EOF) && !errors.Is(failure, io.ErrUnexpectedEOF):
			return false
		}
	}
	return true
}

// check reads the config of an image. One for another platform is used, as
// Docker does, with a warning, unless it was chosen from an index.
func (c *Client) check(img v1.Image, ref name.Reference, p v1.Platform, indexed bool) error {
	m, err := img.Manifest()
	if err != nil {
		return fmt.Errorf("parse manifest: %w", err)
	}
	if mt := m.Config.MediaType; mt != "" && !mt.IsConfig() {
		return fmt.Errorf("it is not an image: its config has the type %s", mt)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	if len(cf.RootFS.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("the image is broken: %d layers but %d diff ids", len(m.Layers), len(cf.RootFS.DiffIDs))
	}
	have := v1.Platform{OS: cf.OS, Architecture: cf.Architecture, Variant: cf.Variant}
	if !indexed && cf.Architecture != "" && rank(v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}, have) < 0 {
		c.opt.Log.Warn("image is for another platform", "image", ref.String(), "platform", have.String(), "wanted", p.String())
	}
	return nil
}
