package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// A service account of the cluster gets in with a token for the dispatcher, which
// takes the keys from the API server; another one does not, and neither does its own
// token for somebody else. Kiln's own tokens count as well.
func TestServiceAccounts(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	answer := func(path string, body any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer own" {
				http.Error(w, "anonymous", http.StatusForbidden)
				return
			}
			_ = json.NewEncoder(w).Encode(body)
		})
	}
	answer("/.well-known/openid-configuration", map[string]string{"issuer": "https://issuer.example.com"})
	answer("/openid/v1/jwks", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "RS256", Use: "sig"}}})
	api := httptest.NewTLSServer(mux)
	t.Cleanup(api.Close)
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}))
	kubeconfig := write(t, `{"apiVersion": "v1", "kind": "Config", "current-context": "c",
"clusters": [{"name": "c", "cluster": {"server": "`+api.URL+`", "certificate-authority-data": "`+ca+`"}}], "users": [{"name": "u", "user": {"token": "own"}}],
"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}`)
	executor, _ := fakeExecutor(t, "")
	const account = "system:serviceaccount:kiln:kiln-changes"
	url, _ := start(t, []string{"PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + kubeconfig, "KILN_TOKEN=ours"}, "--data", t.TempDir(),
		"--triggers", write(t, "name: app\non: {git: {repo: h/r}}\n"), "--executor", executor,
		"--cluster-audience", "kiln", "--cluster-subject", "system:serviceaccount:a:b", "--cluster-subject", account)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token := func(subject, audience string) string {
		claims, err := json.Marshal(map[string]any{"iss": "https://issuer.example.com", "sub": subject, "aud": []string{audience}, "exp": 1795400060})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, tc := range []struct {
		name, token string
		status      int
	}{
		{"the account", token(account, "kiln"), http.StatusOK},
		{"another", token("system:serviceaccount:kiln:default", "kiln"), http.StatusUnauthorized},
		{"for another", token(account, "https://kubernetes.default.svc"), http.StatusUnauthorized},
		{"a token", "ours", http.StatusOK},
		{"no token", "theirs", http.StatusUnauthorized},
	} {
		// Nobody is told of this type, so it is taken and nothing comes of it.
		const event = `{"specversion":"1.0","id":"1","source":"/s","type":"com.example.other"}`
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/events/in", strings.NewReader(event))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/cloudevents+json")
		req.Header.Set("Authorization", "Bearer "+tc.token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.status {
			t.Errorf("%s: %d %s, want %d", tc.name, resp.StatusCode, body, tc.status)
		}
	}
}
