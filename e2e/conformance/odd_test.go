package conformance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/lab"
)

// oddity carries out a directive about files that few contexts have. late is
// what is left to do once all files have their times.
func (l *layout) oddity(d directive) (late func() error, err error) {
	first, second, two := strings.Cut(d.rest, " ")
	switch {
	case d.word == "touch" && two:
		at, err := time.Parse(time.RFC3339Nano, first)
		return func() error { return os.Chtimes(l.path(second), at, at) }, err
	case d.word == "sparse" && two:
		size, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return nil, err
		}
		return nil, sparse(l.path(second), size)
	case d.word == "socket":
		return nil, socket(l.path(d.rest))
	case d.word == "rename" && two:
		return nil, os.Rename(l.path(first), l.path(second))
	case d.word == "truncate" && two:
		size, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return nil, err
		}
		return nil, os.Truncate(l.path(second), size)
	case d.word == "gzip" && two:
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write([]byte(second))
		return nil, errors.Join(err, z.Close(), os.WriteFile(l.path(first), b.Bytes(), 0o644))
	case d.word == "entry":
		return nil, l.entry(d.rest)
	}
	return nil, errors.New("unknown directive")
}

// sparse makes a file of holes with three bytes at its end.
func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("end"), size-3)
	return errors.Join(err, f.Close())
}

// socket leaves a socket that nobody listens to.
func socket(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

// entry adds a file to an archive: "ARCHIVE TYPE MODE UID:GID NAME [DATA]".
func (l *layout) entry(words string) error {
	w := append(strings.SplitN(words, " ", 6), "")
	if len(w) < 6 {
		return errors.New("want ARCHIVE TYPE MODE UID:GID NAME [DATA]")
	}
	data := w[5]
	mode, err := strconv.ParseInt(w[2], 8, 32)
	if err != nil {
		return err
	}
	h := &tar.Header{Mode: mode, Name: w[4], ModTime: lab.ContextTime(), Format: tar.FormatPAX}
	if _, err := fmt.Sscanf(w[3], "%d:%d", &h.Uid, &h.Gid); err != nil {
		return err
	}
	types := map[string]byte{
		"file": tar.TypeReg, "dir": tar.TypeDir, "symlink": tar.TypeSymlink, "hardlink": tar.TypeLink,
		"fifo": tar.TypeFifo, "char": tar.TypeChar, "block": tar.TypeBlock,
	}
	switch h.Typeflag = types[w[1]]; h.Typeflag {
	case tar.TypeReg:
		h.Size = int64(len(data))
	case tar.TypeSymlink, tar.TypeLink:
		h.Linkname = data
	case tar.TypeChar, tar.TypeBlock:
		if _, err := fmt.Sscanf(data, "%d,%d", &h.Devmajor, &h.Devminor); err != nil {
			return err
		}
	case tar.TypeDir, tar.TypeFifo:
	default:
		return fmt.Errorf("unknown type %q", w[1])
	}
	if l.archives == nil {
		l.archives = map[string][]archived{}
	}
	l.archives[w[0]] = append(l.archives[w[0]], archived{h, data})
	return write(l.path(w[0]), l.archives[w[0]])
}

// archived is an entry of an archive.
type archived struct {
	header *tar.Header
	data   string
}

func write(path string, entries []archived) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(e.header); err != nil {
			return err
		}
		if e.header.Typeflag != tar.TypeReg {
			continue
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), os.MkdirAll(filepath.Dir(path), 0o755)); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
