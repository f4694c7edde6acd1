package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// WriteTar writes img to the file path as an archive that "docker load",
// "podman load" and "ctr image import" read: an OCI image layout with the
// manifest.json of "docker save" beside it. tags are full image names,
// "registry/repository:tag"; without any the image is loaded by its id.
//
// The archive is streamed with constant memory, every blob is verified on the
// way, the directory of path is made, and the file appears under its name only once it is complete. Equal
// images give equal bytes.
func WriteTar(ctx context.Context, path string, img v1.Image, tags []string) error {
	if err := writeTarFile(ctx, path, img, tags); err != nil {
		return fmt.Errorf("write image archive %s: %w", path, err)
	}
	return nil
}

func writeTarFile(ctx context.Context, path string, img v1.Image, tags []string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already if all went well
	if err := writeTar(ctx, f, img, tags); err != nil {
		_ = f.Close()
		return err
	}
	return commit(f, path)
}

// dockerManifest is one element of manifest.json.
type dockerManifest struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

func writeTar(ctx context.Context, w io.Writer, img v1.Image, tags []string) error {
	blobs, manifest, err := contents(img)
	if err != nil {
		return err
	}
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, b := range blobs {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: blobPath(b.desc.Digest), Mode: 0o644, Size: b.desc.Size}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if err := b.copyTo(ctx, tw); err != nil {
			return err
		}
	}
	docker := dockerManifest{Config: blobPath(m.Config.Digest), RepoTags: tags, Layers: []string{}}
	for _, d := range m.Layers {
		docker.Layers = append(docker.Layers, blobPath(d.Digest))
	}
	names := tags
	if len(names) == 0 {
		names = []string{""}
	}
	if err := addJSON(tw, "index.json", indexOf(manifest, names)); err != nil {
		return err
	}
	if err := addJSON(tw, "manifest.json", []dockerManifest{docker}); err != nil {
		return err
	}
	if err := addFile(tw, "oci-layout", []byte(layoutFile)); err != nil {
		return err
	}
	return tw.Close()
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func addJSON(tw *tar.Writer, name string, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return addFile(tw, name, content)
}

func addFile(tw *tar.Writer, name string, content []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(content)
	return err
}
