package corpus

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestFiles proves that files are always the same, as many and as big as asked
// for, and that they compress as programs do: to between a quarter and a half.
func TestFiles(t *testing.T) {
	hash := func(seed uint64) (sum [32]byte, files int, total, packed int64) {
		h := sha256.New()
		var size counter
		z, err := gzip.NewWriterLevel(&size, 6)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		err = Files{Count: 2000, Bytes: 20_000_000, Seed: seed}.Each(func(path string, content []byte) error {
			seen[path] = true
			total += int64(len(content))
			_, err := io.MultiWriter(h, z).Write(append([]byte(path), content...))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return [32]byte(h.Sum(nil)), len(seen), total, int64(size)
	}
	a, files, total, packed := hash(7)
	if b, _, _, _ := hash(7); a != b {
		t.Error("the same seed gives other files")
	}
	if b, _, _, _ := hash(8); a == b {
		t.Error("another seed gives the same files")
	}
	if files != 2000 || total < 18_000_000 || total > 20_000_000 {
		t.Errorf("%d files with %d bytes, want 2000 with 20000000", files, total)
	}
	if ratio := float64(packed) / float64(total); ratio < 0.25 || ratio > 0.5 {
		t.Errorf("compresses to %.2f", ratio)
	}
}

// TestWrite proves that files get where they should, and that a big one has its size and
// compresses to between a half and three quarters.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	spec := Files{Count: 100, Seed: 1}
	if err := spec.Write(dir); err != nil {
		t.Fatal(err)
	}
	for i := range spec.Count {
		if info, err := os.Stat(filepath.Join(dir, spec.Path(i))); err != nil || info.Size() == 0 {
			t.Fatalf("file %d: %v, %v", i, info, err)
		}
	}
	big := filepath.Join(dir, "big")
	if err := WriteBig(big, 8<<20, 1); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(big)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	ratio := float64(packed.Len()) / float64(len(content))
	if len(content) != 8<<20 || ratio < 0.5 || ratio > 0.75 {
		t.Errorf("%d bytes that compress to %.2f", len(content), ratio)
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
