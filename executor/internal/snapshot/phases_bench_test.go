package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

const (
	benchDirs  = 240
	benchFiles = 100 // of a directory
)

// manyFiles makes 24,000 files.
func manyFiles(b *testing.B, root string) {
	b.Helper()
	for i := range benchDirs {
		d := filepath.Join(root, fmt.Sprint(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range benchFiles {
			if err := os.WriteFile(filepath.Join(d, fmt.Sprint(j)), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkBaseline24k is the first walk, before the first RUN of a build in place.
func BenchmarkBaseline24k(b *testing.B) {
	root := b.TempDir()
	manyFiles(b, root)
	dir, err := rootfs.OpenDir(root)
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := NewWalk(dir, nil).Baseline(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpper is what Overlay mode does after a RUN that wrote a hundred files
// on a root of 24,000: an upper directory is a directory like any other.
func BenchmarkUpper(b *testing.B) {
	lower, upper := b.TempDir(), b.TempDir()
	manyFiles(b, lower)
	for i := range 100 {
		name := filepath.Join(upper, fmt.Sprint(i), "changed")
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte("x"), 0o644)); err != nil {
			b.Fatal(err)
		}
	}
	base, err := rootfs.OpenDir(lower)
	if err != nil {
		b.Fatal(err)
	}
	defer base.Close()
	b.ReportAllocs()
	for b.Loop() {
		if changes, err := Upper(b.Context(), upper, base, nil); err != nil || len(changes) < 100 {
			b.Fatal(len(changes), err)
		}
	}
}
