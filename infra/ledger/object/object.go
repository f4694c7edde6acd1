// Package object is a ledger on the objects of a bucket: an object for each key.
// What a cloud's bucket must be able to do is [Bucket], above all to store an
// object only if there is none, or only if it is still the one that was seen.
package object

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/wait"
)

// ErrPrecondition is the error of Put when the object is not as the condition
// says.
var ErrPrecondition = errors.New("the object is not as it was")

// ErrBroken is wrapped by the error of Get for an object that did not arrive as it
// is kept: to its end, with its checksum. It may pass.
var ErrBroken = errors.New("the object did not arrive whole")

// Condition is what must be so for an object to be stored: that its version is
// Version, or that there is none if Version is empty.
type Condition struct{ Version string }

// Bucket is what a cloud's bucket does, once and without trying again. Errors
// that match fs.ErrNotExist say that there is no such object.
type Bucket interface {
	// Get returns an object and what the bucket calls its state.
	Get(ctx context.Context, name string) (data []byte, version string, err error)
	// Put stores an object, and with it the name of its writer, if the
	// condition holds, and returns its version. The error wraps ErrPrecondition
	// if it does not hold.
	Put(ctx context.Context, name, writer string, data []byte, c Condition) (version string, err error)
	// Writer returns the name of an object's writer and its version.
	Writer(ctx context.Context, name string) (writer, version string, err error)
	// Delete removes an object.
	Delete(ctx context.Context, name string) error
	// List returns names that begin with prefix and come after the name after,
	// in ascending byte order: at most limit if that is positive. There may be
	// more; there are none if none are returned.
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// Options says how a store uses its bucket.
type Options struct {
	Prefix     string        // of every object's name; a slash is added
	Attempts   int           // of each call; 0 is 8
	MinBackoff time.Duration // before the second attempt; 0 is 100 ms
	MaxBackoff time.Duration // between attempts; 0 is 5 s
}

// Store is a ledger in a bucket. A call that fails for a reason that may pass is
// made again, with growing pauses; what was stored by a call whose answer was
// lost is recognised as its own. Any number of goroutines, processes and
// machines may use a bucket at once.
type Store struct {
	bucket    Bucket
	transient func(error) bool
	opts      Options
}

// New returns the store in a bucket. transient reports whether what an error of
// the bucket tells of may pass. The error is that of the prefix.
func New(b Bucket, transient func(error) bool, opts Options) (*Store, error) {
	opts.Prefix = strings.Trim(opts.Prefix, "/")
	if err := ledger.CheckPrefix(opts.Prefix); err != nil {
		return nil, fmt.Errorf("prefix of the ledger: %w", err)
	}
	if opts.Prefix != "" {
		opts.Prefix += "/"
	}
	if opts.Attempts <= 0 {
		opts.Attempts = 8
	}
	if opts.MinBackoff <= 0 {
		opts.MinBackoff = 100 * time.Millisecond
	}
	if opts.MaxBackoff < opts.MinBackoff {
		opts.MaxBackoff = max(opts.MinBackoff, 5*time.Second)
	}
	return &Store{bucket: b, transient: transient, opts: opts}, nil
}

// Get returns the value of a key and its version. The error wraps
// fs.ErrNotExist if there is none.
func (s *Store) Get(ctx context.Context, key string) (data []byte, version string, err error) {
	if err := check(ctx, key, nil); err != nil {
		return nil, "", err
	}
	err = s.again(ctx, func(int) (err error) {
		data, version, err = s.bucket.Get(ctx, s.opts.Prefix+key)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("read ledger key %s: %w", key, err)
	}
	return data, version, nil
}

// Create gives a value to a key that has none and returns the version. The
// error wraps fs.ErrExist if the key has a value; of several that create at
// once exactly one succeeds.
func (s *Store) Create(ctx context.Context, key string, data []byte) (version string, err error) {
	if err := check(ctx, key, data); err != nil {
		return "", err
	}
	version, err = s.put(ctx, key, data, Condition{})
	if errors.Is(err, ErrPrecondition) {
		err = fs.ErrExist
	}
	if err != nil {
		return "", fmt.Errorf("create ledger key %s: %w", key, err)
	}
	return version, nil
}

// Swap replaces the value of a key if its version is still the given one, and
// returns the new version; the error wraps ledger.ErrConflict if it is not. The
// version "" says that the key must have no value.
func (s *Store) Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error) {
	if err := check(ctx, key, data); err != nil {
		return "", err
	}
	newVersion, err = s.put(ctx, key, data, Condition{Version: version})
	if errors.Is(err, ErrPrecondition) || version != "" && errors.Is(err, fs.ErrNotExist) {
		err = ledger.ErrConflict
	}
	if err != nil {
		return "", fmt.Errorf("swap ledger key %s: %w", key, err)
	}
	return newVersion, nil
}

// Delete removes a key and its value. To delete what is not there is no error.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key, nil); err != nil {
		return err
	}
	err := s.again(ctx, func(int) error { return s.bucket.Delete(ctx, s.opts.Prefix+key) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete ledger key %s: %w", key, err)
	}
	return nil
}

// List returns at most limit keys that begin with prefix and come after the
// key after, in ascending byte order; all of them if limit is not positive.
// The prefix need not end at a slash, and both may be empty. Keys created or
// deleted meanwhile may be in it or not.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := ledger.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	keys, err := s.list(ctx, prefix, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list ledger keys below %q: %w", prefix, err)
	}
	return keys, nil
}

// list puts the bucket's pages together.
func (s *Store) list(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if after != "" {
		after = s.opts.Prefix + after
	}
	var keys []string
	for {
		rest := 0
		if limit > 0 {
			rest = limit - len(keys)
		}
		var page []string
		err := s.again(ctx, func(int) (err error) {
			page, err = s.bucket.List(ctx, s.opts.Prefix+prefix, after, rest)
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return keys, nil
		}
		for _, name := range page {
			keys = append(keys, strings.TrimPrefix(name, s.opts.Prefix))
			if len(keys) == limit {
				return keys, nil
			}
		}
		after = page[len(page)-1]
	}
}

// put stores a value under a condition. If an attempt was made whose answer did
// not come, the condition may fail because of that very attempt: then the object
// says who wrote it.
func (s *Store) put(ctx context.Context, key string, data []byte, c Condition) (version string, err error) {
	writer := rand.Text()
	err = s.again(ctx, func(attempt int) (err error) {
		version, err = s.bucket.Put(ctx, s.opts.Prefix+key, writer, data, c)
		if attempt == 1 || !errors.Is(err, ErrPrecondition) {
			return err
		}
		found, foundVersion, getErr := s.bucket.Writer(ctx, s.opts.Prefix+key)
		switch {
		case getErr == nil && found == writer:
			version = foundVersion
			return nil
		case getErr == nil, errors.Is(getErr, fs.ErrNotExist):
			return err
		}
		return getErr
	})
	return version, err
}

// again calls f until it succeeds, fails for good, or has failed often enough.
// The error is the last one, or the reason why the context ended.
func (s *Store) again(ctx context.Context, f func(attempt int) error) error {
	backoff := s.opts.MinBackoff
	for attempt := 1; ; attempt++ {
		err := f(attempt)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrPrecondition) || !errors.Is(err, ErrBroken) && !s.transient(err) {
			return err
		}
		if attempt == s.opts.Attempts {
			return fmt.Errorf("given up after %d attempts: %w", attempt, err)
		}
		if err := wait.For(ctx, backoff/2+mathrand.N(backoff/2+1)); err != nil {
			return err
		}
		backoff = min(2*backoff, s.opts.MaxBackoff)
	}
}

// check refuses a call whose context is over, or whose key or value is not
// allowed.
func check(ctx context.Context, key string, data []byte) error {
	if err := ledger.CheckKey(key); err != nil {
		return err
	}
	if err := ledger.CheckValue(key, data); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
