package oidc_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/infra/oidc"
)

const (
	audience = "https://kiln.example.com"
	account  = "push@p1.iam.gserviceaccount.com"
)

func clock() time.Time { return time.Unix(1795400000, 0) }

// issuer gives out keys and signs with them.
type issuer struct {
	*httptest.Server
	key    *rsa.PrivateKey
	id     string
	asked  atomic.Int32
	status atomic.Int32
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	s := &issuer{id: "1"}
	s.status.Store(http.StatusOK)
	s.newKey(t)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.asked.Add(1)
		w.WriteHeader(int(s.status.Load()))
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: s.key.Public(), KeyID: s.id, Algorithm: "RS256", Use: "sig"}}})
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *issuer) newKey(t *testing.T) {
	t.Helper()
	var err error
	if s.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
}

// token is the header of a request with a token whose claims are those that
// Google's have, but for what is changed.
func (s *issuer) token(t *testing.T, changed map[string]any) http.Header {
	t.Helper()
	claims := map[string]any{
		"iss": oidc.GoogleIssuer, "aud": audience, "azp": "113774264463038321964", "email": account, "email_verified": true,
		"sub": "113774264463038321964", "iat": clock().Unix() - 10, "exp": clock().Unix() + 3590,
	}
	maps.Copy(claims, changed)
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: s.key, KeyID: s.id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return http.Header{"Authorization": {"Bearer " + raw}}
}

func newVerifier(t *testing.T, s *issuer) *oidc.Verifier {
	t.Helper()
	v, err := oidc.New(t.Context(), oidc.Config{Audience: audience, Emails: []string{"other@x", account}, Keys: s.URL, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerify(t *testing.T) {
	s := newIssuer(t)
	v := newVerifier(t, s)
	for range 5 {
		if err := v.Verify(t.Context(), s.token(t, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
	tampered := s.token(t, nil)
	parts := strings.Split(tampered.Get("Authorization"), ".")
	other := strings.Split(s.token(t, map[string]any{"email": "eve@x"}).Get("Authorization"), ".")
	tampered.Set("Authorization", parts[0]+"."+other[1]+"."+parts[2])
	for name, h := range map[string]http.Header{
		"none":             {},
		"basic":            {"Authorization": {"Basic x"}},
		"not a token":      {"Authorization": {"Bearer x"}},
		"not signed":       {"Authorization": {"Bearer eyJhbGciOiJub25lIn0." + other[1] + "."}},
		"tampered":         tampered,
		"other audience":   s.token(t, map[string]any{"aud": "https://elsewhere"}),
		"other issuer":     s.token(t, map[string]any{"iss": "https://evil"}),
		"other account":    s.token(t, map[string]any{"email": "eve@p1.iam.gserviceaccount.com"}),
		"no account":       s.token(t, map[string]any{"email": ""}),
		"not verified":     s.token(t, map[string]any{"email_verified": false}),
		"expired":          s.token(t, map[string]any{"exp": clock().Unix() - 1}),
		"of the future":    s.token(t, map[string]any{"nbf": clock().Unix() + 3600}),
		"claims that lie":  s.token(t, map[string]any{"email": 7}),
		"audience missing": s.token(t, map[string]any{"aud": nil}),
	} {
		if err := v.Verify(t.Context(), h); !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%s: %v, want ErrUnauthorised", name, err)
		}
	}
}

// A key that the issuer changed is fetched; that it cannot be is no wrong token.
func TestKeysChange(t *testing.T) {
	s := newIssuer(t)
	v := newVerifier(t, s)
	s.status.Store(http.StatusBadGateway)
	if err := v.Verify(t.Context(), s.token(t, nil)); err == nil || errors.Is(err, source.ErrUnauthorised) {
		t.Errorf("an issuer that is down: %v", err)
	}
	s.status.Store(http.StatusOK)
	if err := v.Verify(t.Context(), s.token(t, nil)); err != nil {
		t.Errorf("an issuer that is up again: %v", err)
	}
	old := s.token(t, nil)
	s.newKey(t)
	s.id = "2"
	if err := v.Verify(t.Context(), s.token(t, nil)); err != nil {
		t.Errorf("a new key: %v", err)
	}
	if err := v.Verify(t.Context(), old); !errors.Is(err, source.ErrUnauthorised) {
		t.Errorf("a token of a key that is gone: %v", err)
	}
}

func TestNewChecks(t *testing.T) {
	for _, cfg := range []oidc.Config{{}, {Audience: "a", Now: clock}, {Emails: []string{"e"}, Now: clock}, {Audience: "a", Emails: []string{"e"}}} {
		if _, err := oidc.New(t.Context(), cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
