package source

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
)

// VerifyToken reports ErrUnauthorised unless given is one of the tokens. It
// takes the same time for every wrong token. No tokens let nothing pass, and an
// empty one counts for nothing.
func VerifyToken(tokens []string, given string) error {
	sum := sha256.Sum256([]byte(given))
	ok := 0
	for _, token := range tokens {
		if token == "" {
			continue
		}
		want := sha256.Sum256([]byte(token))
		ok |= subtle.ConstantTimeCompare(sum[:], want[:])
	}
	if ok != 1 {
		return ErrUnauthorised
	}
	return nil
}

// VerifyHMAC reports ErrUnauthorised unless the hex digits are the HMAC-SHA256
// of the raw body with one of the secrets. It takes the same time for every
// wrong signature. No secrets let nothing pass, and an empty one counts for
// nothing.
func VerifyHMAC(secrets [][]byte, digits string, body []byte) error {
	given, err := hex.DecodeString(digits)
	if err != nil || len(given) != sha256.Size {
		return ErrUnauthorised
	}
	matches := false
	for _, secret := range secrets {
		if len(secret) == 0 {
			continue
		}
		mac := hmac.New(sha256.New, secret)
		mac.Write(body)
		if hmac.Equal(mac.Sum(nil), given) {
			matches = true
		}
	}
	if !matches {
		return ErrUnauthorised
	}
	return nil
}
