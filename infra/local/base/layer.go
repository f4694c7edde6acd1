package base

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// Pusher uploads an image; registry.Client is one.
type Pusher interface {
	Push(ctx context.Context, ref string, img v1.Image) error
}

// settings are the small files that make package tools behave in an image:
// they keep what later layers install as slim as the base is.
func settings() map[string]string {
	return map[string]string{
		"etc/dpkg/dpkg.cfg.d/docker": `# Documentation, translations and manual pages are not kept in this image.
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/groff/*
path-exclude /usr/share/info/*
path-exclude /usr/share/linda/*
path-exclude /usr/share/lintian/*
path-exclude /usr/share/locale/*
path-include /usr/share/locale/locale.alias
path-exclude /usr/share/man/*
`,
		"etc/apt/apt.conf.d/docker-clean": `# Downloaded packages are not kept: they would be bytes of a layer.
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
`,
		"etc/apt/apt.conf.d/docker-gzip-indexes":        "Acquire::GzipIndexes \"true\";\n",
		"etc/apt/apt.conf.d/docker-no-languages":        "Acquire::Languages \"none\";\n",
		"etc/apt/apt.conf.d/docker-autoremove-suggests": "Apt::AutoRemove::SuggestsImportant \"false\";\n",
	}
}

// keep reports whether an image keeps an entry of a fresh Debian: not what
// belongs to a running machine, and not what slim images leave out.
func keep(name string, dir bool) bool {
	below := func(d string) bool { return strings.HasPrefix(name, d+"/") }
	switch {
	case below("dev"), below("proc"), below("sys"), below("run") && !dir:
		return false
	case name == "etc/hostname", name == "etc/resolv.conf", name == "etc/apt/apt.conf.d/99mmdebstrap":
		return false
	case below("usr/share/doc"):
		// Copyright notices stay, and the links that lead to them.
		return dir || strings.Count(name, "/") == 3 || path.Base(name) == "copyright"
	case below("usr/share/locale"):
		return name == "usr/share/locale/locale.alias"
	case below("usr/share/man"), below("usr/share/info"), below("usr/share/groff"), below("usr/share/lintian"), below("usr/share/linda"):
		return false
	case below("var/cache"), below("var/log"), below("var/lib/apt/lists"):
		return dir
	}
	return true
}

// layerFile is a compressed layer in a file, as partial.CompressedToLayer
// wants it.
type layerFile struct {
	path           string
	digest, diffID v1.Hash
	size           int64 // compressed bytes
}

// Digest implements partial.CompressedLayer.
func (l *layerFile) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID implements partial.WithDiffID.
func (l *layerFile) DiffID() (v1.Hash, error) { return l.diffID, nil }

// Size implements partial.CompressedLayer.
func (l *layerFile) Size() (int64, error) { return l.size, nil }

// MediaType implements partial.CompressedLayer.
func (l *layerFile) MediaType() (types.MediaType, error) { return types.OCILayer, nil }

// Compressed implements partial.CompressedLayer.
func (l *layerFile) Compressed() (io.ReadCloser, error) { return os.Open(l.path) }

// writeLayer filters the tar of a fresh Debian into a compressed layer in dir,
// in one pass.
func writeLayer(dir string, in io.Reader) (l *layerFile, err error) {
	f, err := os.Create(filepath.Join(dir, "layer.tar.gz"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	compressed, plain := sha256.New(), sha256.New()
	buf := bufio.NewWriterSize(io.MultiWriter(f, compressed), 1<<20)
	zip, err := gzip.NewWriterLevel(buf, gzip.BestSpeed) // it is made while somebody waits
	if err != nil {
		return nil, err
	}
	out := tar.NewWriter(io.MultiWriter(zip, plain))
	if err := filter(out, tar.NewReader(bufio.NewReaderSize(in, 1<<20))); err != nil {
		return nil, err
	}
	if err := errors.Join(out.Close(), zip.Close(), buf.Flush()); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	hash := func(sum []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)} }
	return &layerFile{path: f.Name(), digest: hash(compressed.Sum(nil)), diffID: hash(plain.Sum(nil)), size: info.Size()}, nil
}

func filter(out *tar.Writer, in *tar.Reader) error {
	extra := settings()
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read what mmdebstrap wrote: %w", err)
		}
		dir := h.Typeflag == tar.TypeDir
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" || !keep(name, dir) || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
			continue
		}
		delete(extra, name)
		if h.Name = name; dir {
			h.Name += "/"
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		}
		h.Format, h.AccessTime, h.ChangeTime = tar.FormatPAX, time.Time{}, time.Time{}
		h.ModTime = h.ModTime.Truncate(time.Second)
		h.Uname, h.Gname = "", ""
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil { //nolint:gosec // as large as a Debian is
			return err
		}
	}
	for name, text := range extra {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), Format: tar.FormatPAX}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
	}
	return nil
}

// assemble makes the image: one layer and the configuration of the official
// image.
func assemble(file *layerFile, arch string, now time.Time) (v1.Image, error) {
	l, err := partial.CompressedToLayer(file)
	if err != nil {
		return nil, fmt.Errorf("read base layer: %w", err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{
		Layer: l, MediaType: types.OCILayer,
		History: v1.History{Created: v1.Time{Time: now.UTC()}, CreatedBy: "mmdebstrap --variant=minbase " + suite, Comment: "kiln"},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble base image: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("assemble base image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: now.UTC()}
	if arch == "arm64" {
		config.Variant = "v8"
	}
	config.Config = v1.Config{Cmd: []string{"bash"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, fmt.Errorf("assemble base image: %w", err)
	}
	return img, nil
}
