package basecache

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Put stores an image, in place of one with its digest that may be there. name
// is what it is called, for people. Nobody sees an image that is not complete.
// The error is the context's cause if ctx ends.
func (d *Dir) Put(ctx context.Context, img v1.Image, name string) error {
	if err := d.put(ctx, img, name); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("write %s to the cache of base images: %w", name, err)
	}
	return nil
}

func (d *Dir) put(ctx context.Context, img v1.Image, name string) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return err
	}
	if info, err := os.Stat(d.file(digest)); err == nil && info.IsDir() {
		// A layout that somebody else wrote cannot be replaced at once.
		if err := os.RemoveAll(d.file(digest)); err != nil {
			return err
		}
	}
	if err := d.replace(d.file(digest)+".json", func(w io.Writer) error {
		_, err := w.Write(manifest)
		return err
	}); err != nil {
		return err
	}
	// The archive comes last: where it is, the manifest is.
	return d.replace(d.file(digest), func(w io.Writer) error { return writeArchive(ctx, w, img, name) })
}

// replace writes a file that is complete or not there.
func (d *Dir) replace(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(d.path, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	now := d.now()
	if err := os.Chtimes(f.Name(), now, now); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// archiveEntry is the manifest.json of an archive for docker load.
type archiveEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func writeArchive(ctx context.Context, w io.Writer, img v1.Image, name string) error {
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	configName, err := img.ConfigName()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	if err := entry(tw, configName.String(), int64(len(config)), bytes.NewReader(config)); err != nil {
		return err
	}
	index := archiveEntry{Config: configName.String(), RepoTags: []string{name}, Layers: []string{}}
	seen := map[v1.Hash]bool{}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return err
		}
		index.Layers = append(index.Layers, layerName(digest))
		if seen[digest] {
			continue
		}
		seen[digest] = true
		if err := writeLayer(ctx, tw, l, digest); err != nil {
			return fmt.Errorf("layer %s: %w", digest, err)
		}
	}
	raw, err := json.Marshal([]archiveEntry{index})
	if err != nil {
		return err
	}
	if err := entry(tw, "manifest.json", int64(len(raw)), bytes.NewReader(raw)); err != nil {
		return err
	}
	return tw.Close()
}

func writeLayer(ctx context.Context, tw *tar.Writer, l v1.Layer, digest v1.Hash) error {
	size, err := l.Size()
	if err != nil {
		return err
	}
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = rc.Close() })
	defer stop()
	sum := sha256.New()
	if err := entry(tw, layerName(digest), size, io.TeeReader(rc, sum)); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest.Hex {
		return fmt.Errorf("what arrived has the digest sha256:%s", got)
	}
	return ctx.Err()
}

func entry(tw *tar.Writer, name string, size int64, content io.Reader) error {
	h := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: size, Format: tar.FormatPAX}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.CopyN(tw, content, size); err != nil {
		return err
	}
	// The content ends here, which also makes readers verify it.
	if n, err := content.Read(make([]byte, 1)); n > 0 || err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(err, fmt.Errorf("%s: not %d bytes", name, size))
	}
	return nil
}

// known is what a name stood for when it was last looked up.
type known struct {
	Name     string    `json:"name"`
	Platform string    `json:"platform"`
	Digest   v1.Hash   `json:"digest"`
	Seen     time.Time `json:"seen"`
}

func (d *Dir) nameFile(name string, p v1.Platform) string {
	sum := sha256.Sum256([]byte(name + " " + p.String()))
	return filepath.Join(d.path, ".names", hex.EncodeToString(sum[:])+".json")
}

// Remember notes that name stands for the image digest on a platform, for when
// no registry can be reached.
func (d *Dir) Remember(name string, p v1.Platform, digest v1.Hash) error {
	raw, err := json.Marshal(known{Name: name, Platform: p.String(), Digest: digest, Seen: d.now().UTC()})
	if err != nil {
		return err
	}
	path := d.nameFile(name, p)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("remember %s: %w", name, err)
	}
	if err := d.replace(path, func(w io.Writer) error { _, err := w.Write(raw); return err }); err != nil {
		return fmt.Errorf("remember %s: %w", name, err)
	}
	return nil
}

// Recall returns what Remember was told last of a name, and when.
func (d *Dir) Recall(name string, p v1.Platform) (digest v1.Hash, seen time.Time, ok bool) {
	raw, err := readFile(d.nameFile(name, p), maxManifest)
	if err != nil {
		return v1.Hash{}, time.Time{}, false
	}
	var k known
	if json.Unmarshal(raw, &k) != nil || k.Name != name || k.Platform != p.String() {
		return v1.Hash{}, time.Time{}, false
	}
	return k.Digest, k.Seen, true
}
