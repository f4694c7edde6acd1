// Package ledger keeps the records of builds: small values under keys that are
// created once, or replaced only by whoever saw the value before.
//
// There are two stores here, [Dir] in a directory and [Mem] in memory, and more
// in buckets, in the packages gcs and s3 below; the suite in ledgertest says what
// all promise. What is stored, and under which key, is
// the business of the packages that use one.
package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrConflict is the error of Swap when the value is no longer the one whose
// version was given.
var ErrConflict = errors.New("value was changed by somebody else")

// Limits on keys and values.
const (
	MaxKey     = 1024     // bytes of a key
	MaxSegment = 200      // bytes between two slashes of a key
	MaxValue   = 32 << 20 // bytes of a value
)

// CheckKey reports why a key is refused: it must be one or more segments with
// single slashes between them, each of ASCII letters, digits and any of
// "-_.=+@~," and not beginning with a dot. So no key is absolute, leads out of
// the store or names one of the store's own files.
func CheckKey(key string) error {
	if len(key) > MaxKey {
		return fmt.Errorf("ledger key of %d bytes is longer than %d", len(key), MaxKey)
	}
	for segment := range strings.SplitSeq(key, "/") {
		switch {
		case segment == "":
			return fmt.Errorf("ledger key %q has an empty segment", key)
		case segment[0] == '.':
			return fmt.Errorf("ledger key %q has a segment that begins with a dot", key)
		case len(segment) > MaxSegment:
			return fmt.Errorf("ledger key %q has a segment longer than %d bytes", key, MaxSegment)
		}
		if i := strings.IndexFunc(segment, func(r rune) bool { return !keyRune(r) }); i >= 0 {
			return fmt.Errorf("ledger key %q holds %q", key, segment[i:i+1])
		}
	}
	return nil
}

func keyRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.=+@~,", r)
}

// CheckPrefix reports why a prefix of keys is refused: no key can begin with it.
// The empty one is that of all keys.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckKey(strings.TrimSuffix(prefix, "/"))
}

// CheckValue reports a value that is too large.
func CheckValue(key string, data []byte) error {
	if len(data) > MaxValue {
		return fmt.Errorf("ledger value of %d bytes for %s is larger than %d", len(data), key, MaxValue)
	}
	return nil
}

// versionOf names a value. Equal values have equal versions, so a swap holds
// that the value is what the caller saw, not that it never was another.
func versionOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}
