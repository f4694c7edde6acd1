package oidc_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/infra/oidc"
)

const (
	clusterIssuer = "https://oidc.cloud.example.com/clusters/1"
	broker        = "system:serviceaccount:kiln:broker"
)

// apiServer is as much of one as tokens take. It lets those in who show its token.
func apiServer(t *testing.T, s *issuer, discovery string) (host string, client *http.Client) {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(body func() any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer mine" {
				http.Error(w, "who are you", http.StatusUnauthorized)
				return
			}
			_ = json.NewEncoder(w).Encode(body())
		}
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", answer(func() any { return json.RawMessage(discovery) }))
	mux.HandleFunc("GET /openid/v1/jwks", answer(func() any {
		return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: s.key.Public(), KeyID: s.id, Algorithm: "RS256", Use: "sig"}}}
	}))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, &http.Client{Transport: withToken{}}
}

type withToken struct{}

func (withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer mine")
	return http.DefaultTransport.RoundTrip(r)
}

// Service accounts have a subject and no e-mail, and their issuer may have another
// address than the API server that gives out its keys.
func TestCluster(t *testing.T) {
	s := newIssuer(t)
	host, client := apiServer(t, s, `{"issuer":"`+clusterIssuer+`","jwks_uri":"https://elsewhere.invalid/keys"}`)
	cfg, err := oidc.Cluster(t.Context(), oidc.Config{Audience: audience, Subjects: []string{broker}, Now: clock}, host+"/", client)
	if err != nil {
		t.Fatal(err)
	}
	v, err := oidc.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	of := func(changed map[string]any) http.Header {
		claims := map[string]any{"iss": clusterIssuer, "sub": broker, "email": nil, "email_verified": nil}
		for k, c := range changed {
			claims[k] = c
		}
		return s.token(t, claims)
	}
	if err := v.Verify(t.Context(), of(nil)); err != nil {
		t.Error(err)
	}
	for name, h := range map[string]http.Header{
		"other subject":  of(map[string]any{"sub": "system:serviceaccount:kiln:default"}),
		"as an e-mail":   of(map[string]any{"sub": "x", "email": broker, "email_verified": true}),
		"other audience": of(map[string]any{"aud": "https://kubernetes.default.svc"}),
		"other issuer":   of(map[string]any{"iss": oidc.GoogleIssuer}),
		"expired":        of(map[string]any{"exp": clock().Unix() - 1}),
	} {
		if err := v.Verify(t.Context(), h); !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%s: %v, want ErrUnauthorised", name, err)
		}
	}
}

func TestClusterErrors(t *testing.T) {
	s := newIssuer(t)
	for name, tc := range map[string]struct {
		discovery, want string
		client          *http.Client
	}{
		"not let in": {`{}`, "system:service-account-issuer-discovery", http.DefaultClient},
		"no issuer":  {`{}`, "names no issuer", nil},
		"no JSON":    {`"x"`, "openid-configuration", nil},
	} {
		host, client := apiServer(t, s, tc.discovery)
		if tc.client != nil {
			client = tc.client
		}
		if _, err := oidc.Cluster(t.Context(), oidc.Config{}, host, client); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Of several issuers one is enough; that one cannot be asked is not that a token is
// wrong.
func TestAny(t *testing.T) {
	s, other := newIssuer(t), newIssuer(t)
	admit := oidc.Any(newVerifier(t, s), newVerifier(t, other))
	if err := admit(t.Context(), other.token(t, nil)); err != nil {
		t.Error(err)
	}
	if err := admit(t.Context(), newIssuer(t).token(t, nil)); !errors.Is(err, source.ErrUnauthorised) {
		t.Errorf("a third: %v", err)
	}
	other.status.Store(http.StatusBadGateway)
	admit = oidc.Any(newVerifier(t, s), newVerifier(t, other))
	if err := admit(context.Background(), other.token(t, nil)); err == nil || errors.Is(err, source.ErrUnauthorised) {
		t.Errorf("one that is down: %v", err)
	}
	if err := admit(t.Context(), s.token(t, nil)); err != nil {
		t.Error(err)
	}
	if err := oidc.Any()(t.Context(), nil); !errors.Is(err, source.ErrUnauthorised) {
		t.Errorf("none: %v", err)
	}
}
