package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations of a manifest in an index that say what the image is called.
const (
	refNameAnnotation   = "org.opencontainers.image.ref.name"
	imageNameAnnotation = "io.containerd.image.name"
)

// layoutFile is the content of "oci-layout".
const layoutFile = `{"imageLayoutVersion":"1.0.0"}`

// WriteLayout makes dir an OCI image layout that holds exactly img. What a
// layout in dir held before is no longer in its index and its blobs are
// removed. name, which may be empty, becomes the image's name in the index. Every
// blob is verified while it is written; one that is there already is kept if
// its bytes are right. The index is replaced last and atomically, so that a
// reader sees the old image or the new one.
func WriteLayout(ctx context.Context, dir string, img v1.Image, name string) error {
	if err := writeLayout(ctx, dir, img, name); err != nil {
		return fmt.Errorf("write OCI layout %s: %w", dir, err)
	}
	return nil
}

func writeLayout(ctx context.Context, dir string, img v1.Image, name string) error {
	blobDir := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobDir, 0o755); err != nil {
		return err
	}
	blobs, manifest, err := contents(img)
	if err != nil {
		return err
	}
	keep := make(map[string]bool, len(blobs))
	for _, b := range blobs {
		keep[b.desc.Digest.Hex] = true
		if err := b.writeTo(ctx, blobDir); err != nil {
			return err
		}
	}
	index, err := json.Marshal(indexOf(manifest, []string{name}))
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "oci-layout"), []byte(layoutFile)); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "index.json"), index); err != nil {
		return err
	}
	return prune(blobDir, keep)
}

// blob is something that an image is made of: a layer, config or manifest.
type blob struct {
	desc v1.Descriptor
	open func() (io.ReadCloser, error)
}

// contents returns the blobs of img, each once and the manifest last, and the
// manifest's descriptor.
func contents(img v1.Image) ([]blob, v1.Descriptor, error) {
	m, err := img.Manifest()
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	cfg, err := img.RawConfigFile()
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	if len(layers) != len(m.Layers) {
		return nil, v1.Descriptor{}, fmt.Errorf("image has %d layers but its manifest %d", len(layers), len(m.Layers))
	}
	digest, size, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	desc := v1.Descriptor{MediaType: m.MediaType, Size: size, Digest: digest}
	if desc.MediaType == "" {
		desc.MediaType = types.OCIManifestSchema1
	}
	var blobs []blob
	seen := map[v1.Hash]bool{}
	for i, l := range layers {
		if d := m.Layers[i]; !seen[d.Digest] {
			seen[d.Digest] = true
			blobs = append(blobs, blob{desc: d, open: l.Compressed})
		}
	}
	blobs = append(blobs, bytesBlob(m.Config, cfg), bytesBlob(desc, raw))
	return blobs, desc, nil
}

func bytesBlob(desc v1.Descriptor, content []byte) blob {
	return blob{desc: desc, open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
}

// writeTo writes the blob into dir under its digest.
func (b blob) writeTo(ctx context.Context, dir string) error {
	path := filepath.Join(dir, b.desc.Digest.Hex)
	if b.isAt(ctx, path) {
		return nil
	}
	f, err := os.CreateTemp(dir, ".blob-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already if all went well
	if err := b.copyTo(ctx, f); err != nil {
		_ = f.Close()
		return err
	}
	return commit(f, path)
}

// isAt says whether the file at path is this blob, down to its bytes.
func (b blob) isAt(ctx context.Context, path string) bool {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() != b.desc.Size {
		return false
	}
	on := blob{desc: b.desc, open: func() (io.ReadCloser, error) { return os.Open(path) }}
	return on.copyTo(ctx, io.Discard) == nil
}

// copyTo copies the blob to w and verifies its size and digest.
func (b blob) copyTo(ctx context.Context, w io.Writer) error {
	r, err := b.open()
	if err != nil {
		return fmt.Errorf("read blob %s: %w", b.desc.Digest, err)
	}
	defer func() { _ = r.Close() }()
	h, err := v1.Hasher(b.desc.Digest.Algorithm)
	if err != nil {
		return fmt.Errorf("verify blob %s: %w", b.desc.Digest, err)
	}
	// One byte more than announced is enough to know that it is too long.
	limited := io.LimitReader(&cancelReader{ctx: ctx, r: r}, b.desc.Size+1)
	n, err := io.Copy(io.MultiWriter(w, h), limited)
	if err != nil {
		return fmt.Errorf("copy blob %s: %w", b.desc.Digest, err)
	}
	if n != b.desc.Size {
		return fmt.Errorf("blob %s is not %d bytes long as its descriptor says", b.desc.Digest, b.desc.Size)
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != b.desc.Digest.Hex {
		return fmt.Errorf("blob %s is corrupt: its digest is %s", b.desc.Digest, got)
	}
	return nil
}

// cancelReader stops a copy when its context is done.
type cancelReader struct {
	ctx context.Context //nolint:containedctx // lives as long as one copy
	r   io.Reader
}

func (c *cancelReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// indexOf is an index with one entry for each name, all of the same manifest.
func indexOf(manifest v1.Descriptor, names []string) v1.IndexManifest {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, name := range names {
		d := manifest
		if name != "" {
			d.Annotations = map[string]string{imageNameAnnotation: name, refNameAnnotation: tagOf(name)}
		}
		index.Manifests = append(index.Manifests, d)
	}
	return index
}

// tagOf is the tag of an image name, or the name if it has none.
func tagOf(name string) string {
	if i := strings.LastIndexByte(name, ':'); i >= 0 && !strings.Contains(name[i:], "/") {
		return name[i+1:]
	}
	return name
}

// prune removes the blobs in dir that keep does not name. Files that are no
// blobs are left alone.
func prune(dir string, keep map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if keep[e.Name()] || !isHex64(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func isHex64(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// writeFile replaces the file at path atomically.
func writeFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".file-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if _, err := f.Write(content); err != nil {
		_ = f.Close()
		return err
	}
	return commit(f, path)
}

// commit makes f durable and moves it to path. It closes f.
func commit(f *os.File, path string) error {
	err := f.Chmod(0o644)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
