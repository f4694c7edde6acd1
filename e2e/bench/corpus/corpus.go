// Package corpus makes files that look like those of real programs to a builder,
// in their sizes and in how they compress, and that are always the same.
package corpus

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
)

const (
	poolSize  = 4 << 20
	words     = 6000
	perDir    = 40 // files of a directory
	block     = 32 << 10
	spread    = 1.9 // of the logarithm of sizes: the median file has a sixth of the mean
	biggest   = 150 // times the median
	writeSize = 1 << 20
)

// Files describes files of a tree.
type Files struct {
	Count int
	Bytes int64 // of all together, within a percent; 0 makes all of them tiny
	Seed  uint64
}

// tiny is the size of files that shall only be many.
const tiny = 60

// Each calls f for every file in an order in which directories come one after
// another. The content is valid during the call only.
func (s Files) Each(f func(path string, content []byte) error) error {
	random := rand.New(rand.NewPCG(s.Seed, 1))
	pool := newPool(s.Seed)
	sizes := s.sizes()
	for i := range s.Count {
		at := random.IntN(poolSize - sizes[i])
		if err := f(s.Path(i), pool.kind(random)[at:at+sizes[i]]); err != nil {
			return err
		}
	}
	return nil
}

// Path is the name of file i, which counts from 0.
func (s Files) Path(i int) string {
	dir := i / perDir
	return fmt.Sprintf("part%02d/package%04d/module_%06d.js", dir/1000, dir%1000, i)
}

// sizes draws a size for every file, few of them big, and scales them.
func (s Files) sizes() []int {
	sizes := make([]int, s.Count)
	if s.Bytes == 0 {
		for i := range sizes {
			sizes[i] = tiny + i%tiny
		}
		return sizes
	}
	random := rand.New(rand.NewPCG(s.Seed, 2))
	drawn := make([]float64, s.Count)
	sum := 0.0
	for i := range drawn {
		drawn[i] = min(math.Exp(spread*random.NormFloat64()), biggest)
		sum += drawn[i]
	}
	for i := range sizes {
		sizes[i] = min(int(drawn[i]/sum*float64(s.Bytes)), poolSize-1)
	}
	return sizes
}

// Write makes the files below dir, which must exist.
func (s Files) Write(dir string) error {
	last := ""
	return s.Each(func(path string, content []byte) error {
		full := filepath.Join(dir, path)
		if parent := filepath.Dir(full); parent != last {
			if err := os.MkdirAll(parent, 0o755); err != nil {
				return err
			}
			last = parent
		}
		return os.WriteFile(full, content, 0o644)
	})
}

// WriteBig makes one file of about so many bytes, every other block of which is
// text and the rest noise: half of it can be compressed.
func WriteBig(path string, bytes int64, seed uint64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	random := rand.New(rand.NewPCG(seed, 3))
	pool := newPool(seed)
	buffer := make([]byte, 0, writeSize)
	for written := int64(0); written < bytes; written += int64(len(buffer)) {
		buffer = buffer[:0]
		for len(buffer) < writeSize {
			at := random.IntN(poolSize - block)
			buffer = append(buffer, pool.text[at:at+block]...)
			noise := len(buffer)
			buffer = buffer[:noise+block]
			fill(random, buffer[noise:])
		}
		if _, err := f.Write(buffer); err != nil {
			return err
		}
	}
	return f.Close()
}

// pool is what the content of files is cut from.
type pool struct{ text, code []byte }

// kind is text for most files, and for a quarter of them what machine code is to
// a compressor.
func (p pool) kind(random *rand.Rand) []byte {
	if random.IntN(4) == 0 {
		return p.code
	}
	return p.text
}

func newPool(seed uint64) pool {
	random := rand.New(rand.NewPCG(seed, 4))
	vocabulary := make([][]byte, words)
	for i := range vocabulary {
		word := make([]byte, 2+random.IntN(9), 12)
		for j := range word {
			word[j] = byte('a' + random.IntN(26))
		}
		vocabulary[i] = append(word, " \n();."[random.IntN(6)])
	}
	zipf := rand.NewZipf(random, 1.4, 8, words-1)
	p := pool{text: make([]byte, 0, poolSize+16), code: make([]byte, poolSize)}
	for len(p.text) < poolSize {
		p.text = append(p.text, vocabulary[zipf.Uint64()]...)
	}
	// Eight bytes of which some are always small, as in instructions.
	fill(random, p.code)
	for i := range p.code {
		switch i % 8 {
		case 0, 4:
			p.code[i] &= 0x07
		case 2, 3, 6, 7:
			p.code[i] = 0
		}
	}
	return p
}

func fill(random *rand.Rand, p []byte) {
	for i := 0; i+8 <= len(p); i += 8 {
		v := random.Uint64()
		for j := range 8 {
			p[i+j] = byte(v >> (8 * j))
		}
	}
}
