package cloud

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Google finds tokens for Google Cloud by the rules of Application Default
// Credentials. It is safe for concurrent use.
type Google struct {
	s     *service
	scope string

	mu    sync.Mutex
	token *Token
}

// NewGoogle returns a source of tokens for an OAuth scope.
func NewGoogle(scope string, opt Options) *Google {
	return &Google{s: newService(opt), scope: scope}
}

// Token returns a token that is good for a minute at least, or nil if no
// credentials are to be found: GOOGLE_APPLICATION_CREDENTIALS, then gcloud's
// own file, then the metadata server. Credentials that are there and do not
// work are an error.
func (g *Google) Token(ctx context.Context) (*Token, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token.fresh(g.s.Now()) {
		return g.token, nil
	}
	t, err := g.find(ctx)
	if err == nil {
		g.token = t
	}
	return t, err
}

func (g *Google) find(ctx context.Context) (*Token, error) {
	if path := g.s.Env("GOOGLE_APPLICATION_CREDENTIALS"); path != "" {
		t, err := g.fromFile(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("credentials of GOOGLE_APPLICATION_CREDENTIALS=%s: %w", path, err)
		}
		return t, nil
	}
	path := filepath.Join(g.s.Env("HOME"), ".config", "gcloud")
	if dir := g.s.Env("CLOUDSDK_CONFIG"); dir != "" {
		path = dir
	}
	path = filepath.Join(path, "application_default_credentials.json")
	t, err := g.fromFile(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return g.fromMetadata(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("credentials in %s: %w", path, err)
	}
	return t, nil
}

// googleFile is as much of a credentials file as we need, of all its kinds.
type googleFile struct {
	Type string `json:"type"`

	ClientEmail  string `json:"client_email"` // service_account
	PrivateKey   string `json:"private_key"`
	PrivateKeyID string `json:"private_key_id"`
	TokenURI     string `json:"token_uri"`

	ClientID     string `json:"client_id"` // authorized_user
	ClientSecret string `json:"client_secret"`
	RefreshToken string `json:"refresh_token"`

	Audience         string        `json:"audience"` // external_account
	SubjectTokenType string        `json:"subject_token_type"`
	TokenURL         string        `json:"token_url"`
	ImpersonationURL string        `json:"service_account_impersonation_url"`
	CredentialSource subjectSource `json:"credential_source"`

	SourceCredentials json.RawMessage `json:"source_credentials"` // impersonated_service_account
	Delegates         []string        `json:"delegates"`
}

func (g *Google) fromFile(ctx context.Context, path string) (*Token, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return g.fromJSON(ctx, raw, path, g.scope)
}

// allGoogle is the scope of a token that another is made with.
const allGoogle = "https://www.googleapis.com/auth/cloud-platform"

// fromJSON uses the credentials in raw, which come from path.
func (g *Google) fromJSON(ctx context.Context, raw []byte, path, scope string) (*Token, error) {
	var f googleFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("not a credentials file: %w", err)
	}
	if f.TokenURI == "" {
		f.TokenURI = "https://oauth2.googleapis.com/token"
	}
	switch f.Type {
	case "service_account":
		return g.serviceAccount(ctx, &f, scope)
	case "authorized_user":
		form := url.Values{
			"grant_type": {"refresh_token"}, "client_id": {f.ClientID}, "client_secret": {f.ClientSecret}, "refresh_token": {f.RefreshToken},
		}
		return g.grant(ctx, f.TokenURI, form, "the gcloud user of "+path)
	case "external_account":
		return g.externalAccount(ctx, &f, scope)
	case "impersonated_service_account":
		var source googleFile
		if json.Unmarshal(f.SourceCredentials, &source) != nil || source.Type == "" || source.Type == f.Type {
			return nil, errors.New("source_credentials of the impersonated_service_account cannot be used")
		}
		by, err := g.fromJSON(ctx, f.SourceCredentials, path, allGoogle)
		if err != nil {
			return nil, err
		}
		return g.impersonate(ctx, f.ImpersonationURL, scope, f.Delegates, by)
	}
	return nil, fmt.Errorf("credentials of type %q are not supported: use service_account, authorized_user, external_account or impersonated_service_account", f.Type)
}

// grant asks a token service with a form.
func (g *Google) grant(ctx context.Context, uri string, form url.Values, from string) (*Token, error) {
	body, _, err := g.s.ask(ctx, g.s.public, postForm(uri, form))
	if err != nil {
		return nil, fmt.Errorf("get a token for %s: %w", from, err)
	}
	return g.s.token(body, from)
}

func postForm(uri string, form url.Values) func() (*http.Request, error) {
	return func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodPost, uri, strings.NewReader(form.Encode())) //nolint:noctx // ask gives it one
		if err != nil {
			return nil, fmt.Errorf("the token service's URL is not valid: %w", err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return req, nil
	}
}

// serviceAccount trades a signed assertion for a token (RFC 7523).
func (g *Google) serviceAccount(ctx context.Context, f *googleFile, scope string) (*Token, error) {
	key, err := rsaKey(f.PrivateKey)
	if err != nil {
		return nil, err
	}
	now := g.s.Now()
	assertion, err := signJWT(key, f.PrivateKeyID, map[string]any{
		"iss": f.ClientEmail, "scope": scope, "aud": f.TokenURI, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		return nil, err
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	return g.grant(ctx, f.TokenURI, form, "service account "+f.ClientEmail)
}

func rsaKey(text string) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("private_key is not PEM")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse private_key: %w", err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("private_key is not an RSA key")
	}
	return key, nil
}

func signJWT(key *rsa.PrivateKey, id string, claims map[string]any) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": id})
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString(header) + "." + enc.EncodeToString(payload)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	return text + "." + enc.EncodeToString(sig), nil
}

func (g *Google) impersonate(ctx context.Context, uri, scope string, delegates []string, by *Token) (*Token, error) {
	account := uri[strings.LastIndexByte(uri, '/')+1:]
	account, _, _ = strings.Cut(account, ":")
	body, err := json.Marshal(map[string]any{"scope": []string{scope}, "lifetime": "3600s", "delegates": delegates})
	if err != nil {
		return nil, err
	}
	raw, _, err := g.s.ask(ctx, g.s.public, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodPost, uri, bytes.NewReader(body)) //nolint:noctx // ask gives it one
		if err != nil {
			return nil, fmt.Errorf("service_account_impersonation_url is not valid: %w", err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+by.Value)
		return req, nil
	})
	if err != nil {
		return nil, fmt.Errorf("impersonate service account %s: %w", account, err)
	}
	var out struct {
		AccessToken string    `json:"accessToken"`
		ExpireTime  time.Time `json:"expireTime"`
	}
	if err := json.Unmarshal(raw, &out); err != nil || out.AccessToken == "" {
		return nil, fmt.Errorf("impersonate service account %s: the answer holds no token", account)
	}
	return &Token{Value: out.AccessToken, Expires: out.ExpireTime, From: "service account " + account + ", impersonated by " + by.From}, nil
}

// fromMetadata asks the metadata server of the machine or the cluster.
func (g *Google) fromMetadata(ctx context.Context) (*Token, error) {
	host := g.s.Env("GCE_METADATA_HOST")
	if host == "" {
		host = "169.254.169.254"
	}
	uri := "http://" + host + "/computeMetadata/v1/instance/service-accounts/default/token?scopes=" + url.QueryEscape(g.scope)
	body, header, err := g.s.ask(ctx, g.s.local, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodGet, uri, http.NoBody) //nolint:noctx // ask gives it one
		if err != nil {
			return nil, fmt.Errorf("GCE_METADATA_HOST is not valid: %w", err)
		}
		req.Header.Set("Metadata-Flavor", "Google")
		return req, nil
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		if absent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("get a token from the metadata server: %w", err)
	}
	if header.Get("Metadata-Flavor") != "Google" {
		return nil, nil // another cloud's
	}
	return g.s.token(body, "the service account of this machine or pod (metadata server)")
}
