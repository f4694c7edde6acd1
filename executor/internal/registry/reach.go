package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// reached are the clients of repositories that were logged in to: one for each
// set of things that is wanted, so that a token is asked for once.
type reached struct {
	mu sync.Mutex
	by map[string]*login
}

// login is a client of a repository. Who asks for it while it is made waits.
type login struct {
	mu     sync.Mutex
	client *http.Client // nil: not logged in yet
}

// reach returns a client that may push to a repository and pull from it, and
// mount from another one of the same registry if that is not "".
func (c *Client) reach(ctx context.Context, repo name.Repository, from string) (*http.Client, error) {
	scopes := []string{repo.Scope(ggcr.PushScope)}
	if from != "" {
		scopes = append(scopes, repo.Registry.Repo(from).Scope(ggcr.PullScope))
	}
	return c.logIn(ctx, c.destTripper, repo, scopes)
}

// reachBase returns a client that may pull base images from a repository.
func (c *Client) reachBase(ctx context.Context, repo name.Repository) (*http.Client, error) {
	return c.logIn(ctx, c.guess, repo, []string{repo.Scope(ggcr.PullScope)})
}

func (c *Client) logIn(ctx context.Context, inner http.RoundTripper, repo name.Repository, scopes []string) (*http.Client, error) {
	c.reached.mu.Lock()
	key := fmt.Sprint(repo.Name(), scopes, inner == http.RoundTripper(c.destTripper))
	l := c.reached.by[key]
	if l == nil {
		l = &login{}
		c.reached.by[key] = l
	}
	c.reached.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil {
		return l.client, nil
	}
	auth, err := resolve(ctx, c.opt.Keychain, repo)
	if err != nil {
		return nil, err
	}
	rt, err := ggcr.NewWithContext(ctx, repo.Registry, auth, ggcr.NewUserAgent(inner, c.opt.UserAgent), scopes)
	if err != nil {
		return nil, err
	}
	l.client = &http.Client{Transport: rt, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		return inward(via[0].URL, req.URL)
	}}
	return l.client, nil
}

func resolve(ctx context.Context, k authn.Keychain, target authn.Resource) (authn.Authenticator, error) {
	auth, err := authn.Resolve(ctx, k, target)
	if err != nil {
		return nil, fmt.Errorf("find credentials for %s: %w", target, err)
	}
	return auth, nil
}

// errInward is the error of a registry that sends us to another machine's
// private address.
var errInward = errors.New("the registry refers to a private address of another host")

// inward refuses to be sent from one host to a private address of another.
func inward(from, to *url.URL) error {
	if from.Hostname() == to.Hostname() {
		return nil
	}
	ip, err := netip.ParseAddr(to.Hostname())
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	if ip = ip.Unmap(); ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() {
		return fmt.Errorf("%w: %s", errInward, to.Host)
	}
	return nil
}

// locationOf is where an answer says that an upload goes on.
func locationOf(resp *http.Response) (*url.URL, error) {
	at, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("the registry does not say where the upload goes on: %w", err)
	}
	return at, inward(resp.Request.URL, at)
}

// blobURL is where a repository has a blob, or begins to.
func blobURL(repo name.Repository, rest string, query url.Values) *url.URL {
	return &url.URL{Scheme: repo.Scheme(), Host: repo.RegistryStr(), Path: "/v2/" + repo.RepositoryStr() + "/" + rest, RawQuery: query.Encode()}
}

// uploadsURL is where uploads to a repository begin.
func uploadsURL(repo name.Repository, query url.Values) *url.URL {
	return blobURL(repo, "blobs/uploads/", query)
}

// told is an error of a request as it is told: what a registry remembers an upload
// by is left out of its address.
func told(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		if at, perr := url.Parse(failed.URL); perr == nil {
			at.RawQuery = ""
			failed.URL = at.String()
		}
	}
	return err
}
