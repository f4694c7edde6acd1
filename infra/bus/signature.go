package bus

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// secretPrefix marks a secret written in base64.
const secretPrefix = "whsec_"

// minSecret is the least number of bytes of a secret.
const minSecret = 16

// ParseSecret reads a webhook secret: "whsec_" and base64, or the bytes
// themselves. It must have 16 bytes at least.
func ParseSecret(text string) ([]byte, error) {
	secret := []byte(text)
	if encoded, ok := strings.CutPrefix(text, secretPrefix); ok {
		var err error
		if secret, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return nil, errors.New("webhook secret after whsec_ is not base64")
		}
	}
	if len(secret) < minSecret {
		return nil, fmt.Errorf("webhook secret has %d bytes; use %d or more", len(secret), minSecret)
	}
	return secret, nil
}

// Sign returns the value of the header webhook-signature of Standard Webhooks
// 1.0: "v1," and the base64 of the HMAC-SHA256 of "<id>.<seconds>.<body>".
func Sign(secret []byte, id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
