package gitlab_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/gitlab"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

const (
	key       = "0123456789abcdef0123456789abcdef"
	signedAt  = 1795400000
	vectorID  = "e3f1a3f0-7f0c-4f6e-9f7e-2b6c7f1f0a11"
	vectorSig = "v1,Xqy3FlSXlrK3837Ty/l5ERhlJnGRfusn6TxYrUSO5Ew="
	token     = "t0ken of the hook"
)

var (
	vectorBody = []byte(`{"ref":"refs/heads/main"}`)
	now        = time.Unix(signedAt, 0)
	secrets    = gitlab.Secrets{Keys: [][]byte{[]byte(key)}, Tokens: []string{token}}
)

func sign(key, id string, at int64, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(id + "." + strconv.FormatInt(at, 10) + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// trusted parses a request as if GitLab had sent it with the token.
func trusted(h http.Header, body []byte) ([]events.Change, error) {
	h.Del("Webhook-Signature")
	h.Set("X-Gitlab-Token", token)
	return gitlab.Parse(secrets, now, h, body)
}

func TestGolden(t *testing.T) { sourcetest.Golden(t, trusted) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, trusted) }

// Whatever is sent, nothing without the token or a signature gets through.
func FuzzUnsigned(f *testing.F) {
	sourcetest.Fuzz(f, func(h http.Header, body []byte) ([]events.Change, error) {
		h.Del("X-Gitlab-Token")
		at, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
		good := err == nil && strings.Contains(h.Get("Webhook-Signature"), sign(key, h.Get("Webhook-Id"), at, body))
		changes, err := gitlab.Parse(secrets, now, h, body)
		if !errors.Is(err, source.ErrUnauthorised) && !good {
			f.Errorf("an unsigned request gave %v, %v", changes, err)
		}
		return changes, err
	})
}

func TestParseSecrets(t *testing.T) {
	s, err := gitlab.ParseSecrets([]string{"old", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "new"})
	if err != nil || len(s.Keys) != 1 || string(s.Keys[0]) != key || len(s.Tokens) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"whsec_", "whsec_c2hvcnQ=", "whsec_%%"} {
		if _, err := gitlab.ParseSecrets([]string{"ok", bad}); err == nil || !strings.Contains(err.Error(), "secret 2") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestVerify(t *testing.T) {
	signed := func(edit ...string) http.Header {
		h := http.Header{"Webhook-Id": {vectorID}, "Webhook-Timestamp": {"1795400000"}, "Webhook-Signature": {vectorSig}}
		for i := 0; i < len(edit); i += 2 {
			if h.Del(edit[i]); edit[i+1] != "" {
				h.Set(edit[i], edit[i+1])
			}
		}
		return h
	}
	keys := func(list ...string) (s gitlab.Secrets) {
		for _, k := range list {
			s.Keys = append(s.Keys, []byte(k))
		}
		return s
	}
	tokens := func(list ...string) gitlab.Secrets { return gitlab.Secrets{Tokens: list} }
	withToken := func(given string) http.Header { return http.Header{"X-Gitlab-Token": {given}} }
	other := sign("another key of 32 bytes in length", vectorID, signedAt, vectorBody)
	flipped := strings.Replace(vectorSig, "X", "Y", 1)

	for name, tc := range map[string]struct {
		secrets gitlab.Secrets
		header  http.Header
		skew    time.Duration
		ok      bool
	}{
		"vector":                        {keys(key), signed(), 0, true},
		"rotated, ours":                 {keys("old", key), signed(), 0, true},
		"rotated, theirs":               {keys(key), signed("Webhook-Signature", other+" "+vectorSig), 0, true},
		"beside another version":        {keys(key), signed("Webhook-Signature", "v1a,xx "+vectorSig+" v2,"), 0, true},
		"5 min ago":                     {keys(key), signed(), 5 * time.Minute, true},
		"in 5 min":                      {keys(key), signed(), -5 * time.Minute, true},
		"longer ago":                    {keys(key), signed(), 5*time.Minute + time.Second, false},
		"later":                         {keys(key), signed(), -5*time.Minute - time.Second, false},
		"other key":                     {keys("x"), signed(), 0, false},
		"empty key":                     {keys(""), signed("Webhook-Signature", sign("", vectorID, signedAt, vectorBody)), 0, false},
		"one bit flipped":               {keys(key), signed("Webhook-Signature", flipped), 0, false},
		"without version":               {keys(key), signed("Webhook-Signature", vectorSig[3:]), 0, false},
		"other id":                      {keys(key), signed("Webhook-Id", "x"), 0, false},
		"no id":                         {keys(key), signed("Webhook-Id", "", "Webhook-Signature", sign(key, "", signedAt, vectorBody)), 0, false},
		"other time":                    {keys(key), signed("Webhook-Timestamp", "1795400001"), 0, false},
		"no time":                       {keys(key), signed("Webhook-Timestamp", ""), 0, false},
		"time is no number":             {keys(key), signed("Webhook-Timestamp", "now"), 0, false},
		"time is huge":                  {keys(key), signed("Webhook-Timestamp", "99999999999999999999"), 0, false},
		"not signed":                    {keys(key), http.Header{}, 0, false},
		"signed, no secrets":            {gitlab.Secrets{}, signed(), 0, false},
		"token":                         {tokens(token), withToken(token), 0, true},
		"token, rotated":                {tokens("old", token), withToken(token), 0, true},
		"token and keys":                {secrets, withToken(token), 0, true},
		"signed, we know the token":     {tokens(token), signed("X-Gitlab-Token", token), 0, true},
		"wrong token":                   {tokens(token), withToken(token + "x"), 0, false},
		"empty token":                   {tokens(""), withToken(""), 0, false},
		"no token":                      {tokens(token), http.Header{}, 0, false},
		"token, no secrets":             {gitlab.Secrets{}, withToken(token), 0, false},
		"token cannot mend a signature": {secrets, signed("Webhook-Signature", flipped, "X-Gitlab-Token", token), 0, false},
		"key as token":                  {keys(key), withToken(key), 0, false},
	} {
		err := tc.secrets.Verify(now.Add(tc.skew), tc.header, vectorBody)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A signature is over the raw body, and nothing is told before it is verified.
func TestSignatureCoversRawBody(t *testing.T) {
	h, body := sourcetest.Request(t, "testdata/push.http")
	h.Set("Webhook-Id", vectorID)
	h.Set("Webhook-Timestamp", strconv.Itoa(signedAt))
	h.Set("Webhook-Signature", sign(key, vectorID, signedAt, body))
	changes, err := gitlab.Parse(secrets, now, h, body)
	if err != nil || changes[0].Delivery != vectorID {
		t.Errorf("%+v, %v", changes, err)
	}
	for name, other := range map[string][]byte{"one more space": append(body, ' '), "malformed": []byte("{")} {
		if _, err := gitlab.Parse(secrets, now, h, other); !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
