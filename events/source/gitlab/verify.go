package gitlab

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events/source"
)

// Headers of a signed hook, as Standard Webhooks names them.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp" // seconds since 1970
	headerSignature = "Webhook-Signature" // several, with spaces between them
)

const (
	headerToken = "X-Gitlab-Token" // the older form: a secret in clear
	keyPrefix   = "whsec_"
	minKey      = 16 // bytes
)

// MaxSkew is how far the time of a signed request may be from ours: what was
// signed earlier may be a repetition by somebody who listened.
const MaxSkew = 5 * time.Minute

// Secrets are what hooks are verified with; several of each while they are
// changed.
type Secrets struct {
	Keys   [][]byte // sign requests
	Tokens []string // are sent in clear
}

// ParseSecrets tells keys from tokens: what begins with "whsec_" is the base64
// of a key, of 16 bytes or more; all else is a token.
func ParseSecrets(texts []string) (Secrets, error) {
	var s Secrets
	for i, text := range texts {
		encoded, isKey := strings.CutPrefix(text, keyPrefix)
		if !isKey {
			s.Tokens = append(s.Tokens, text)
			continue
		}
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return Secrets{}, fmt.Errorf("secret %d after %s is not base64: copy the whole signing token", i+1, keyPrefix)
		}
		if len(key) < minKey {
			return Secrets{}, fmt.Errorf("secret %d has %d bytes; a signing token has %d or more", i+1, len(key), minKey)
		}
		s.Keys = append(s.Keys, key)
	}
	return s, nil
}

// Verify reports source.ErrUnauthorised unless a request is signed with one of
// the keys within MaxSkew of now, or has one of the tokens. A signature alone
// decides where there is one and there are keys. No secrets let nothing pass.
func (s Secrets) Verify(now time.Time, h http.Header, body []byte) error {
	if len(s.Keys) > 0 && len(h.Values(headerSignature)) > 0 {
		return s.verifySignature(now, h, body)
	}
	return source.VerifyToken(s.Tokens, h.Get(headerToken))
}

// verifySignature looks at the time last, so that only who has the key, or
// repeats what such a one sent, learns that it is wrong.
func (s Secrets) verifySignature(now time.Time, h http.Header, body []byte) error {
	id, timestamp := h.Get(headerID), h.Get(headerTimestamp)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || id == "" {
		return source.ErrUnauthorised
	}
	if !s.signed(id+"."+timestamp+".", h.Get(headerSignature), body) {
		return source.ErrUnauthorised
	}
	if at := time.Unix(seconds, 0); at.Before(now.Add(-MaxSkew)) || at.After(now.Add(MaxSkew)) {
		return fmt.Errorf("%w: the request was signed more than %s from now by our clock", source.ErrUnauthorised, MaxSkew)
	}
	return nil
}

// maxSignatures is how many signatures of a request are looked at.
const maxSignatures = 16

// signed reports whether one of the signatures is over the prefix and body.
// It takes the same time for every wrong one.
func (s Secrets) signed(prefix, signatures string, body []byte) bool {
	var given [][]byte
	for signature := range strings.FieldsSeq(signatures) {
		encoded, isV1 := strings.CutPrefix(signature, "v1,")
		sum, err := base64.StdEncoding.DecodeString(encoded)
		if isV1 && err == nil && len(given) < maxSignatures {
			given = append(given, sum)
		}
	}
	matches := false
	for _, key := range s.Keys {
		if len(key) == 0 {
			continue
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(prefix))
		mac.Write(body)
		want := mac.Sum(nil)
		for _, sum := range given {
			if hmac.Equal(want, sum) {
				matches = true
			}
		}
	}
	return matches
}
