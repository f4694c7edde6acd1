package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Key identifies what a step makes: it is derived from everything that the
// step depends on.
type Key [sha256.Size]byte

// version is part of every key, so that another meaning of entries never finds
// the old ones.
const version = "kiln layer cache 1"

// NewKey returns the first key of a chain.
func NewKey(parts ...[]byte) Key {
	return Key{}.Derive(append([][]byte{[]byte(version)}, parts...)...)
}

// Derive returns the key that follows from k and parts, in this order. Each
// part goes in with its length: no two lists of parts give the same key.
func (k Key) Derive(parts ...[]byte) Key {
	h := sha256.New()
	h.Write(k[:])
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	var out Key
	h.Sum(out[:0])
	return out
}

// String returns the key in 64 hex digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// ParseKey parses what String returns.
func ParseKey(s string) (Key, error) {
	var k Key
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(k) || hex.EncodeToString(b) != s {
		return Key{}, fmt.Errorf("%q is not a cache key of %d hex digits", s, 2*len(k))
	}
	copy(k[:], b)
	return k, nil
}
