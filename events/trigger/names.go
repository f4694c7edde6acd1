package trigger

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// maxTag is the length of the longest tag of an image.
const maxTag = 128

// Slug makes of any text one that can be a tag, a path component of a
// repository, and a file name: lower-case letters, digits, and single ".",
// "_" or "-" between them, at most 128. Text with nothing of that, or that is
// cut, gets a hash, so that different texts stay different.
func Slug(s string) string {
	var b strings.Builder
	separator := ""
	for _, r := range strings.ToLower(s) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			if b.Len() > 0 {
				b.WriteString(separator)
			}
			separator = ""
			b.WriteRune(r)
		case separator == "" && (r == '.' || r == '_'):
			separator = string(r)
		default:
			separator = "-"
		}
	}
	if s != "" && b.Len() == 0 {
		return "x-" + hash(s)
	}
	return cut(b.String(), s)
}

// Tag makes of any text a valid tag of an image, of the text itself if it is
// one: letters, digits, "_", "." and "-", not beginning with one of the last
// two, at most 128. Empty stays empty.
func Tag(s string) string {
	t := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("_.-", r):
			return r
		}
		return '-'
	}, s)
	t = strings.TrimLeft(t, ".-")
	if s != "" && t == "" {
		return "x-" + hash(s)
	}
	return cut(t, s)
}

// cut shortens a name made of s to the length of a tag.
func cut(name, s string) string {
	if len(name) <= maxTag {
		return name
	}
	return strings.TrimRight(name[:maxTag-9], "._-") + "-" + hash(s)
}

// hash is 8 hex digits that tell s from others.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

// CheckRepository reports why a name is not that of a repository, as
// "host:port/path/name" or "path/name", without tag and digest.
func CheckRepository(name string) error {
	if len(name) > 255 {
		return fmt.Errorf("repository name of %d bytes is longer than 255", len(name))
	}
	parts := strings.Split(name, "/")
	if len(parts) > 1 && isHost(parts[0]) {
		parts = parts[1:]
	}
	for _, part := range parts {
		if !isComponent(part) {
			return fmt.Errorf("%q is not the name of a repository: %q must be lower-case letters and digits with single '.', '_', '__' or '-' between them", name, part)
		}
	}
	return nil
}

// isHost reports whether the first part of a name is a host: it has a dot or a
// port, or is localhost.
func isHost(s string) bool {
	host, port, hasPort := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") { // an IPv6 address
		var ok bool
		if host, port, ok = strings.Cut(s[1:], "]"); !ok {
			return false
		}
		port, hasPort = strings.CutPrefix(port, ":")
		return strings.Trim(host, "0123456789abcdefABCDEF:.") == "" && (!hasPort || isDigits(port))
	}
	if !strings.Contains(host, ".") && host != "localhost" && !hasPort {
		return false
	}
	if hasPort && !isDigits(port) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(strings.ToLower(label), lowerDigits+"-") != "" {
			return false
		}
	}
	return true
}

const lowerDigits = "abcdefghijklmnopqrstuvwxyz0123456789"

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// isComponent reports whether s is a path component of the distribution
// specification.
func isComponent(s string) bool {
	if s == "" || !strings.Contains(lowerDigits, s[:1]) || !strings.Contains(lowerDigits, s[len(s)-1:]) {
		return false
	}
	for run := range strings.FieldsFuncSeq(s, func(r rune) bool { return strings.ContainsRune(lowerDigits, r) }) {
		if run != "." && run != "_" && run != "__" && strings.Trim(run, "-") != "" {
			return false
		}
	}
	return true
}
