package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/events"
)

// index is an image index as it is pushed.
type index []byte

// RawManifest implements remote.Taggable.
func (i index) RawManifest() ([]byte, error) { return i, nil }

// MediaType says what it is.
func (index) MediaType() (types.MediaType, error) { return types.OCIImageIndex, nil }

// PushIndex makes an OCI image index of manifests that repo has, one for each
// platform, in the order given, and pushes it by digest. The same manifests make
// the same index; one that is there is not pushed again. The error wraps
// ErrNotFound if a manifest is missing, and fs.ErrInvalid if it is not an image's.
func (c Client) PushIndex(ctx context.Context, repo string, platforms []events.PlatformInfo) (digest, mediaType string, err error) {
	r, err := c.repository(repo)
	if err != nil {
		return "", "", err
	}
	manifest := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, p := range platforms {
		got, err := remote.Head(r.Digest(p.Digest), c.options(ctx)...)
		if err != nil {
			return "", "", fmt.Errorf("look up %s@%s: %w", repo, p.Digest, notFound(err))
		}
		if !got.MediaType.IsImage() {
			return "", "", fmt.Errorf("%s@%s, for %s, is %s and not an image: %w", repo, p.Digest, p, got.MediaType, fs.ErrInvalid)
		}
		manifest.Manifests = append(manifest.Manifests, v1.Descriptor{
			MediaType: got.MediaType, Size: got.Size, Digest: got.Digest,
			Platform: &v1.Platform{OS: p.OS, Architecture: p.Arch, Variant: p.Variant},
		})
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return "", "", fmt.Errorf("make index: %w", err)
	}
	hash, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return "", "", fmt.Errorf("make index: %w", err)
	}
	switch err := c.CheckDigest(ctx, repo, hash.String()); {
	case err == nil:
		return hash.String(), string(types.OCIImageIndex), nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	}
	if err := remote.Put(r.Digest(hash.String()), index(raw), c.options(ctx)...); err != nil {
		return "", "", fmt.Errorf("push index to %s: %w", repo, err)
	}
	return hash.String(), string(types.OCIImageIndex), nil
}
