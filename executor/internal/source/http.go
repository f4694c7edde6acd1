package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/executor/internal/transport"
)

// fetchHTTPS fetches an archive over HTTPS. A URL whose path ends in ".git" is
// a Git repository.
func fetchHTTPS(ctx context.Context, rest string, opt *Options) (*Context, error) {
	u, err := parseHTTP("https", rest)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(u.Path, ".git") {
		return fetchGit(ctx, rest, opt)
	}
	// With a signature in the URL no key is needed: it is a plain download.
	if authority := azureAuthority(u); authority != "" && u.Query().Get("sig") == "" {
		return fetchAzure(ctx, u, authority, opt)
	}
	return download(ctx, u, opt)
}

// fetchHTTP fetches an archive without encryption, which is for this machine
// only.
func fetchHTTP(ctx context.Context, rest string, opt *Options) (*Context, error) {
	u, err := parseHTTP("http", rest)
	if err != nil {
		return nil, err
	}
	if !isLoopback(u.Hostname()) {
		return nil, errors.New("http:// is for this machine (localhost) only: use https://")
	}
	return download(ctx, u, opt)
}

func parseHTTP(scheme, rest string) (*url.URL, error) {
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) { // it quotes the URL, which may hold secrets
			err = bad.Err
		}
		return nil, fmt.Errorf("not a valid URL: %w", err)
	}
	if u.Hostname() == "" {
		return nil, errors.New("not a valid URL: no host is named")
	}
	u.Fragment = ""
	return u, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// newClient makes the HTTP client for contexts.
func newClient(opt *Options, skipVerify bool) *http.Client {
	rt := transport.New(transport.Options{
		Proxy:     opt.Proxy,
		UserAgent: opt.UserAgent,
		TLS:       &tls.Config{RootCAs: opt.RootCAs, InsecureSkipVerify: skipVerify, MinVersion: tls.VersionTLS12}, //nolint:gosec // asked for by --git insecure-skip-tls
	})
	return &http.Client{Transport: rt, CheckRedirect: checkRedirect}
}

// checkRedirect refuses redirects that give up encryption.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if req.URL.Scheme == "http" && (via[0].URL.Scheme == "https" || !isLoopback(req.URL.Hostname()) && isLoopback(via[0].URL.Hostname())) {
		return errors.New("refused to follow a redirect to plain http")
	}
	return nil
}

// download fetches and unpacks an archive.
func download(ctx context.Context, u *url.URL, opt *Options) (*Context, error) {
	return (&downloader{client: newClient(opt, false), url: u, opt: opt}).fetch(ctx)
}

// store is a service that keeps archives as objects: how to ask it for one.
type store interface {
	// sign adds the credentials to a request.
	sign(ctx context.Context, req *http.Request) error
	// pin learns from the first answer which version of the object it is and
	// makes u the URL of that one. The header is what makes a request for the
	// rest of it fail if it has changed; nil if nothing can.
	pin(resp *http.Response, u *url.URL) (version string, same http.Header)
	// elsewhere makes u the URL of the place that an answer directs to.
	elsewhere(resp *http.Response, u *url.URL) bool
	// explain says what to check after an answer that is not a success.
	explain(status int) string
}

// fromStore downloads an object. Redirects are not followed: the signature is
// for one host.
func fromStore(ctx context.Context, u *url.URL, s store, opt *Options) (*Context, error) {
	if opt.Now == nil {
		return nil, errors.New("there is no clock to sign requests by")
	}
	client := newClient(opt, false)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return (&downloader{client: client, url: u, opt: opt, store: s}).fetch(ctx)
}

// downloader gets one URL, again if need be.
type downloader struct {
	client *http.Client
	url    *url.URL
	opt    *Options
	store  store // nil: a plain URL
	tries  int   // so far, of all kinds
	moves  int
}

func (d *downloader) fetch(ctx context.Context) (*Context, error) {
	resp, err := d.start(ctx) //nolint:bodyclose // the reader closes it
	if err != nil {
		return nil, err
	}
	r := &resumingReader{ctx: ctx, d: d, body: resp.Body}
	version := ""
	if d.store != nil {
		version, r.same = d.store.pin(resp, d.url)
	} else if v := validator(resp); v != "" {
		r.same = http.Header{"If-Range": {v}}
	}
	a := archive{r: r}
	if resp.ContentLength > 0 {
		a.total = resp.ContentLength
	}
	c, err := unpackNew(ctx, a, d.opt)
	if err == nil {
		c.Revision.Version = version
	}
	return c, err
}

// start gets the URL from its beginning.
func (d *downloader) start(ctx context.Context) (*http.Response, error) {
	for {
		resp, err := d.get(ctx, http.Header{})
		if err == nil && resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		retry, wait := err != nil && retryable(err), time.Duration(0)
		if err == nil {
			if d.store != nil && d.moves < 2 && d.store.elsewhere(resp, d.url) {
				d.moves++
				_ = resp.Body.Close()
				continue
			}
			retry, wait = temporary(resp.StatusCode), retryAfter(resp)
			err = d.statusError(resp)
		}
		if !retry || !d.again(ctx, wait) {
			return nil, err
		}
	}
}

// temporary says whether another try may have another answer.
func temporary(status int) bool {
	return status >= 500 && status != http.StatusNotImplemented || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
}

// longestWait is how long a server may tell us to wait.
const longestWait = time.Minute

// retryAfter is how long the server asks to wait, if it says so in seconds.
func retryAfter(resp *http.Response) time.Duration {
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, longestWait)
}

// again waits before another try, for atLeast, or says that there is none.
func (d *downloader) again(ctx context.Context, atLeast time.Duration) bool {
	if d.tries >= d.opt.Retries {
		return false
	}
	wait := max(d.opt.RetryWait<<min(d.tries, 5), atLeast)
	d.tries++
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

func (d *downloader) get(ctx context.Context, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url.String(), nil)
	if err != nil {
		return nil, errors.New("not a valid URL")
	}
	req.Header = header
	if d.store != nil {
		if err := d.store.sign(ctx, req); err != nil {
			return nil, err
		}
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, withoutURL(ctx, err)
	}
	return resp, nil
}

// withoutURL takes the URL, which may hold secrets, out of an error of
// net/http.
func withoutURL(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var bad *url.Error
	if errors.As(err, &bad) {
		return fmt.Errorf("download: %w", bad.Err)
	}
	return err
}

// retryable says whether the network is to blame for err.
func retryable(err error) bool {
	var network net.Error
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) || errors.Is(err, transport.ErrLinkLocal) || errors.Is(err, transport.ErrNotAllowed) || errors.Is(err, context.Canceled) {
		return false
	}
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, transport.ErrStalled)
}

// statusError turns an answer other than 200 into an error and closes it.
func (d *downloader) statusError(resp *http.Response) error {
	text, advice := "", "check the credentials or the signature in the URL"
	if d.store != nil {
		text = storeReason(resp)
		advice = d.store.explain(resp.StatusCode)
	}
	_ = resp.Body.Close()
	answer := fmt.Sprintf("the server answered %s%s", resp.Status, text)
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		if d.store != nil {
			return fmt.Errorf("%w: %s: %s", ErrNotFound, answer, advice)
		}
		return fmt.Errorf("%w: %s", ErrNotFound, answer)
	case http.StatusPreconditionFailed:
		return fmt.Errorf("%s: the object was replaced while it was downloaded", answer)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%s: %s", answer, advice)
	}
	if d.store != nil && !temporary(resp.StatusCode) {
		return fmt.Errorf("%s: %s", answer, advice)
	}
	return errors.New(answer)
}

// validator identifies the bytes that a server serves, so that the rest of
// the very same can be asked for; "" if the server does not say.
func validator(resp *http.Response) string {
	if resp.Header.Get("Accept-Ranges") == "none" {
		return ""
	}
	if etag := resp.Header.Get("ETag"); etag != "" && !strings.HasPrefix(etag, "W/") {
		return etag
	}
	return resp.Header.Get("Last-Modified")
}

// resumingReader reads a body and asks for the rest of it if the connection
// is lost.
type resumingReader struct {
	ctx  context.Context //nolint:containedctx // lives as long as one download
	d    *downloader
	body io.ReadCloser
	same http.Header // makes a request for the rest fail if it is another's; nil: cannot be resumed
	done int64
}

func (r *resumingReader) Read(p []byte) (int, error) {
	for {
		n, err := r.body.Read(p)
		r.done += int64(n)
		if err == nil || errors.Is(err, io.EOF) || n > 0 && retryable(err) {
			if n > 0 && !errors.Is(err, io.EOF) {
				err = nil // a lost connection shows again at the next call
			}
			return n, err
		}
		if resumeErr := r.resume(err); resumeErr != nil {
			return n, resumeErr
		}
	}
}

// resume asks for the rest of the body after err.
func (r *resumingReader) resume(err error) error {
	if r.same == nil || !retryable(err) {
		return fmt.Errorf("connection lost after %d bytes: %w", r.done, err)
	}
	for wait := time.Duration(0); r.d.again(r.ctx, wait); {
		header := r.same.Clone()
		header.Set("Range", fmt.Sprintf("bytes=%d-", r.done))
		resp, getErr := r.d.get(r.ctx, header)
		if getErr != nil {
			err = getErr
			continue
		}
		if resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", r.done)) {
			_ = r.body.Close()
			r.body = resp.Body
			return nil
		}
		wait = retryAfter(resp)
		err = r.d.statusError(resp)
		if !temporary(resp.StatusCode) {
			break
		}
	}
	return fmt.Errorf("connection lost after %d bytes and not resumed: %w", r.done, err)
}

func (r *resumingReader) Close() error { return r.body.Close() }
