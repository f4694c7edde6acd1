package image

import (
	"bytes"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// dockerZstdLayer is what BuildKit calls a zstd layer in an image with
// Docker's media types.
const dockerZstdLayer types.MediaType = "application/vnd.docker.image.rootfs.diff.tar.zstd"

// ociLayerType is the OCI media type of a layer with Docker's media type mt;
// any other type is left as it is.
func ociLayerType(mt types.MediaType) types.MediaType {
	switch mt {
	case types.DockerLayer:
		return types.OCILayer
	case types.DockerUncompressedLayer:
		return types.OCIUncompressedLayer
	case types.DockerForeignLayer:
		return types.OCIRestrictedLayer
	case dockerZstdLayer:
		return types.OCILayerZStd
	}
	return mt
}

// dockerLayerType is Docker's media type of a layer with the OCI type mt; any
// other type is left as it is.
func dockerLayerType(mt types.MediaType) types.MediaType {
	switch mt {
	case types.OCILayer:
		return types.DockerLayer
	case types.OCIUncompressedLayer:
		return types.DockerUncompressedLayer
	case types.OCIRestrictedLayer:
		return types.DockerForeignLayer
	case types.OCILayerZStd:
		return dockerZstdLayer
	}
	return mt
}

// retype returns l under the media type want.
func retype(l v1.Layer, have, want types.MediaType) v1.Layer {
	if have == want {
		return l
	}
	return &retyped{Layer: l, mediaType: want}
}

// retyped is a layer under another media type. Its bytes are the same.
type retyped struct {
	v1.Layer
	mediaType types.MediaType
}

func (r *retyped) MediaType() (types.MediaType, error) { return r.mediaType, nil }

// Unwrap returns the layer itself, which may know where it can be mounted from.
func (r *retyped) Unwrap() v1.Layer { return r.Layer }

// configLayer is the config as a blob.
type configLayer struct {
	hash      v1.Hash
	content   []byte
	mediaType types.MediaType
}

var _ v1.Layer = (*configLayer)(nil)

func (c *configLayer) Digest() (v1.Hash, error) { return c.hash, nil }

func (c *configLayer) DiffID() (v1.Hash, error) { return c.hash, nil }

func (c *configLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(c.content)), nil
}

func (c *configLayer) Uncompressed() (io.ReadCloser, error) { return c.Compressed() }

func (c *configLayer) Size() (int64, error) { return int64(len(c.content)), nil }

func (c *configLayer) MediaType() (types.MediaType, error) { return c.mediaType, nil }
