package cloud

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Azure finds tokens for Azure in the environment, by workload identity and by
// managed identity. It is safe for concurrent use.
type Azure struct {
	s         *service
	resource  string
	authority string

	mu    sync.Mutex
	token *Token
}

// NewAzure returns a source of tokens for a resource, such as
// "https://storage.azure.com". authority is where the cloud's users log in,
// unless AZURE_AUTHORITY_HOST names another place.
func NewAzure(resource, authority string, opt Options) *Azure {
	s := newService(opt)
	return &Azure{s: s, resource: resource, authority: strings.TrimSuffix(cmp.Or(s.Env("AZURE_AUTHORITY_HOST"), authority), "/")}
}

// Token returns a token that is good for a minute at least, or nil if no
// credentials are to be found: a client secret or a workload identity of the
// environment, then the managed identity of the app or the machine.
// Credentials that are there and do not work are an error.
func (a *Azure) Token(ctx context.Context) (*Token, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.token.fresh(a.s.Now()) {
		return a.token, nil
	}
	t, err := a.find(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil {
		a.token = t
	}
	return t, err
}

func (a *Azure) find(ctx context.Context) (*Token, error) {
	client, tenant := a.s.Env("AZURE_CLIENT_ID"), a.s.Env("AZURE_TENANT_ID")
	if secret := a.s.Env("AZURE_CLIENT_SECRET"); secret != "" && client != "" && tenant != "" {
		return a.logIn(ctx, tenant, url.Values{"client_id": {client}, "client_secret": {secret}}, "client secret of application "+client)
	}
	if file := a.s.Env("AZURE_FEDERATED_TOKEN_FILE"); file != "" && client != "" && tenant != "" {
		assertion, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read AZURE_FEDERATED_TOKEN_FILE: %w", err)
		}
		return a.logIn(ctx, tenant, url.Values{
			"client_id": {client}, "client_assertion": {strings.TrimSpace(string(assertion))},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		}, "workload identity of application "+client)
	}
	return a.managedIdentity(ctx, client)
}

func (a *Azure) logIn(ctx context.Context, tenant string, form url.Values, from string) (*Token, error) {
	form.Set("grant_type", "client_credentials")
	form.Set("scope", a.resource+"/.default")
	body, _, err := a.s.ask(ctx, a.s.public, postForm(a.authority+"/"+url.PathEscape(tenant)+"/oauth2/v2.0/token", form))
	if err != nil {
		return nil, fmt.Errorf("get a token with the %s: %w", from, err)
	}
	return a.s.token(body, from)
}

// managedIdentity asks the identity service of the app, if there is one, or
// that of the machine.
func (a *Azure) managedIdentity(ctx context.Context, client string) (*Token, error) {
	uri, version := "http://169.254.169.254/metadata/identity/oauth2/token", "2018-02-01"
	if host := a.s.Env("AZURE_POD_IDENTITY_AUTHORITY_HOST"); host != "" {
		uri = strings.TrimSuffix(host, "/") + "/metadata/identity/oauth2/token"
	}
	header := http.Header{"Metadata": {"true"}}
	app := a.s.Env("IDENTITY_ENDPOINT") != "" && a.s.Env("IDENTITY_HEADER") != ""
	if app {
		uri, version = a.s.Env("IDENTITY_ENDPOINT"), "2019-08-01"
		header.Set("X-Identity-Header", a.s.Env("IDENTITY_HEADER"))
	}
	query := url.Values{"api-version": {version}, "resource": {a.resource}}
	if client != "" {
		query.Set("client_id", client)
	}
	body, _, err := a.s.ask(ctx, a.s.local, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodGet, uri+"?"+query.Encode(), http.NoBody) //nolint:noctx // ask gives it one
		if err != nil {
			return nil, fmt.Errorf("the identity service's URL is not valid: %w", err)
		}
		req.Header = header.Clone()
		return req, nil
	})
	if err != nil {
		if !app && absent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("get a token of the managed identity: %w", err)
	}
	from := "the managed identity of this machine"
	if client != "" {
		from = "managed identity " + client
	}
	return a.s.token(body, from)
}

// SignAzure signs a request for blob storage that has no body with the key of
// the account, in base64 (scheme "Shared Key").
func SignAzure(req *http.Request, account, key string, now time.Time) error {
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key))
	if err != nil {
		return fmt.Errorf("the storage access key is not base64: %w", err)
	}
	req.Header.Set("X-Ms-Date", now.UTC().Format(http.TimeFormat))
	h := req.Header
	lines := []string{
		req.Method, h.Get("Content-Encoding"), h.Get("Content-Language"), "", h.Get("Content-Md5"), h.Get("Content-Type"), "",
		h.Get("If-Modified-Since"), h.Get("If-Match"), h.Get("If-None-Match"), h.Get("If-Unmodified-Since"), h.Get("Range"),
	}
	var ms []string
	for name, v := range h {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-ms-") {
			ms = append(ms, lower+":"+strings.Join(v, ","))
		}
	}
	slices.Sort(ms)
	lines = append(lines, ms...)
	lines = append(lines, "/"+account+req.URL.EscapedPath()+canonicalParameters(req.URL.Query()))
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(strings.Join(lines, "\n")))
	h.Set("Authorization", "SharedKey "+account+":"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
	return nil
}

func canonicalParameters(q url.Values) string {
	lower := map[string][]string{}
	for name, v := range q {
		lower[strings.ToLower(name)] = append(lower[strings.ToLower(name)], v...)
	}
	var lines []string
	for name, v := range lower {
		slices.Sort(v)
		lines = append(lines, "\n"+name+":"+strings.Join(v, ","))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
