package step

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// spool writes a download to a file without a name in dir and, if checksum is
// not "", compares its digest with that: nothing has been used yet if it is
// another. The file is at its start.
func spool(ctx context.Context, dir string, body io.Reader, checksum string) (_ *os.File, err error) {
	f, err := os.CreateTemp(dir, "download-*")
	if err != nil {
		return nil, fmt.Errorf("keep download: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, fmt.Errorf("keep download: %w", err)
	}
	algorithm := digest.Canonical
	if checksum != "" {
		algorithm = digest.Digest(checksum).Algorithm()
	}
	sum := algorithm.Digester()
	if _, err := io.Copy(io.MultiWriter(f, sum.Hash()), ctxReader{ctx, body}); err != nil {
		return nil, fmt.Errorf("keep download: %w", err)
	}
	if got := sum.Digest().String(); checksum != "" && got != checksum {
		return nil, fmt.Errorf("the download is %s and not %s, as --checksum says", got, checksum)
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}
