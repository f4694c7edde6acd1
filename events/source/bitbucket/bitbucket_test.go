package bitbucket_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"hash"
	"net/http"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

const secret = "s3cr3t"

var (
	secrets = [][]byte{[]byte(secret)}
	config  = bitbucket.Config{Secrets: secrets}
)

func sum(h func() hash.Hash, key string, body []byte) string {
	mac := hmac.New(h, []byte(key))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func sign(key string, body []byte) string { return "sha256=" + sum(sha256.New, key, body) }

// signed parses a request as if Bitbucket had signed it.
func signed(h http.Header, body []byte) ([]events.Change, error) {
	h.Set("X-Hub-Signature", sign(secret, body))
	return bitbucket.Parse(config, h, body)
}

func TestGolden(t *testing.T) { sourcetest.Golden(t, signed) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, signed) }

// Whatever is sent, nothing unsigned gets through.
func FuzzUnsigned(f *testing.F) {
	sourcetest.Fuzz(f, func(h http.Header, body []byte) ([]events.Change, error) {
		changes, err := bitbucket.Parse(config, h, body)
		if !errors.Is(err, source.ErrUnauthorised) && h.Get("X-Hub-Signature") != sign(secret, body) {
			f.Errorf("an unsigned request gave %v, %v", changes, err)
		}
		return changes, err
	})
}

func TestVerify(t *testing.T) {
	body := []byte(`{"push":{}}`)
	good := sign(secret, body)
	flipped := []byte(good)
	flipped[len(flipped)-1] ^= 1
	for name, tc := range map[string]struct {
		secrets [][]byte
		given   string
		ok      bool
	}{
		"good":            {secrets, good, true},
		"rotated":         {[][]byte{[]byte("old"), []byte(secret)}, good, true},
		"one bit flipped": {secrets, string(flipped), false},
		"other secret":    {[][]byte{[]byte("x")}, good, false},
		"empty secret":    {[][]byte{nil}, sign("", body), false},
		"no secret":       {nil, good, false},
		"no prefix":       {secrets, good[7:], false},
		"SHA-1":           {secrets, "sha1=" + sum(sha1.New, secret, body), false},
		"short":           {secrets, good[:len(good)-2], false},
		"nothing":         {secrets, "", false},
	} {
		err := bitbucket.Verify(tc.secrets, http.Header{"X-Hub-Signature": {tc.given}}, body)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The signature is over the raw body, and nothing is told before it is
// verified.
func TestSignatureCoversRawBody(t *testing.T) {
	h, body := sourcetest.Request(t, "testdata/cloud_push.http")
	h.Set("X-Hub-Signature", sign(secret, body))
	for name, other := range map[string][]byte{"one more space": append(body, ' '), "malformed": []byte("{")} {
		if _, err := bitbucket.Parse(config, h, other); !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An older Data Center does not say where it is; then the configuration does.
func TestServer(t *testing.T) {
	h, body := sourcetest.Request(t, "testdata/dc_no_links.http")
	h.Set("X-Hub-Signature", sign(secret, body))
	changes, err := bitbucket.Parse(bitbucket.Config{Secrets: secrets, Server: "https://bb.example.com/bitbucket/"}, h, body)
	if err != nil || changes[0].Location != "bb.example.com/bitbucket/scm/acme/shop" {
		t.Errorf("%+v, %v", changes, err)
	}
}
