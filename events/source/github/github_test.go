package github_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"net/http"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/github"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

const secret = "It's a Secret to Everybody"

func sign(key string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// signed parses a request as if GitHub had signed it.
func signed(h http.Header, body []byte) ([]events.Change, error) {
	h.Set("X-Hub-Signature-256", sign(secret, body))
	return github.Parse([][]byte{[]byte(secret)}, h, body)
}

func TestGolden(t *testing.T) { sourcetest.Golden(t, signed) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, signed) }

// Whatever is sent, nothing unsigned gets through.
func FuzzUnsigned(f *testing.F) {
	sourcetest.Fuzz(f, func(h http.Header, body []byte) ([]events.Change, error) {
		changes, err := github.Parse([][]byte{[]byte(secret)}, h, body)
		if !errors.Is(err, source.ErrUnauthorised) && h.Get("X-Hub-Signature-256") != sign(secret, body) {
			f.Errorf("an unsigned request gave %v, %v", changes, err)
		}
		return changes, err
	})
}

// GitHub's own vector.
func TestSignatureVector(t *testing.T) {
	h := http.Header{"X-Hub-Signature-256": {"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}}
	if err := github.Verify([][]byte{[]byte(secret)}, h, []byte("Hello, World!")); err != nil {
		t.Errorf("the vector is refused: %v", err)
	}
}

func TestVerify(t *testing.T) {
	body := []byte("Hello, World!")
	good := sign(secret, body)
	flipped := []byte(good)
	flipped[len(flipped)-1] ^= 1
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write(body)
	sha1Signature := "sha1=" + hex.EncodeToString(mac.Sum(nil))
	secrets := func(s ...string) (list [][]byte) {
		for _, text := range s {
			list = append(list, []byte(text))
		}
		return list
	}
	for name, tc := range map[string]struct {
		secrets [][]byte
		header  http.Header
		ok      bool
	}{
		"good":                 {secrets(secret), http.Header{"X-Hub-Signature-256": {good}}, true},
		"rotated, new":         {secrets("old", secret), http.Header{"X-Hub-Signature-256": {good}}, true},
		"rotated, old":         {secrets(secret, "new"), http.Header{"X-Hub-Signature-256": {good}}, true},
		"one bit flipped":      {secrets(secret), http.Header{"X-Hub-Signature-256": {string(flipped)}}, false},
		"other secret":         {secrets("x"), http.Header{"X-Hub-Signature-256": {good}}, false},
		"no header":            {secrets(secret), http.Header{}, false},
		"only SHA-1":           {secrets(secret), http.Header{"X-Hub-Signature": {sha1Signature}}, false},
		"SHA-1 in its place":   {secrets(secret), http.Header{"X-Hub-Signature-256": {sha1Signature}}, false},
		"no prefix":            {secrets(secret), http.Header{"X-Hub-Signature-256": {good[len("sha256="):]}}, false},
		"not hex":              {secrets(secret), http.Header{"X-Hub-Signature-256": {"sha256=zz"}}, false},
		"empty":                {secrets(secret), http.Header{"X-Hub-Signature-256": {"sha256="}}, false},
		"short":                {secrets(secret), http.Header{"X-Hub-Signature-256": {good[:len(good)-2]}}, false},
		"no secret":            {nil, http.Header{"X-Hub-Signature-256": {good}}, false},
		"an empty secret":      {secrets(""), http.Header{"X-Hub-Signature-256": {sign("", body)}}, false},
		"the second of two":    {secrets(secret), http.Header{"X-Hub-Signature-256": {string(flipped), good}}, false},
		"in form of go header": {secrets(secret), http.Header{"x-hub-signature-256": {good}}, false},
	} {
		err := github.Verify(tc.secrets, tc.header, body)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The signature is over the raw body: the same JSON written otherwise is
// another body. Nothing about a request is told before it is verified.
func TestSignatureCoversRawBody(t *testing.T) {
	h, body := sourcetest.Request(t, "testdata/push.http")
	h.Set("X-Hub-Signature-256", sign(secret, body))
	if _, err := github.Parse([][]byte{[]byte(secret)}, h, append(body, ' ')); !errors.Is(err, source.ErrUnauthorised) {
		t.Errorf("a body with one more space: %v", err)
	}
	if _, err := github.Parse([][]byte{[]byte(secret)}, h, []byte("{")); !errors.Is(err, source.ErrUnauthorised) {
		t.Errorf("a malformed body that is not signed: %v", err)
	}
	h.Set("X-Github-Event", "ping")
	if _, err := github.Parse([][]byte{[]byte("other")}, h, body); !errors.Is(err, source.ErrUnauthorised) {
		t.Errorf("an unsigned ping: %v", err)
	}
}

// The clone URL of a payload on another host makes a change of that host, so
// that a trigger for github.com does not match it.
func TestLocationIsOfTheCloneURL(t *testing.T) {
	body := []byte(`{"ref":"refs/heads/main","before":"a10867b14bb761a232cd80139fbd4c0d33264240","after":"199eddf46df50de8d02e99bf1c5fdb4101338224","repository":{"full_name":"acme/shop","clone_url":"https://GHE.corp.example:8443/acme/shop.git","pushed_at":"2026-11-23T07:00:00Z"}}`)
	changes, err := signed(http.Header{"Content-Type": {"application/json; charset=utf-8"}, "X-Github-Event": {"push"}}, body)
	if err != nil || changes[0].Location != "ghe.corp.example:8443/acme/shop" || changes[0].Time.IsZero() {
		t.Errorf("%+v, %v", changes, err)
	}
}
