// Package filelayer makes image layers of programs and other files, for images
// that tests need and that no Dockerfile describes.
package filelayer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// New returns a layer with the given files: their paths in the layer, without
// the leading slash, and the files they are copied from. All belong to root and
// may be read and executed by everybody. Directories are made as needed.
func New(files map[string]string) (v1.Layer, error) {
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	dirs := map[string]bool{".": true}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := addDirs(w, dirs, path.Dir(name)); err != nil {
			return nil, fmt.Errorf("layer of %s: %w", name, err)
		}
		content, err := os.ReadFile(files[name])
		if err != nil {
			return nil, fmt.Errorf("layer of %s: %w", name, err)
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("layer of %s: %w", name, err)
		}
		if _, err := w.Write(content); err != nil {
			return nil, fmt.Errorf("layer of %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw.Bytes())), nil
	})
}

func addDirs(w *tar.Writer, have map[string]bool, dir string) error {
	if have[dir] {
		return nil
	}
	if err := addDirs(w, have, path.Dir(dir)); err != nil {
		return err
	}
	have[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}
