package compare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// OpenOptions says how to find an image.
type OpenOptions struct {
	Platform v1.Platform // which image of an index; the zero value is Linux on the processor at hand
	Insecure bool        // speak HTTP to registries other than those on this machine
}

// Open finds the image that ref names: a directory holds an OCI image layout
// and may be followed by "@" and a digest, a file is a tar archive as docker
// save writes it, and anything else is looked up in a registry with the
// credentials of the Docker configuration. Layers are read later, as streams.
func Open(ctx context.Context, ref string, o OpenOptions) (v1.Image, error) {
	if o.Platform.OS == "" {
		o.Platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	dir, digest, _ := strings.Cut(ref, "@")
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return openRemote(ctx, ref, o)
	case err != nil:
		return nil, fmt.Errorf("open image %s: %w", ref, err)
	case info.IsDir():
		return openLayout(dir, digest, o)
	}
	img, err := tarball.ImageFromPath(ref, nil)
	if err != nil {
		return nil, fmt.Errorf("open docker archive %s: %w", ref, err)
	}
	return img, nil
}

func openRemote(ctx context.Context, ref string, o OpenOptions) (v1.Image, error) {
	var opts []name.Option
	if o.Insecure {
		opts = append(opts, name.Insecure)
	}
	r, err := name.ParseReference(ref, opts...)
	if err != nil {
		return nil, fmt.Errorf("%q is neither a file nor a reference: %w", ref, err)
	}
	img, err := remote.Image(r, remote.WithContext(ctx), remote.WithPlatform(o.Platform),
		remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", ref, err)
	}
	return img, nil
}

func openLayout(dir, digest string, o OpenOptions) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(filepath.Clean(dir))
	if err != nil {
		return nil, fmt.Errorf("open image layout %s: %w", dir, err)
	}
	img, err := pick(index, digest, o.Platform)
	if err != nil {
		return nil, fmt.Errorf("open image layout %s: %w", dir, err)
	}
	return img, nil
}

// pick returns the one image of an index, nested ones included, that has the
// digest, if one is given, and the platform.
func pick(index v1.ImageIndex, digest string, platform v1.Platform) (v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []v1.Image
	for _, d := range manifest.Manifests {
		switch {
		case d.MediaType.IsIndex():
			child, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			want := digest
			if d.Digest.String() == digest {
				want = ""
			}
			if img, err := pick(child, want, platform); err == nil {
				found = append(found, img)
			}
		case digest != "" && d.Digest.String() != digest:
		case d.Platform != nil && !d.Platform.Satisfies(platform):
		default:
			img, err := index.Image(d.Digest)
			if err != nil {
				return nil, err
			}
			found = append(found, img)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("want one image for %s, found %d; name it as DIR@DIGEST", platform, len(found))
	}
	return found[0], nil
}
