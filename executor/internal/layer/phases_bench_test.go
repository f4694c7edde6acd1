package layer

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
)

// sources returns the archive of 4,000 files of words, 32 MB of them.
func sources(b *testing.B) []byte {
	b.Helper()
	random := rand.New(rand.NewPCG(1, 1))
	words := make([]string, 2000)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", random.Uint64()>>(8*random.IntN(6)))
	}
	var entries []entry
	for i := range 4000 {
		var body bytes.Buffer
		for body.Len() < 8<<10 {
			body.WriteString(words[random.IntN(1+random.IntN(len(words)))])
		}
		entries = append(entries, entry{name: fmt.Sprintf("usr/lib/p%d/f%d", i/50, i), body: body.String()})
	}
	return archive(b, entries...)
}

// compressed makes a layer of an archive, as a registry has it.
func compressed(b *testing.B, raw []byte) v1.Layer {
	b.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
		tarball.WithCompressedCaching)
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// BenchmarkExtract decompresses, verifies and writes a layer to a disk.
func BenchmarkExtract(b *testing.B) {
	raw := sources(b)
	l := compressed(b, raw)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		dir, err := rootfs.OpenDir(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		if err := Extract(b.Context(), dir, l, ApplyOptions{First: true}, nil); err != nil {
			b.Fatal(err)
		}
		if err := dir.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApply is Extract without decompression and hashing.
func BenchmarkApply(b *testing.B) {
	raw := sources(b)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		dir, err := rootfs.OpenDir(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		if err := Apply(b.Context(), dir, bytes.NewReader(raw), ApplyOptions{First: true}); err != nil {
			b.Fatal(err)
		}
		if err := dir.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteIndex is what a stage without a RUN does with a layer.
func BenchmarkWriteIndex(b *testing.B) {
	raw := sources(b)
	l := compressed(b, raw)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := WriteIndex(b.Context(), l, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApplyIndex is what it does if it has the layer's index already.
func BenchmarkApplyIndex(b *testing.B) {
	l := static.NewLayer(sources(b), types.OCIUncompressedLayer)
	index := indexed(b, l)
	b.ReportAllocs()
	for b.Loop() {
		tree, spool := newTree(b)
		if err := ApplyIndex(b.Context(), tree, bytes.NewReader(index), l, spool, ApplyOptions{First: true}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOnePassFiles makes a layer of many files: tar, diff id, gzip, digest.
func BenchmarkOnePassFiles(b *testing.B) {
	raw := sources(b)
	src := rootfs.NewMem()
	if err := Apply(b.Context(), src, bytes.NewReader(raw), ApplyOptions{First: true}); err != nil {
		b.Fatal(err)
	}
	var changes []snapshot.Change
	err := rootfs.Walk(src, ".", func(e rootfs.Entry) error {
		if e.Name != "." {
			changes = append(changes, snapshot.Change{Name: e.Name})
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		blob, err := NewBlob(b.TempDir(), Compression{})
		if err != nil {
			b.Fatal(err)
		}
		if err := blob.Fill(b.Context(), src, changes, WriteOptions{}); err != nil {
			b.Fatal(err)
		}
		if err := blob.Remove(); err != nil {
			b.Fatal(err)
		}
	}
}
