package bucket

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kilnhook/kiln/infra/local/durable"
)

// Buckets lists the buckets by name with the time each was made.
func (s *Store) Buckets() (map[string]time.Time, error) {
	entries, err := os.ReadDir(s.path("objects"))
	if err != nil {
		return nil, fmt.Errorf("list buckets: %w", err)
	}
	buckets := map[string]time.Time{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("list buckets: %w", err)
		}
		buckets[e.Name()] = info.ModTime()
	}
	return buckets, nil
}

// CreateBucket makes a bucket. It returns an error that wraps fs.ErrExist if
// there is one of that name, and ErrBadName if the name is not allowed.
func (s *Store) CreateBucket(bucket string) error {
	if !bucketName(bucket) {
		return fmt.Errorf("%w: a bucket's name is 3 to 63 of a-z, 0-9, dot and hyphen: %q", ErrBadName, bucket)
	}
	if err := os.Mkdir(s.path("objects", bucket), 0o700); err != nil {
		return fmt.Errorf("create bucket: %w", err)
	}
	return durable.SyncDir(s.path("objects"))
}

// HasBucket reports whether a bucket exists.
func (s *Store) HasBucket(bucket string) bool {
	if !bucketName(bucket) {
		return false
	}
	info, err := os.Stat(s.path("objects", bucket))
	return err == nil && info.IsDir()
}

func (s *Store) checkTarget(bucket, name string) error {
	if !s.HasBucket(bucket) {
		return fmt.Errorf("%w: %q", ErrNoBucket, bucket)
	}
	return checkName(name)
}

// bucketName reports whether S3's rules allow the name.
func bucketName(name string) bool {
	return regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`).MatchString(name) && !strings.Contains(name, "..")
}

// checkName refuses names no client means: too long, not text, or with . and
// .. for components. The name never becomes a path of ours.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: the object needs a name, as in /contexts/app.tar.gz", ErrBadName)
	case len(name) > 1024:
		return fmt.Errorf("%w: %d bytes, at most 1024 are allowed", ErrBadName, len(name))
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: not UTF-8: %q", ErrBadName, name)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("%w: control characters in %q", ErrBadName, name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." {
			return fmt.Errorf("%w: %q has a component %q", ErrBadName, name, part)
		}
	}
	return nil
}
