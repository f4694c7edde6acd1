package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/rest"

	"github.com/kilnhook/kiln/infra/oidc"
)

// identity decides who is let in without a token of Kiln's own: accounts of an
// issuer, as Google's, and service accounts of the cluster. It is nil if there are
// none.
func (c config) identity(ctx context.Context) (func(context.Context, http.Header) error, error) {
	var accounts []oidc.Config
	if c.clouds.oidc.Audience != "" {
		accounts = append(accounts, c.clouds.oidc)
	}
	if c.cluster.oidc.Audience != "" {
		cluster, err := c.clusterIdentity(ctx)
		if err != nil {
			return nil, err
		}
		accounts = append(accounts, cluster)
	}
	var verifiers []*oidc.Verifier
	for _, account := range accounts {
		v, err := oidc.New(ctx, account)
		if err != nil {
			return nil, err
		}
		verifiers = append(verifiers, v)
	}
	if len(verifiers) == 0 {
		return nil, nil
	}
	return oidc.Any(verifiers...), nil
}

// askTime is how long the API server may take to give out its keys.
const askTime = 10 * time.Second

// clusterIdentity is whose tokens of the cluster count. The API server gives its keys
// to every service account, and so to this one.
func (c config) clusterIdentity(ctx context.Context) (oidc.Config, error) {
	access, err := c.access()
	if err != nil {
		return oidc.Config{}, fmt.Errorf("let in service accounts: %w", err)
	}
	access.Timeout = askTime
	client, err := rest.HTTPClientFor(access)
	if err != nil {
		return oidc.Config{}, fmt.Errorf("let in service accounts: %w", err)
	}
	host, _, err := rest.DefaultServerUrlFor(access)
	if err != nil {
		return oidc.Config{}, fmt.Errorf("let in service accounts: %w", err)
	}
	return oidc.Cluster(ctx, c.cluster.oidc, host.String(), client)
}
