// Package store keeps what builds on one machine have in common: the indexes of
// layers, and extracted images. Any number of processes may use one directory at once, and each may be
// killed at any time.
package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/layer"
)

// Remote has indexes that other machines made. It may forget.
type Remote interface {
	// Index returns the index of the layer with a diff id; nil if there is none.
	// The error is that of ctx.
	Index(ctx context.Context, diffID v1.Hash) (io.ReadCloser, error)
	// PutIndex stores an index. An error is for the log.
	PutIndex(ctx context.Context, diffID v1.Hash, content []byte) error
}

// Options of a store.
type Options struct {
	// Lasting says that other builds will use the directory.
	Lasting bool
	// Size is how many bytes may stay when the store is closed; 0: any number.
	Size   int64
	Remote Remote // asked for indexes before they are made; nil: nobody
	// Now is the clock that says what was used last. It is required.
	Now func() time.Time
	Log *slog.Logger // takes warnings; nil: none
}

// Store is a directory with
//
//	indexes-<format>/<diff id>   what layer.WriteIndex wrote
//	indexes-<format>/<table>     what layer.Table.WriteIndex wrote
//	images/<key>/root            the files of an image
//	images/<key>.lock            locked by those who use it
//	new/                         what is being made
type Store struct {
	dir     string
	indexes string
	owners  string // as which users' files are extracted
	boot    string
	opt     Options
	work    sync.WaitGroup

	mu   sync.Mutex
	used []*os.File // locks of images
}

// Open returns the store in dir, which is made if it is not there.
func Open(dir string, opt Options) (*Store, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	format := fnv.New32a()
	_, _ = io.WriteString(format, layer.IndexFormat)
	s := &Store{dir: dir, indexes: filepath.Join(dir, "indexes-"+hex.EncodeToString(format.Sum(nil))), owners: ownerMap(), boot: bootID(), opt: opt}
	for _, d := range []string{s.indexes, filepath.Join(dir, "images"), filepath.Join(dir, "new")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("prepare store: %w", err)
		}
	}
	return s, nil
}

// Close waits for what runs in the background, gives up the images that were in
// use, and removes what is over the budget.
func (s *Store) Close() error {
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, lock := range s.used {
		errs = append(errs, lock.Close())
	}
	s.used = nil
	if s.opt.Lasting {
		s.trim()
	}
	return errors.Join(errs...)
}

// indexed is a layer that knows its index.
type indexed interface {
	Index() (io.ReadCloser, error)
}

// Index returns the index of a layer, as layer.WriteIndex writes it. It is made,
// and kept, if nobody has it, or if what they have is of no use: anew. Of a layer that
// has a table of contents it is made of that, so that the layer need not be read.
func (s *Store) Index(ctx context.Context, l v1.Layer, anew bool) (io.ReadCloser, error) {
	if !anew {
		if rc, err := s.Known(ctx, l); rc != nil || err != nil {
			return rc, err
		}
		if rc, err := s.listed(ctx, l); rc != nil || err != nil {
			return rc, err
		}
	}
	diffID, err := l.DiffID()
	if err != nil {
		return nil, fmt.Errorf("index layer: %w", err)
	}
	return s.make(ctx, l, diffID, anew)
}

// Known returns the index of a layer; nil if nobody has it.
func (s *Store) Known(ctx context.Context, l v1.Layer) (io.ReadCloser, error) {
	if x, ok := l.(indexed); ok {
		rc, err := x.Index()
		if err == nil {
			return rc, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.opt.Log.Warn("index of cached layer cannot be read", "err", err)
	}
	diffID, err := l.DiffID()
	if err != nil {
		return nil, fmt.Errorf("index layer: %w", err)
	}
	path := s.path(diffID)
	f, err := os.Open(path)
	if err == nil {
		now := s.opt.Now()
		_ = os.Chtimes(path, now, now) // what was used last is removed last
		return f, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read layer index: %w", err)
	}
	if s.opt.Remote == nil {
		return nil, nil
	}
	rc, err := s.opt.Remote.Index(ctx, diffID)
	if rc == nil || err != nil {
		return nil, err
	}
	defer rc.Close() // read only
	return s.keep(s.path(diffID), func(w io.Writer) error {
		_, err := io.Copy(w, rc)
		return err
	})
}

func (s *Store) path(diffID v1.Hash) string { return filepath.Join(s.indexes, diffID.Hex) }

// listed returns the index by a layer's table of contents; nil if that is of no use.
//
// It is never kept as the index of the layer's diff id, nor given to others: whoever
// makes an image can have its table say what they like, and indexes by diff id are taken
// for layers of any image. Here it goes by the digests of layer and table, so that it
// counts only for who names both.
func (s *Store) listed(ctx context.Context, l v1.Layer) (io.ReadCloser, error) {
	table := layer.TableOf(l)
	if table == nil {
		return nil, nil
	}
	path := filepath.Join(s.indexes, table.Key())
	if f, err := os.Open(path); err == nil {
		now := s.opt.Now()
		_ = os.Chtimes(path, now, now)
		return f, nil
	}
	f, err := s.keep(path, func(w io.Writer) error { return table.WriteIndex(ctx, w) })
	switch {
	case err == nil:
		return f, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case layer.TableIsWrong(err):
		s.opt.Log.Warn("table of contents of layer is not used: the layer is read instead", "err", err)
	default:
		s.opt.Log.Debug("table of contents of layer is not used: the layer is read instead", "err", err)
	}
	return nil, nil
}

// make reads the layer.
func (s *Store) make(ctx context.Context, l v1.Layer, diffID v1.Hash, anew bool) (io.ReadCloser, error) {
	f, err := s.keep(s.path(diffID), func(w io.Writer) error { return layer.WriteIndex(ctx, l, w) })
	if err == nil {
		s.share(ctx, diffID, anew)
	}
	return f, err
}

// Record calls extract for a layer with where to write its index, if that is of
// use to others and not known.
func (s *Store) Record(ctx context.Context, l v1.Layer, extract func(index io.Writer) error) error {
	diffID, err := l.DiffID()
	if err != nil || !s.opt.Lasting && s.opt.Remote == nil {
		return extract(nil) // also a layer that is still being written
	}
	if _, err := os.Stat(s.path(diffID)); err == nil {
		return extract(nil)
	}
	f, err := s.keep(s.path(diffID), extract)
	if err != nil {
		return err
	}
	s.share(ctx, diffID, false)
	return f.Close()
}

// errSlow ends the upload of an index that nobody should wait for any longer.
var errSlow = errors.New("it takes too long")

// share gives an index to the remote in the background; anew, also if that has one.
func (s *Store) share(ctx context.Context, diffID v1.Hash, anew bool) {
	if s.opt.Remote == nil {
		return
	}
	s.work.Go(func() {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errSlow)
		defer cancel()
		if !anew {
			if rc, err := s.opt.Remote.Index(ctx, diffID); rc != nil || err != nil {
				if rc != nil {
					_ = rc.Close()
				}
				return
			}
		}
		content, err := os.ReadFile(s.path(diffID))
		if err == nil {
			err = s.opt.Remote.PutIndex(ctx, diffID, content)
		}
		if err != nil {
			s.opt.Log.Warn("layer index was not cached", "layer", diffID.String(), "err", err)
		}
	})
}

// keep writes a file beside its place, so that it appears as a whole.
func (s *Store) keep(path string, write func(io.Writer) error) (io.ReadCloser, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "new"), "index-*")
	if err != nil {
		return nil, fmt.Errorf("keep layer index: %w", err)
	}
	err = write(f)
	if err == nil {
		err = errors.Join(f.Sync(), os.Rename(f.Name(), path))
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
