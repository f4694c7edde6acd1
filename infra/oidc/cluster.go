package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/kilnhook/kiln/events/source"
)

// maxDiscovery is how much of an API server's answer is read, in bytes.
const maxDiscovery = 64 << 10

// Cluster asks the API server of Kubernetes at host who issues the tokens of its
// service accounts, and fills in Issuer and Keys of a Config. client must be let in
// there, as every service account is; it fetches the keys later. The issuer may be
// known outside of the cluster by another address: keys are those of the API server.
func Cluster(ctx context.Context, cfg Config, host string, client *http.Client) (Config, error) {
	host = strings.TrimSuffix(host, "/")
	issuer, err := issuerOf(ctx, host+"/.well-known/openid-configuration", client)
	if err != nil {
		return Config{}, fmt.Errorf("ask the API server for the issuer of its tokens: %w", err)
	}
	cfg.Issuer, cfg.Keys, cfg.Client = issuer, host+"/openid/v1/jwks", client
	return cfg, nil
}

func issuerOf(ctx context.Context, url string, client *http.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, keysTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDiscovery))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s; its service account needs the role system:service-account-issuer-discovery", url, resp.Status)
	}
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(body, &discovery); err != nil {
		return "", fmt.Errorf("%s: %w", url, err)
	}
	if discovery.Issuer == "" {
		return "", fmt.Errorf("%s names no issuer", url)
	}
	return discovery.Issuer, nil
}

// Any returns what admits those whom one of the verifiers admits. If none does, the
// error is that of one that could not tell, if there is one.
func Any(verifiers ...*Verifier) func(context.Context, http.Header) error {
	return func(ctx context.Context, h http.Header) error {
		refused := error(source.ErrUnauthorised)
		var unknown error
		for _, v := range verifiers {
			err := v.Verify(ctx, h)
			switch {
			case err == nil:
				return nil
			case errors.Is(err, source.ErrUnauthorised):
				refused = err
			default:
				unknown = err
			}
		}
		if unknown != nil {
			return unknown
		}
		return refused
	}
}
