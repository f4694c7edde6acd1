package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// ErrNotFound means that the registry answered and has no such image. It is
// also an fs.ErrNotExist.
var ErrNotFound = fmt.Errorf("no such image in the registry: %w", fs.ErrNotExist)

// Client talks to registries. The zero value works: credentials from the
// keychain of the container tools, HTTPS except to the loopback interface.
type Client struct {
	Keychain  authn.Keychain    // nil is authn.DefaultKeychain
	Plain     []string          // hosts reached without TLS, beside loopback ones
	Transport http.RoundTripper // nil is remote.DefaultTransport
}

func (c Client) options(ctx context.Context) []remote.Option {
	keychain, rt := c.Keychain, c.Transport
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	if rt == nil {
		rt = remote.DefaultTransport
	}
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain), remote.WithTransport(rt)}
}

func (c Client) repository(repo string) (name.Repository, error) {
	r, err := name.NewRepository(repo)
	if err != nil {
		return r, fmt.Errorf("parse repository %q: %w", repo, err)
	}
	if slices.Contains(c.Plain, r.RegistryStr()) {
		return name.NewRepository(repo, name.Insecure)
	}
	return r, nil
}

// CheckDigest asks the registry of repo, a repository without a tag, whether
// it has the manifest digest. The error wraps ErrNotFound if it does not.
func (c Client) CheckDigest(ctx context.Context, repo, digest string) error {
	r, err := c.repository(repo)
	if err != nil {
		return err
	}
	hash, err := v1.NewHash(digest)
	if err != nil {
		return fmt.Errorf("check digest of %s: %w", repo, err)
	}
	got, err := remote.Head(r.Digest(digest), c.options(ctx)...)
	if err != nil {
		return fmt.Errorf("check %s@%s: %w", repo, digest, notFound(err))
	}
	if got.Digest != hash {
		return fmt.Errorf("check %s@%s: the registry answered with %s", repo, digest, got.Digest)
	}
	return nil
}

// MoveTags makes tags of repo name the manifest digest, which must be there.
// Moving a tag to where it is changes nothing. The error wraps ErrNotFound if
// the manifest is missing, and fs.ErrPermission if the registry will never
// move the tag, as where tags cannot be overwritten.
func (c Client) MoveTags(ctx context.Context, repo, digest string, tags []string) error {
	r, err := c.repository(repo)
	if err != nil || len(tags) == 0 {
		return err
	}
	manifest, err := remote.Get(r.Digest(digest), c.options(ctx)...)
	if err != nil {
		return fmt.Errorf("read %s@%s: %w", repo, digest, notFound(err))
	}
	for _, tag := range tags {
		if err := remote.Tag(r.Tag(tag), manifest, c.options(ctx)...); err != nil {
			return fmt.Errorf("move tag %s:%s to %s: %w", repo, tag, digest, forbidden(err))
		}
	}
	return nil
}

// Resolve returns the digest that a reference names. The error wraps
// ErrNotFound if there is none.
func (c Client) Resolve(ctx context.Context, ref string) (digest string, err error) {
	r, err := c.reference(ref)
	if err != nil {
		return "", err
	}
	got, err := remote.Head(r, c.options(ctx)...)
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", ref, notFound(err))
	}
	return got.Digest.String(), nil
}

func (c Client) reference(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("parse image reference: %w", err)
	}
	if slices.Contains(c.Plain, r.Context().RegistryStr()) {
		return name.ParseReference(ref, name.Insecure)
	}
	return r, nil
}

// Push uploads an image and makes ref name it.
func (c Client) Push(ctx context.Context, ref string, img v1.Image) error {
	r, err := c.reference(ref)
	if err != nil {
		return err
	}
	if err := remote.Write(r, img, c.options(ctx)...); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// Pulled says what Pull downloaded.
type Pulled struct {
	Digest string `json:"digest"` // of the manifest
	Layers int    `json:"layers"` // number of layers
	Bytes  int64  `json:"bytes"`  // of config and layers, compressed
}

// Pull downloads the image that ref names, config and every layer, verifies
// all digests, sizes and diff ids, and keeps nothing.
func (c Client) Pull(ctx context.Context, ref string) (Pulled, error) {
	r, err := c.reference(ref)
	if err != nil {
		return Pulled{}, err
	}
	img, err := remote.Image(r, c.options(ctx)...)
	if err != nil {
		return Pulled{}, fmt.Errorf("pull %s: %w", ref, notFound(err))
	}
	if err := validate.Image(img); err != nil {
		return Pulled{}, fmt.Errorf("verify %s: %w", ref, err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		return Pulled{}, fmt.Errorf("pull %s: %w", ref, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return Pulled{}, fmt.Errorf("pull %s: %w", ref, err)
	}
	p := Pulled{Digest: digest.String(), Layers: len(manifest.Layers), Bytes: manifest.Config.Size}
	for _, l := range manifest.Layers {
		p.Bytes += l.Size
	}
	return p, nil
}

// Image returns the image of a repository, a name without a tag, that has a digest.
// Its config and layers are downloaded when they are asked for.
func (c Client) Image(ctx context.Context, repo, digest string) (v1.Image, error) {
	r, err := c.repository(repo)
	if err != nil {
		return nil, err
	}
	img, err := remote.Image(r.Digest(digest), c.options(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("read %s@%s: %w", repo, digest, notFound(err))
	}
	return img, nil
}

// Reachable reports whether a registry answers at the base URL of its API,
// such as "https://registry-1.docker.io/v2/": 200, or 401 because it wants
// credentials. Any other answer comes from something in between.
func (c Client) Reachable(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	rt := c.Transport
	if rt == nil {
		rt = remote.DefaultTransport
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return errors.Join(err, resp.Body.Close()) == nil &&
		(resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized)
}

// notFound adds ErrNotFound to the error of a registry that says 404.
func notFound(err error) error {
	var terr *transport.Error
	if errors.As(err, &terr) && terr.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// forbidden adds fs.ErrPermission to the error of a registry that refuses for
// good.
func forbidden(err error) error {
	var terr *transport.Error
	if errors.As(err, &terr) && slices.Contains([]int{http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusPreconditionFailed}, terr.StatusCode) {
		return fmt.Errorf("%w: %w", fs.ErrPermission, err)
	}
	return err
}
