package bucket

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/kilnhook/kiln/infra/local/durable"
)

// An object lives in objects/<bucket>/<2 hex digits>/<SHA-256 of its name>/ as
// <generation>.data and, written last, <generation>.json.
const (
	dataSuffix   = ".data"
	recordSuffix = ".json"
)

func (s *Store) objectDir(bucket, name string) string {
	sum := sha256.Sum256([]byte(name))
	key := hex.EncodeToString(sum[:])
	return s.path("objects", bucket, key[:2], key)
}

func (s *Store) dataPath(o Object) string {
	return filepath.Join(s.objectDir(o.Bucket, o.Name), o.Generation+dataSuffix)
}

func recordPath(dir, generation string) string {
	return filepath.Join(dir, generation+recordSuffix)
}

func (s *Store) stripe(dir string) *sync.Mutex {
	base := filepath.Base(dir)
	b, _ := hex.DecodeString(base[:2])
	return &s.stripes[int(b[0])%len(s.stripes)]
}

// writeRecord makes a generation exist.
func (s *Store) writeRecord(o Object) error {
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("write record of %s/%s: %w", o.Bucket, o.Name, err)
	}
	dir := s.objectDir(o.Bucket, o.Name)
	if err := durable.WriteFile(recordPath(dir, o.Generation), data, 0o600); err != nil {
		return err
	}
	// The directories above may be new too.
	parent := filepath.Dir(dir)
	return errors.Join(durable.SyncDir(parent), durable.SyncDir(filepath.Dir(parent)))
}

func readRecord(dir, generation string) (Object, error) {
	data, err := os.ReadFile(recordPath(dir, generation))
	if err != nil {
		return Object{}, fmt.Errorf("read record: %w", err)
	}
	var o Object
	if err := json.Unmarshal(data, &o); err != nil {
		return Object{}, fmt.Errorf("read record %s: %w", recordPath(dir, generation), err)
	}
	return o, nil
}

// latest reads the newest generation in an object's directory; fs.ErrNotExist
// if there is none.
func (s *Store) latest(dir string) (Object, error) {
	gens, err := generations(dir)
	if err != nil {
		return Object{}, err
	}
	if len(gens) == 0 {
		return Object{}, fmt.Errorf("no generation in %s: %w", dir, fs.ErrNotExist)
	}
	return readRecord(dir, gens[len(gens)-1])
}

// generations lists the generations in an object's directory, oldest first.
func generations(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list generations: %w", err)
	}
	var gens []string
	for _, e := range entries {
		if gen, ok := strings.CutSuffix(e.Name(), recordSuffix); ok && isGeneration(gen) {
			gens = append(gens, gen)
		}
	}
	return gens, nil // ReadDir sorts, and all have the same length
}

func isGeneration(s string) bool {
	return len(s) == 16 && strings.Trim(s, "0123456789") == ""
}

// Versions lists every generation of every object of a bucket, by name and then
// newest first.
func (s *Store) Versions(bucket string) ([]Object, error) { return s.versions(bucket, "", false) }

// versions lists the objects of a bucket whose names begin with prefix, by
// name and then newest first; only the newest undeleted ones if latestOnly.
func (s *Store) versions(bucket, prefix string, latestOnly bool) ([]Object, error) {
	if !s.HasBucket(bucket) {
		return nil, fmt.Errorf("%w: %q", ErrNoBucket, bucket)
	}
	dirs, err := filepath.Glob(s.path("objects", bucket, "[0-9a-f][0-9a-f]", "*"))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", bucket, err)
	}
	var all []Object
	for _, dir := range dirs {
		gens, err := generations(dir)
		if err != nil {
			return nil, err
		}
		slices.Reverse(gens)
		for _, gen := range gens {
			o, err := readRecord(dir, gen)
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				return nil, err
			}
			if !strings.HasPrefix(o.Name, prefix) {
				break
			}
			if !latestOnly || !o.Deleted {
				all = append(all, o)
			}
			if latestOnly {
				break
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Object) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}
