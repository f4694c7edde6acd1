package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Read opens the one image in an OCI image layout, which is a directory, or in
// an archive that WriteTar or "docker save" made. An archive that holds a
// layout is unpacked into temp, an existing directory, and keeps its digest;
// of any other the manifest is made anew. The image is read from there as long
// as it is used.
func Read(name, temp string) (v1.Image, error) {
	img, err := read(name, temp)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", name, err)
	}
	return img, nil
}

func read(name, temp string) (v1.Image, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openLayout(name)
	}
	isLayout, err := unpackLayout(name, temp)
	if err != nil {
		return nil, err
	}
	if isLayout {
		return openLayout(temp)
	}
	img, err := tarball.ImageFromPath(name, nil)
	if err != nil {
		return nil, fmt.Errorf("not an image archive: %w", err)
	}
	return img, nil
}

// openLayout opens the image of a layout. Several names of one image are one.
func openLayout(dir string) (v1.Image, error) {
	p, err := layout.FromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("not an OCI image layout: %w", err)
	}
	index, err := p.ImageIndex()
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	found := map[v1.Hash]bool{}
	for _, d := range m.Manifests {
		if d.MediaType.IsIndex() {
			return nil, errors.New("it holds an image for several platforms, which is not supported")
		}
		found[d.Digest] = true
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("it holds %d images: want one", len(found))
	}
	return p.Image(m.Manifests[0].Digest)
}

// unpackLayout unpacks an archive that is an OCI image layout into dir. It
// reports false for one that is not.
func unpackLayout(name, dir string) (isLayout bool, err error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer func() { _ = root.Close() }()
	if err := root.MkdirAll("blobs/sha256", 0o755); err != nil {
		return false, err
	}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return isLayout, nil
		}
		if err != nil {
			return false, fmt.Errorf("not an image archive: %w", err)
		}
		entry := path.Clean(h.Name)
		blob, isBlob := strings.CutPrefix(entry, "blobs/sha256/")
		isBlob = isBlob && len(blob) == 64 && strings.Trim(blob, "0123456789abcdef") == ""
		if h.Typeflag != tar.TypeReg || !isBlob && entry != "oci-layout" && entry != "index.json" {
			continue
		}
		isLayout = isLayout || entry == "oci-layout"
		if err := putFile(root, filepath.FromSlash(entry), tr); err != nil {
			return false, err
		}
	}
}

func putFile(root *os.Root, name string, r io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fs.FileMode(0o644))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
