package gitea_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"net/http"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/gitea"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

const secret = "s3cr3t"

var secrets = [][]byte{[]byte("old"), []byte(secret)}

func sign(key string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// signed parses a request as if its sender had signed it.
func signed(h http.Header, body []byte) ([]events.Change, error) {
	for _, name := range []string{"X-Gitea-Signature", "X-Forgejo-Signature"} {
		if name == "X-Gitea-Signature" || h.Get("X-Forgejo-Event") != "" || h.Get("X-Forgejo-Delivery") != "" || len(h.Values(name)) > 0 {
			h.Set(name, sign(secret, body))
		}
	}
	return gitea.Parse(secrets, h, body)
}

func TestGolden(t *testing.T) { sourcetest.Golden(t, signed) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, signed) }

// Whatever is sent, nothing unsigned gets through.
func FuzzUnsigned(f *testing.F) {
	sourcetest.Fuzz(f, func(h http.Header, body []byte) ([]events.Change, error) {
		changes, err := gitea.Parse(secrets, h, body)
		good := func(name string) bool { s := h.Get(name); return s == sign(secret, body) || s == sign("old", body) }
		if !errors.Is(err, source.ErrUnauthorised) && !good("X-Gitea-Signature") && !good("X-Forgejo-Signature") {
			f.Errorf("an unsigned request gave %v, %v", changes, err)
		}
		return changes, err
	})
}

func TestVerify(t *testing.T) {
	const good = "8588fd50c04ac2c191575340c4c0fe284157898def8e4d10af822f05dd7c9bb5" // the vector
	body := []byte(`{"ref":"refs/heads/main"}`)
	wrong := sign("x", body)
	for name, tc := range map[string]struct {
		secrets [][]byte
		header  http.Header
		ok      bool
	}{
		"vector":                     {[][]byte{[]byte(secret)}, http.Header{"X-Gitea-Signature": {good}}, true},
		"rotated":                    {secrets, http.Header{"X-Gitea-Signature": {good}}, true},
		"forgejo":                    {secrets, http.Header{"X-Forgejo-Signature": {good}}, true},
		"both":                       {secrets, http.Header{"X-Gitea-Signature": {good}, "X-Forgejo-Signature": {good}}, true},
		"forgejo decides, right":     {secrets, http.Header{"X-Gitea-Signature": {wrong}, "X-Forgejo-Signature": {good}}, true},
		"forgejo decides, wrong":     {secrets, http.Header{"X-Gitea-Signature": {good}, "X-Forgejo-Signature": {wrong}}, false},
		"forgejo decides, empty":     {secrets, http.Header{"X-Gitea-Signature": {good}, "X-Forgejo-Signature": {""}}, false},
		"forgejo decides, by event":  {secrets, http.Header{"X-Gitea-Signature": {good}, "X-Forgejo-Event": {"push"}}, false},
		"github's header is not one": {secrets, http.Header{"X-Hub-Signature-256": {"sha256=" + good}}, false},
		"with prefix":                {secrets, http.Header{"X-Gitea-Signature": {"sha256=" + good}}, false},
		"other secret":               {[][]byte{[]byte("x")}, http.Header{"X-Gitea-Signature": {good}}, false},
		"empty secret":               {[][]byte{nil}, http.Header{"X-Gitea-Signature": {sign("", body)}}, false},
		"no secret":                  {nil, http.Header{"X-Gitea-Signature": {good}}, false},
		"short":                      {secrets, http.Header{"X-Gitea-Signature": {good[2:]}}, false},
		"not hex":                    {secrets, http.Header{"X-Gitea-Signature": {"zz" + good[2:]}}, false},
		"no header":                  {secrets, http.Header{}, false},
	} {
		err := gitea.Verify(tc.secrets, tc.header, body)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The signature is over the raw body, and nothing is told before it is
// verified.
func TestSignatureCoversRawBody(t *testing.T) {
	h, body := sourcetest.Request(t, "testdata/push.http")
	h.Set("X-Gitea-Signature", sign(secret, body))
	for name, other := range map[string][]byte{"one more space": append(body, ' '), "malformed": []byte("{")} {
		if _, err := gitea.Parse(secrets, h, other); !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
