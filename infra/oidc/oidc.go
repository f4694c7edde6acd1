// Package oidc decides by OpenID Connect tokens who may post: those that Google
// puts on what a push subscription, Eventarc or Cloud Scheduler sends, those of the
// service accounts of a Kubernetes cluster, or those of another issuer.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/kilnhook/kiln/events/source"
)

// Google issues the tokens of service accounts.
const (
	GoogleIssuer = "https://accounts.google.com"
	GoogleKeys   = "https://www.googleapis.com/oauth2/v3/certs"
)

// keysTime is how long the issuer may take to give out its keys.
const keysTime = 10 * time.Second

// Config says whose tokens count. Audience, Now and one of Emails and Subjects are
// required.
type Config struct {
	Audience string   // what the token must be for, as the sender is configured
	Emails   []string // of the accounts that may post; each verified by the issuer
	Subjects []string // of those that may post and have no e-mail: service accounts of a cluster
	Issuer   string   // empty is Google
	Keys     string   // URL of the issuer's key set; empty is Google's
	Now      func() time.Time
	Client   *http.Client // fetches the keys; nil is one with a time limit
}

// Verifier checks tokens. The issuer's keys are fetched when they are first
// needed, kept, and fetched again when a token names one that is not known. It
// is safe for concurrent use.
type Verifier struct {
	verifier         *oidc.IDTokenVerifier
	emails, subjects []string
}

// New returns a Verifier. ctx must live as long as it is used.
func New(ctx context.Context, cfg Config) (*Verifier, error) {
	if cfg.Audience == "" || len(cfg.Emails)+len(cfg.Subjects) == 0 || cfg.Now == nil {
		return nil, errors.New("to check OIDC tokens takes an audience, the e-mail or the subject of an account, and a clock")
	}
	if cfg.Issuer == "" {
		cfg.Issuer = GoogleIssuer
	}
	if cfg.Keys == "" {
		cfg.Keys = GoogleKeys
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: keysTime}
	}
	client := *cfg.Client
	client.Transport = keysTransport{client.Transport}
	keys := keySet{oidc.NewRemoteKeySet(oidc.ClientContext(ctx, &client), cfg.Keys)}
	return &Verifier{
		verifier: oidc.NewVerifier(cfg.Issuer, keys, &oidc.Config{ClientID: cfg.Audience, Now: cfg.Now}),
		emails:   cfg.Emails,
		subjects: cfg.Subjects,
	}, nil
}

// Verify reports source.ErrUnauthorised unless the header Authorization carries
// a token that is whole, in time, for the audience and of one of the accounts.
// Another error says that this cannot be known now, as the issuer's keys are not
// to be had.
func (v *Verifier) Verify(ctx context.Context, h http.Header) error {
	scheme, raw, _ := strings.Cut(h.Get("Authorization"), " ")
	raw = strings.TrimSpace(raw)
	if !strings.EqualFold(scheme, "Bearer") || strings.Count(raw, ".") != 2 {
		return source.ErrUnauthorised
	}
	var failed error
	token, err := v.verifier.Verify(context.WithValue(ctx, failureKey{}, &failed), raw)
	switch {
	case failed != nil:
		return failed
	case err != nil:
		return fmt.Errorf("%w: %w", source.ErrUnauthorised, err)
	}
	if slices.Contains(v.subjects, token.Subject) {
		return nil
	}
	var claims struct {
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
	}
	if err := token.Claims(&claims); err != nil {
		return fmt.Errorf("%w: %w", source.ErrUnauthorised, err)
	}
	if !claims.Verified || !slices.Contains(v.emails, claims.Email) {
		return fmt.Errorf("%w: the token is of another account", source.ErrUnauthorised)
	}
	return nil
}

// keysError says that the issuer's keys could not be fetched.
type keysError struct{ err error }

func (e *keysError) Error() string {
	return "fetch the keys of the issuer of a token: " + e.err.Error()
}

func (e *keysError) Unwrap() error { return e.err }

// keysTransport makes of every failure to fetch keys a *keysError.
type keysTransport struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t keysTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	base := t.base
	if base == nil {
		base = http.DefaultTransport
	}
	resp, err := base.RoundTrip(r)
	switch {
	case err != nil:
		return nil, &keysError{err}
	case resp.StatusCode != http.StatusOK:
		resp.Body.Close()
		return nil, &keysError{errors.New(resp.Status)}
	}
	return resp, nil
}

// failureKey is the context key of an *error that says why no signature could
// be checked: the library gives its text on and not itself.
type failureKey struct{}

// keySet tells that keys cannot be fetched from a wrong signature.
type keySet struct{ oidc.KeySet }

// VerifySignature implements oidc.KeySet.
func (k keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.KeySet.VerifySignature(ctx, jwt)
	var failed *keysError
	if p, ok := ctx.Value(failureKey{}).(*error); ok && errors.As(err, &failed) {
		*p = failed
	}
	return payload, err
}
