package cache

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

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/image"
)

// maxDocument is the size of an index or a manifest that is still read.
const maxDocument = 4 << 20

// NewDir returns the cache in a directory, which is made when something is
// stored. Each entry is an OCI image layout in a directory that is called
// after its key. Entries appear and disappear as a whole.
func NewDir(path string, opt Options) *Cache { return newCache(&dir{path: path}, opt) }

type dir struct{ path string }

var _ store = (*dir)(nil)

func (d *dir) entry(k Key) string { return filepath.Join(d.path, k.String()) }

func (d *dir) blobPath(k Key, h v1.Hash) string {
	return filepath.Join(d.entry(k), "blobs", h.Algorithm, h.Hex)
}

func (d *dir) manifest(_ context.Context, k Key) ([]byte, error) {
	raw, err := readDocument(filepath.Join(d.entry(k), "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNone
	}
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	var index v1.IndexManifest
	if json.Unmarshal(raw, &index) != nil || len(index.Manifests) != 1 || !isSHA256(index.Manifests[0].Digest) {
		return nil, &badEntryError{why: "the entry is broken: its index is not valid"}
	}
	want := index.Manifests[0].Digest
	if raw, err = readDocument(d.blobPath(k, want)); err != nil {
		return nil, &badEntryError{why: fmt.Sprintf("the entry is broken: %v", err)}
	}
	if got, _, err := v1.SHA256(bytes.NewReader(raw)); err != nil || got != want {
		return nil, &badEntryError{why: "the entry is broken: its manifest does not have the digest that its index says"}
	}
	return raw, nil
}

// readDocument reads a small file.
func readDocument(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxDocument)
	}
	return b, err
}

func (d *dir) layer(_ context.Context, k Key, desc v1.Descriptor, diffID v1.Hash) (v1.Layer, func() error, error) {
	path := d.blobPath(k, desc.Digest)
	exists := func() (bool, error) {
		info, err := os.Stat(path)
		return err == nil && info.Mode().IsRegular() && info.Size() == desc.Size, err
	}
	check := func() error {
		ok, err := exists()
		if err == nil && !ok {
			return &badEntryError{why: "the entry is broken: its layer does not have the size that its manifest says"}
		}
		return err
	}
	return &layer{desc: desc, diffID: diffID, exists: exists, open: func() (io.ReadCloser, error) { return os.Open(path) }}, check, nil
}

func (d *dir) blob(_ context.Context, k Key, desc v1.Descriptor) (io.ReadCloser, error) {
	f, err := os.Open(d.blobPath(k, desc.Digest))
	if err != nil {
		return nil, err
	}
	return verify(f, desc.Digest)
}

// put writes the entry beside its place and moves it there.
func (d *dir) put(ctx context.Context, k Key, img v1.Image) error {
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(d.path, ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temp) }()
	fresh := filepath.Join(temp, "entry")
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return err
	}
	if err := image.WriteLayout(ctx, fresh, img, k.String()); err != nil {
		return err
	}
	if err := os.Rename(fresh, d.entry(k)); err == nil {
		return nil
	}
	// There is one already, which a directory cannot replace: it goes first.
	if err := os.Rename(d.entry(k), filepath.Join(temp, "old")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = os.Rename(fresh, d.entry(k))
	if errors.Is(err, fs.ErrExist) || err != nil && d.complete(k) {
		return nil // another process was faster; its entry is as good
	}
	return err
}

func (d *dir) replace(ctx context.Context, k Key, img v1.Image) error { return d.put(ctx, k, img) }

// complete says whether there is an entry.
func (d *dir) complete(k Key) bool {
	_, err := os.Stat(filepath.Join(d.entry(k), "index.json"))
	return err == nil
}
