// Package registry talks to image registries: it pulls base images, from
// mirrors if there are any, and pushes what was built, layer by layer and tags
// last.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kilnhook/kiln/executor/internal/transport"
)

// Options of a client. The zero value works: HTTPS, no mirrors, no
// credentials. Hosts are written as in image names, with a port if there is
// one: "registry.example.com:5000".
type Options struct {
	// Insecure and InsecurePull use plain HTTP where HTTPS is not served, for
	// pushing and for pulling. InsecureRegistries does both for some hosts.
	Insecure, InsecurePull bool
	InsecureRegistries     []string
	// SkipTLSVerify does not verify any server's certificate,
	// SkipTLSVerifyPull not when pulling, and SkipTLSVerifyRegistries not those
	// of some hosts.
	SkipTLSVerify, SkipTLSVerifyPull bool
	SkipTLSVerifyRegistries          []string
	// Certificates are PEM files with certificate authorities to trust for
	// one host each, beside the system's.
	Certificates map[string]string
	// ClientCerts are what to show to one host each.
	ClientCerts map[string]ClientCert
	// Maps lists, by host, the places to pull from before the host itself,
	// in order: "host" or "host/prefix", the prefix going before the
	// repository. "docker.io" is index.docker.io.
	Maps map[string][]string
	// Mirrors are further places for index.docker.io.
	Mirrors []string
	// SkipDefaultFallback fails when none of an image's other places has it.
	SkipDefaultFallback bool
	// PushRetry and DownloadRetry are how often a failed push or pull is
	// repeated, beside the short retries of each request.
	PushRetry, DownloadRetry int
	// RetryWait is the first wait before a retry, doubled for each further
	// one; 0: 1 s.
	RetryWait time.Duration
	// IgnoreImmutableTagErrors takes the refusal to move an immutable tag for
	// success.
	IgnoreImmutableTagErrors bool
	// Keychain finds credentials; nil: none.
	Keychain authn.Keychain
	// Local returns an image that need not be fetched, nil if there is none
	// with the digest of its manifest; nil: there never is.
	Local func(digest v1.Hash) v1.Image
	// Document returns a manifest or a config that is known by its digest, so that
	// it need not be fetched, nil if it is not; nil: none ever is. It may wait for
	// somebody to say, as long as ctx lives. A manifest that an image is named by is
	// not to be among them: whether the registry has it is for it to say.
	Document func(ctx context.Context, digest v1.Hash) []byte
	// UserAgent is sent to registries.
	UserAgent string
	// Proxy finds the proxy for a request; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// Log takes warnings; nil: none.
	Log *slog.Logger
}

// ClientCert is a certificate and its key, both PEM files.
type ClientCert struct{ Cert, Key string }

// Client pulls and pushes. It is safe for concurrent use.
type Client struct {
	opt    Options
	maps   map[string][]string
	puller *remote.Puller // for base images
	guess  *guesses

	// For destinations and caches:
	destPuller  *remote.Puller
	destRouter  *router
	destTripper *guesses
	destOptions []remote.Option
	reached     reached
	segments    room
	wholeOnly   sync.Map // hosts that give no parts

	work sync.WaitGroup // in the background
}

// New returns a client. It reads the certificates; a file that cannot be read,
// or a map that is no host, is an error.
func New(opt Options) (*Client, error) {
	if opt.RetryWait == 0 {
		opt.RetryWait = time.Second
	}
	if opt.Keychain == nil {
		opt.Keychain = anonymous{}
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Local == nil {
		opt.Local = func(v1.Hash) v1.Image { return nil }
	}
	maps, err := parseMaps(opt.Maps, opt.Mirrors)
	if err != nil {
		return nil, err
	}
	certs, err := loadCertificates(opt)
	if err != nil {
		return nil, err
	}
	c := &Client{opt: opt, maps: maps, reached: reached{by: map[string]*login{}}}
	c.destRouter = newRouter(opt, certs, false)
	c.destTripper = newGuesses(newPings(c.destRouter, c.plain(false)), nil)
	c.destOptions = c.remoteOptions(c.destTripper)
	c.guess = newGuesses(newPings(newRouter(opt, certs, true), c.plain(true)), opt.Document)
	pull, err := remote.NewPuller(c.remoteOptions(c.guess)...)
	if err != nil {
		return nil, fmt.Errorf("prepare pulling: %w", err)
	}
	c.puller = pull
	if c.destPuller, err = remote.NewPuller(c.destOptions...); err != nil {
		return nil, fmt.Errorf("prepare pulling: %w", err)
	}
	return c, nil
}

type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

// Close waits for what still runs in the background.
func (c *Client) Close() { c.work.Wait() }

// tries is how often a request is sent at most, beside the retries that are asked
// for.
const tries = 3

// remoteOptions are for requests that are each tried a few times.
func (c *Client) remoteOptions(rt http.RoundTripper) []remote.Option {
	return []remote.Option{
		remote.WithTransport(rt),
		remote.WithAuthFromKeychain(c.opt.Keychain),
		remote.WithUserAgent(c.opt.UserAgent),
		remote.WithRetryBackoff(remote.Backoff{Duration: c.opt.RetryWait, Factor: 3, Jitter: 0.1, Steps: tries}),
		remote.WithRetryPredicate(temporary),
	}
}

// Repository parses the name of a repository at a destination, and returns it
// with the options that go-containerregistry needs to read and write it. It
// exists for the layer cache.
func (c *Client) Repository(repo string) (name.Repository, []remote.Option, error) {
	r, err := name.NewRepository(repo, c.nameOptions(repo, false)...)
	if err != nil {
		return name.Repository{}, nil, fmt.Errorf("repository %q: %w", repo, err)
	}
	return r, slices.Clone(c.destOptions), nil
}

// Expect tells the client that a manifest of a destination's registry will be asked
// for at once, and that many requests at a time will go there: what of that can be
// done before it is known how to log in is done. done ends what nobody needed.
func (c *Client) Expect(ctx context.Context, repo, tag string, requests int) (done func()) {
	r, err := name.NewRepository(repo, c.nameOptions(repo, false)...)
	if err != nil {
		return func() {} // it is said when it is asked for
	}
	transport.Warm(ctx, c.destRouter.transport(r.RegistryStr()), blobURL(r, "", nil), requests)
	return c.destTripper.manifest(ctx, r.Tag(tag), c.opt.Keychain, c.opt.UserAgent)
}

// nameOptions are those to parse a name with: plain HTTP is a property of
// names.
func (c *Client) nameOptions(s string, pull bool) []name.Option {
	opts := []name.Option{name.WeakValidation}
	insecure := c.opt.Insecure
	if pull {
		insecure = c.opt.InsecurePull
	}
	if !insecure && len(c.opt.InsecureRegistries) > 0 {
		if host := hostOf(s); slices.ContainsFunc(c.opt.InsecureRegistries, func(h string) bool { return canonicalHost(h) == host }) {
			insecure = true
		}
	}
	if insecure {
		opts = append(opts, name.Insecure)
	}
	return opts
}

// plain tells for a host whether http may be spoken with it.
func (c *Client) plain(pull bool) func(host string) bool {
	return func(host string) bool {
		r, err := name.NewRegistry(host, c.nameOptions(host+"/x", pull)...)
		return err == nil && r.Scheme() == "http"
	}
}

// hostOf is the registry in the name of an image or a repository.
func hostOf(s string) string {
	first, _, ok := strings.Cut(s, "/")
	if !ok || first != "localhost" && !strings.ContainsAny(first, ".:") {
		return name.DefaultRegistry
	}
	return canonicalHost(first)
}

// canonicalHost gives Docker Hub its one name.
func canonicalHost(host string) string {
	if host == "docker.io" || host == "registry-1.docker.io" {
		return name.DefaultRegistry
	}
	return host
}

// parseMaps checks where images may come from instead.
func parseMaps(maps map[string][]string, mirrors []string) (map[string][]string, error) {
	out := map[string][]string{}
	add := func(host string, targets []string) error {
		host = canonicalHost(host)
		for _, target := range targets {
			if strings.Contains(target, "://") {
				return fmt.Errorf("registry map %s=%s: write a host, without a scheme; use --insecure-registry for plain HTTP", host, target)
			}
			if _, err := name.NewRepository(mapped(target, "x"), name.WeakValidation); err != nil {
				return fmt.Errorf("registry map %s=%s: %w", host, target, err)
			}
			out[host] = append(out[host], target)
		}
		return nil
	}
	for host, targets := range maps {
		if err := add(host, targets); err != nil {
			return nil, err
		}
	}
	if err := add(name.DefaultRegistry, mirrors); err != nil {
		return nil, err
	}
	return out, nil
}

// mapped is the repository at another place. A host without dot or port would
// be taken for a part of a repository: it gets its default port.
func mapped(target, repository string) string {
	host, prefix, _ := strings.Cut(strings.TrimSuffix(target, "/"), "/")
	if host != "localhost" && !strings.ContainsAny(host, ".:") {
		host += ":443"
	}
	if prefix != "" {
		repository = prefix + "/" + repository
	}
	return host + "/" + repository
}

// permanent is an error that does not pass, whatever it looks like.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// temporary says whether trying again may help.
func temporary(err error) bool {
	if errors.As(err, new(permanent)) {
		return false
	}
	var status *ggcr.Error
	if errors.As(err, &status) {
		for _, d := range status.Errors {
			// The registry forgot an upload: another may do better.
			if d.Code == ggcr.BlobUploadUnknownErrorCode {
				return true
			}
		}
		return status.Temporary() || status.StatusCode >= 500
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, transport.ErrLinkLocal) {
		return false
	}
	var network net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, transport.ErrStalled) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &network) && network.Timeout()
}

// again calls do until it succeeds, fails for good or was repeated often
// enough.
func (c *Client) again(ctx context.Context, times int, do func() error) error {
	for i := 0; ; i++ {
		err := do()
		if ctx.Err() != nil && err != nil {
			return context.Cause(ctx)
		}
		// A refused connection may be a registry that restarts: worth the retries
		// that were asked for, though not those of every single request.
		refused := errors.Is(err, syscall.ECONNREFUSED) && !errors.As(err, new(permanent))
		if err == nil || i >= times || !temporary(err) && !refused {
			return err
		}
		wait := c.opt.RetryWait << min(i, 6)
		c.opt.Log.Warn("registry request failed and is repeated", "wait", wait, "err", err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// thrice calls do until it succeeds or fails for good, a few times and soon.
func (c *Client) thrice(ctx context.Context, do func() error) error {
	wait := c.opt.RetryWait
	for try := 1; ; try++ {
		err := do()
		if err == nil || try == tries || !temporary(err) || pause(ctx, wait) != nil {
			return err
		}
		wait *= 3
	}
}

// pause waits, or returns why ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// explain adds to a refusal which credentials were used.
func (c *Client) explain(err error, target authn.Resource) error {
	var status *ggcr.Error
	if !errors.As(err, &status) || status.StatusCode != http.StatusUnauthorized && status.StatusCode != http.StatusForbidden {
		return err
	}
	if k, ok := c.opt.Keychain.(interface{ Explain(authn.Resource) string }); ok {
		return fmt.Errorf("%w (%s)", err, k.Explain(target))
	}
	return err
}

// Explain says in a few words which credentials are used for an image or a
// repository and why, without telling them.
func (c *Client) Explain(ctx context.Context, ref string) string {
	r, err := name.ParseReference(ref, c.nameOptions(ref, true)...)
	if err != nil {
		return "without credentials: it is no reference"
	}
	k, ok := c.opt.Keychain.(interface{ Explain(authn.Resource) string })
	if !ok {
		return "without credentials"
	}
	_, _ = resolve(ctx, c.opt.Keychain, r.Context())
	return k.Explain(r.Context())
}
