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
	"strings"
	"time"

	"github.com/kilnhook/kiln/executor/internal/transport"
)

// azureHosts are the domains of Azure's blob storage, by cloud.
func azureHosts() []string {
	return []string{
		".blob.core.windows.net", ".blob.core.chinacloudapi.cn", ".blob.core.cloudapi.de", ".blob.core.usgovcloudapi.net",
	}
}

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
	for _, suffix := range azureHosts() {
		// With a signature in the URL no key is needed: it is a plain download.
		if strings.HasSuffix(strings.ToLower(u.Hostname()), suffix) && u.Query().Get("sig") == "" {
			return nil, &UnsupportedError{Scheme: "Azure blob https://", Use: "a URL with a shared access signature"}
		}
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
	d := &downloader{client: newClient(opt, false), url: u, opt: opt}
	resp, err := d.start(ctx) //nolint:bodyclose // the archive's reader closes it
	if err != nil {
		return nil, err
	}
	a := archive{r: &resumingReader{ctx: ctx, d: d, body: resp.Body, validator: validator(resp)}}
	if resp.ContentLength > 0 {
		a.total = resp.ContentLength
	}
	return unpackNew(ctx, a, opt)
}

// downloader gets one URL, again if need be.
type downloader struct {
	client *http.Client
	url    *url.URL
	opt    *Options
	tries  int // so far, of all kinds
}

// start gets the URL from its beginning.
func (d *downloader) start(ctx context.Context) (*http.Response, error) {
	for {
		resp, err := d.get(ctx, http.Header{})
		if err == nil && resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		retry := err != nil && retryable(err)
		if err == nil {
			retry = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout
			err = statusError(resp)
		}
		if !retry || !d.again(ctx) {
			return nil, err
		}
	}
}

// again waits before another try, or says that there is none.
func (d *downloader) again(ctx context.Context) bool {
	if d.tries >= d.opt.Retries {
		return false
	}
	wait := d.opt.RetryWait << min(d.tries, 5)
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
	if errors.As(err, &certificate) || errors.Is(err, transport.ErrLinkLocal) || errors.Is(err, context.Canceled) {
		return false
	}
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, transport.ErrStalled)
}

// statusError turns an answer other than 200 into an error and closes it.
func statusError(resp *http.Response) error {
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%w: the server answered %s", ErrNotFound, resp.Status)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the server answered %s: check the credentials or the signature in the URL", resp.Status)
	}
	return fmt.Errorf("the server answered %s", resp.Status)
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
	ctx       context.Context //nolint:containedctx // lives as long as one download
	d         *downloader
	body      io.ReadCloser
	validator string
	done      int64
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
	if r.validator == "" || !retryable(err) {
		return fmt.Errorf("connection lost after %d bytes: %w", r.done, err)
	}
	for r.d.again(r.ctx) {
		header := http.Header{"Range": {fmt.Sprintf("bytes=%d-", r.done)}, "If-Range": {r.validator}}
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
		err = statusError(resp)
		if resp.StatusCode < 500 {
			break
		}
	}
	return fmt.Errorf("connection lost after %d bytes and not resumed: %w", r.done, err)
}

func (r *resumingReader) Close() error { return r.body.Close() }
