package cloud

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// subjectSource says where the token is by which another identity provider
// vouches for this process: the credential_source of an external_account.
type subjectSource struct {
	File    string            `json:"file"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Format  struct {
		Type  string `json:"type"`
		Field string `json:"subject_token_field_name"`
	} `json:"format"`
	EnvironmentID string `json:"environment_id"` // "aws1"
	VerifyURL     string `json:"regional_cred_verification_url"`
}

// externalAccount trades the token of another identity provider for one of
// Google's (RFC 8693), and that for one of a service account if one is to be
// impersonated.
func (g *Google) externalAccount(ctx context.Context, f *googleFile, scope string) (*Token, error) {
	subject, err := g.subjectToken(ctx, f)
	if err != nil {
		return nil, err
	}
	ask := scope
	if f.ImpersonationURL != "" {
		ask = allGoogle
	}
	form := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "audience": {f.Audience}, "scope": {ask},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token":        {subject}, "subject_token_type": {f.SubjectTokenType},
	}
	t, err := g.grant(ctx, f.TokenURL, form, "external account "+f.Audience)
	if err != nil || f.ImpersonationURL == "" {
		return t, err
	}
	return g.impersonate(ctx, f.ImpersonationURL, scope, nil, t)
}

func (g *Google) subjectToken(ctx context.Context, f *googleFile) (string, error) {
	src := f.CredentialSource
	var raw []byte
	var err error
	from := cmp.Or(src.File, "the URL of credential_source")
	switch {
	case strings.HasPrefix(src.EnvironmentID, "aws"):
		return g.awsSubject(ctx, f)
	case src.File != "":
		raw, err = os.ReadFile(src.File)
	case src.URL != "":
		raw, err = g.subjectFromURL(ctx, src)
	default:
		return "", errors.New("only a credential_source with a file, a url or an environment_id is supported for external_account")
	}
	if err != nil {
		return "", fmt.Errorf("read subject token: %w", err)
	}
	if src.Format.Type != "json" {
		return strings.TrimSpace(string(raw)), nil
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return "", fmt.Errorf("read subject token from %s: %w", from, err)
	}
	text, _ := fields[src.Format.Field].(string)
	if text == "" {
		return "", fmt.Errorf("read subject token from %s: it has no field %q", from, src.Format.Field)
	}
	return strings.TrimSpace(text), nil
}

// subjectFromURL asks the URL of a credentials file. One at a link-local
// address is a metadata service.
func (g *Google) subjectFromURL(ctx context.Context, src subjectSource) ([]byte, error) {
	client := g.s.public
	u, err := url.Parse(src.URL)
	if err != nil {
		return nil, errors.New("the url of credential_source is not valid")
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.IsLinkLocalUnicast() {
		client = g.s.local
	}
	body, _, err := g.s.ask(ctx, client, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodGet, src.URL, http.NoBody) //nolint:noctx // ask gives it one
		if err != nil {
			return nil, errors.New("the url of credential_source is not valid")
		}
		for name, value := range src.Headers {
			req.Header.Set(name, value)
		}
		return req, nil
	})
	return body, err
}

// awsSubject is a request to AWS, signed but not sent, by which Google finds
// out who we are there.
func (g *Google) awsSubject(ctx context.Context, f *googleFile) (string, error) {
	if f.CredentialSource.EnvironmentID != "aws1" {
		return "", fmt.Errorf("environment_id %q of credential_source is not supported: only aws1 is", f.CredentialSource.EnvironmentID)
	}
	a := &AWS{s: g.s}
	key, err := a.Key(ctx)
	if err != nil {
		return "", err
	}
	region, err := a.Region()
	if err != nil {
		return "", err
	}
	if key == nil || region == "" {
		return "", errors.New("the external_account needs credentials of AWS and AWS_REGION: there are none")
	}
	uri := cmp.Or(f.CredentialSource.VerifyURL, "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15")
	uri = strings.ReplaceAll(uri, "{region}", region)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, http.NoBody)
	if err != nil {
		return "", errors.New("regional_cred_verification_url is not valid")
	}
	req.Header.Set("X-Goog-Cloud-Target-Resource", f.Audience)
	SignAWS(req, *key, "sts", region, g.s.Now())
	type header struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	headers := []header{{"host", req.URL.Host}}
	for name := range req.Header {
		headers = append(headers, header{strings.ToLower(name), req.Header.Get(name)})
	}
	raw, err := json.Marshal(map[string]any{"url": uri, "method": req.Method, "headers": headers, "body": ""})
	return url.QueryEscape(string(raw)), err
}
