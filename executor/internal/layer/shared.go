package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Share returns an image whose layers are fetched once, however many read them and
// at whatever times: the first to read one begins to fetch it into a file in dir,
// which all of them read while it grows. A layer for which there is no room is read
// by each from where it is, and so is one once readers have read it as often as is
// said: its file is removed then. The files are fetched while ctx lives.
func Share(ctx context.Context, img v1.Image, dir string, readers int) (v1.Image, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("read layers: %w", err)
	}
	s := &sharedImage{Image: img}
	for _, l := range layers {
		s.layers = append(s.layers, &shared{Layer: l, ctx: ctx, dir: dir, left: readers})
	}
	return s, nil
}

type sharedImage struct {
	v1.Image
	layers []v1.Layer
}

// Layers implements v1.Image.
func (s *sharedImage) Layers() ([]v1.Layer, error) { return append([]v1.Layer(nil), s.layers...), nil }

// LayerByDigest implements v1.Image.
func (s *sharedImage) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	return s.find(h, v1.Layer.Digest, s.Image.LayerByDigest)
}

// LayerByDiffID implements v1.Image.
func (s *sharedImage) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	return s.find(h, v1.Layer.DiffID, s.Image.LayerByDiffID)
}

func (s *sharedImage) find(h v1.Hash, of func(v1.Layer) (v1.Hash, error), other func(v1.Hash) (v1.Layer, error)) (v1.Layer, error) {
	for _, l := range s.layers {
		if got, err := of(l); err == nil && got == h {
			return l, nil
		}
	}
	return other(h)
}

// shared is a layer that is fetched once.
type shared struct {
	v1.Layer
	ctx context.Context //nolint:containedctx // v1.Layer has none
	dir string

	mu   sync.Mutex
	blob *Blob // that it is fetched into; nil: not yet, or not any more
	left int   // how often it will be read to its end; 0: it is not fetched
}

// Unwrap returns the layer itself, which knows where it can be mounted from.
func (s *shared) Unwrap() v1.Layer { return s.Layer }

// Compressed implements v1.Layer.
func (s *shared) Compressed() (io.ReadCloser, error) {
	b := s.fetch()
	if b == nil {
		return s.Layer.Compressed()
	}
	f, err := os.Open(b.path)
	if err != nil {
		return s.Layer.Compressed() // it was read often enough meanwhile
	}
	return &sharedReader{follower: &follower{b: b, f: f}, s: s}, nil
}

// fetch begins to fetch the layer, unless that was done. It returns nil if the
// layer is to be read from where it is.
func (s *shared) fetch() *Blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return nil
	}
	if s.blob != nil {
		if s.blob.failed() {
			s.drop()
		}
		return s.blob
	}
	size, err := s.Size()
	if err != nil || !hasRoom(s.dir, size) {
		s.left = 0
		return nil
	}
	b, err := NewBlob(s.dir, Compression{})
	if err != nil {
		s.left = 0
		return nil
	}
	s.blob = b
	go b.receive(s.ctx, s.Layer)
	return b
}

// drop removes the file. Who has it open can read it still.
func (s *shared) drop() {
	_ = os.Remove(s.blob.path)
	s.blob, s.left = nil, 0
}

// wasRead notes that somebody has read the layer to its end.
func (s *shared) wasRead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left--; s.left <= 0 && s.blob != nil {
		s.drop()
	}
	s.left = max(s.left, 0)
}

// sharedReader notes when it has read everything.
type sharedReader struct {
	*follower
	s    *shared
	once sync.Once
}

// Read implements io.Reader.
func (r *sharedReader) Read(p []byte) (int, error) {
	n, err := r.follower.Read(p)
	if errors.Is(err, io.EOF) {
		r.once.Do(r.s.wasRead)
	}
	return n, err
}

// hasRoom tells whether a layer takes at most half of what is free in dir.
func hasRoom(dir string, size int64) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	return size <= int64(st.Bavail)*st.Bsize/2 //nolint:unconvert,gosec // of other types on some architectures
}
