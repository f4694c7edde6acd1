package step

import (
	"archive/tar"
	"io"

	"github.com/kilnhook/kiln/executor/internal/decompress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// IsArchive reports whether ADD unpacks a regular file: whether it is a tar
// archive, compressed or not, going by its content.
func IsArchive(src rootfs.FS, name string) (bool, error) {
	f, err := src.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close() // read only
	return isArchive(f), nil
}

func isArchive(f io.Reader) bool {
	r, _, err := decompress.New(f)
	if err != nil {
		return false // damaged or something else: a file like any other
	}
	defer r.Close() // read only
	_, err = tar.NewReader(r).Next()
	return err == nil
}
