// Package store keeps what builds on one machine have in common: the indexes of
// layers and extracted images. Any number of processes may use one directory at
// once, and each may be killed at any time.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/layer"
)

// Store is a directory with
//
//	indexes/<diff id>   what layer.WriteIndex wrote
//	new/                what is being made
type Store struct {
	dir string
}

// Open returns the store in dir, which is made if it is not there.
func Open(dir string) (*Store, error) {
	for _, sub := range []string{"indexes", "new"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("prepare store: %w", err)
		}
	}
	return &Store{dir: dir}, nil
}

// Index returns the index of a layer, which is made and kept if it is not known.
func (s *Store) Index(ctx context.Context, l v1.Layer) (io.ReadCloser, error) {
	diffID, err := l.DiffID()
	if err != nil {
		return nil, fmt.Errorf("index layer: %w", err)
	}
	path := filepath.Join(s.dir, "indexes", diffID.Hex)
	f, err := os.Open(path)
	if err == nil {
		now := time.Now()
		_ = os.Chtimes(path, now, now) // the one used last goes last
		return f, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read layer index: %w", err)
	}
	return s.makeIndex(ctx, path, l)
}

// makeIndex makes a file beside its place, so that it appears as a whole.
func (s *Store) makeIndex(ctx context.Context, path string, l v1.Layer) (io.ReadCloser, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "new"), "index-*")
	if err != nil {
		return nil, fmt.Errorf("keep layer index: %w", err)
	}
	fail := func(err error) (io.ReadCloser, error) {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if err := layer.WriteIndex(ctx, l, f); err != nil {
		return fail(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fail(fmt.Errorf("keep layer index: %w", err))
	}
	if err := errors.Join(f.Sync(), os.Rename(f.Name(), path)); err != nil {
		return fail(fmt.Errorf("keep layer index: %w", err))
	}
	return f, nil
}
