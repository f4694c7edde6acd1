// Package cloud finds the credentials that a user or a machine has with a
// cloud, in the places where the cloud's own tools look for them, and signs
// requests with them. It speaks the few calls of the token services that this
// takes by itself: the vendors' libraries would be most of the executor.
package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/kilnhook/kiln/executor/internal/transport"
)

// Options of a look-up. Now is required.
type Options struct {
	// Env returns an environment variable or "". nil is an empty environment.
	Env func(name string) string
	// Transport reaches token services on the internet; nil: a new one.
	Transport http.RoundTripper
	// Now is the clock that signs and judges what has expired.
	Now func() time.Time
	// Wait is the wait before a token service is asked again; 0: 500 ms.
	Wait time.Duration
}

// service asks token services and metadata services.
type service struct {
	Options
	public *http.Client
	local  *http.Client // metadata services, and nothing else
}

func newService(opt Options) *service {
	if opt.Env == nil {
		opt.Env = func(string) string { return "" }
	}
	if opt.Wait == 0 {
		opt.Wait = 500 * time.Millisecond
	}
	if opt.Transport == nil {
		opt.Transport = transport.New(transport.Options{Header: 30 * time.Second})
	}
	local := transport.New(transport.Options{Only: metadataAddresses(), Dial: 2 * time.Second, Header: 10 * time.Second})
	return &service{
		Options: opt,
		public:  &http.Client{Transport: opt.Transport, CheckRedirect: noRedirect},
		local:   &http.Client{Transport: local, CheckRedirect: noRedirect},
	}
}

// noRedirect refuses redirects: what is sent is secret.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// metadataAddresses are where clouds hand out credentials: the instance
// metadata services of all three, GKE's and those of ECS and EKS.
func metadataAddresses() []netip.Addr {
	var out []netip.Addr
	for _, a := range []string{"169.254.169.254", "169.254.169.252", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"} {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 1 << 20

// answerError is an answer of a token service that is not a success.
type answerError struct {
	host   string
	status int
	text   string
}

func (e *answerError) Error() string {
	return fmt.Sprintf("%s answered %d %s%s", e.host, e.status, http.StatusText(e.status), e.text)
}

// tries is how often a service is asked that cannot answer now.
const tries = 3

// ask sends a request made by build and returns the body of the answer. A
// service that is out of order is asked again.
func (s *service) ask(ctx context.Context, client *http.Client, build func() (*http.Request, error)) ([]byte, http.Header, error) {
	for try := 1; ; try++ {
		body, header, err := s.askOnce(ctx, client, build)
		var answer *answerError
		again := errors.As(err, &answer) && (answer.status >= 500 || answer.status == http.StatusTooManyRequests)
		if err == nil || !again || try == tries {
			return body, header, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-time.After(s.Wait << (try - 1)):
		}
	}
}

func (s *service) askOnce(ctx context.Context, client *http.Client, build func() (*http.Request, error)) ([]byte, http.Header, error) {
	req, err := build()
	if err != nil {
		return nil, nil, err
	}
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) { // it quotes the URL, which may hold a token
			err = fmt.Errorf("ask %s: %w", req.URL.Host, bad.Err)
		}
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, nil, fmt.Errorf("read the answer of %s: %w", req.URL.Host, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, &answerError{host: req.URL.Host, status: resp.StatusCode, text: reason(body)}
	}
	return body, resp.Header, nil
}

// reason is what an OAuth or a JSON API error says.
func reason(body []byte) string {
	var oauth struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	if json.Unmarshal(body, &oauth) != nil {
		return ""
	}
	var code string
	var nested struct {
		Message string `json:"message"`
	}
	switch {
	case oauth.Description != "":
		return ": " + oauth.Description
	case json.Unmarshal(oauth.Error, &code) == nil && code != "":
		return ": " + code
	case json.Unmarshal(oauth.Error, &nested) == nil && nested.Message != "":
		return ": " + nested.Message
	}
	return ""
}

// absent says that err means that there is no such service here, as opposed to
// one that refuses.
func absent(err error) bool {
	var network net.Error
	var answer *answerError
	if errors.As(err, &answer) {
		return answer.status == http.StatusNotFound || answer.status == http.StatusBadRequest || answer.status == http.StatusUnauthorized || answer.status == http.StatusForbidden || answer.status == http.StatusMethodNotAllowed
	}
	return errors.As(err, &network) || errors.Is(err, transport.ErrNotAllowed)
}

// Token is an OAuth access token.
type Token struct {
	Value   string
	Expires time.Time // zero: never
	// From says where it comes from, for people.
	From string
}

// fresh tells whether the token can be used for a while.
func (t *Token) fresh(now time.Time) bool {
	return t != nil && (t.Expires.IsZero() || t.Expires.Sub(now) > time.Minute)
}

// oauthAnswer is the JSON that token services return.
type oauthAnswer struct {
	AccessToken string      `json:"access_token"`
	ExpiresIn   json.Number `json:"expires_in"`
	// ExpiresOn is in seconds since 1970; some of Azure's services have it only.
	ExpiresOn json.Number `json:"expires_on"`
}

func (s *service) token(body []byte, from string) (*Token, error) {
	var a oauthAnswer
	if err := json.Unmarshal(body, &a); err != nil || a.AccessToken == "" {
		return nil, fmt.Errorf("%s: the answer holds no access token", from)
	}
	t := &Token{Value: a.AccessToken, From: from}
	if n, err := a.ExpiresIn.Int64(); err == nil && n > 0 {
		t.Expires = s.Now().Add(time.Duration(n) * time.Second)
	} else if n, err := a.ExpiresOn.Int64(); err == nil && n > 0 {
		t.Expires = time.Unix(n, 0)
	}
	return t, nil
}
