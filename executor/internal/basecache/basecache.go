// Package basecache keeps base images in a directory, so that builds need not
// fetch them. An image is a file that is named for the digest of its manifest
// and holds an archive for docker load, beside a file with the manifest, as
// kaniko's warmer writes them; a directory of that name that holds an OCI image
// layout is read as well. What is read is verified, and entries expire.
package basecache

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
)

// Errors of Dir.Image, for errors.Is.
var (
	// ErrNotCached: the directory does not have the image.
	ErrNotCached = errors.New("not in the cache of base images")
	// ErrExpired: it has, but for too long.
	ErrExpired = errors.New("expired in the cache of base images")
)

// Dir is a directory of base images. It may be read and written by several
// processes at once.
type Dir struct {
	path string
	ttl  time.Duration
	now  func() time.Time
}

// Open returns the directory at path, which need not be there. Its entries
// expire when their files are older than ttl; 0: never.
func Open(path string, ttl time.Duration, now func() time.Time) *Dir {
	return &Dir{path: path, ttl: ttl, now: now}
}

func (d *Dir) file(digest v1.Hash) string { return filepath.Join(d.path, digest.String()) }

// Image returns the image whose manifest has the digest. Its manifest and
// config are verified, its layers are while they are read, which may be as long
// as the directory is there.
func (d *Dir) Image(digest v1.Hash) (v1.Image, error) {
	info, err := os.Stat(d.file(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image %s: %w", digest, ErrNotCached)
	}
	if err != nil {
		return nil, fmt.Errorf("look for image %s in the cache of base images: %w", digest, err)
	}
	if d.ttl > 0 && info.ModTime().Add(d.ttl).Before(d.now()) {
		return nil, fmt.Errorf("image %s: %w", digest, ErrExpired)
	}
	img, err := d.open(digest, info.IsDir())
	if err != nil {
		return nil, fmt.Errorf("read image %s from the cache of base images: %w", digest, err)
	}
	return img, nil
}

func (d *Dir) open(digest v1.Hash, layout bool) (v1.Image, error) {
	c := &cached{}
	if layout {
		blobs := blobDir(d.file(digest))
		c.blobs = blobs
		raw, err := readBlob(blobs, digest, maxManifest)
		if err != nil {
			return nil, err
		}
		c.manifest = raw
	} else {
		archive, err := openArchive(d.file(digest))
		if err != nil {
			return nil, err
		}
		c.blobs = archive
		raw, err := readFile(d.file(digest)+".json", maxManifest)
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(raw); fmt.Sprintf("%x", sum) != digest.Hex {
			return nil, errors.New("the manifest has another digest than its name says")
		}
		c.manifest = raw
	}
	if err := json.Unmarshal(c.manifest, &c.parsed); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	var err error
	if c.config, err = readBlob(c.blobs, c.parsed.Config.Digest, maxConfig); err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return partial.CompressedToImage(c)
}

// Largest sizes in bytes of what is held in memory.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
)

// Verify reads all of an image, expired or not, and returns an error if it is
// not there or is not what it should be.
func (d *Dir) Verify(digest v1.Hash) error {
	forever := &Dir{path: d.path, now: d.now}
	img, err := forever.Image(digest)
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := drain(l); err != nil {
			return fmt.Errorf("image %s in the cache of base images: %w", digest, err)
		}
	}
	return nil
}

// Renew makes an image as good as new whose content Verify has found intact.
func (d *Dir) Renew(digest v1.Hash) error {
	now := d.now()
	if err := os.Chtimes(d.file(digest), now, now); err != nil {
		return fmt.Errorf("renew image %s in the cache of base images: %w", digest, err)
	}
	return nil
}
