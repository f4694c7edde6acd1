package events

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// buildIDLength is the number of base 32 digits of a build id: 130 bits.
const buildIDLength = 26

// BuildID derives the id of a build from what is to be built: the trigger, the
// kind, the location, the name, the sequence (git) or generation (object), the
// commit (git only) and the nonce, in this order. The id is 26 characters of
// [0-9a-v], fit for a DNS label, a Kubernetes label and a file name. The same
// parts always give the same id, and no two lists of parts are confused.
func BuildID(parts ...string) string {
	sum := sha256.Sum256([]byte("build/v1\n" + netstrings(parts...)))
	return strings.ToLower(base32.HexEncoding.EncodeToString(sum[:]))[:buildIDLength]
}

// IsBuildID reports whether s has the form of a build id.
func IsBuildID(s string) bool {
	return len(s) == buildIDLength && strings.Trim(s, "0123456789abcdefghijklmnopqrstuv") == ""
}
