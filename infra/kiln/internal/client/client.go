// Package client talks to a running stack over HTTP.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/bucket"
	"github.com/kilnhook/kiln/infra/wait"
)

// DefaultURL is where a stack listens unless told otherwise.
const DefaultURL = "http://127.0.0.1:8765"

// ErrNoServer means that nothing answers at the address.
var ErrNoServer = errors.New("no kiln answers there")

// Client is one stack's. It is safe for concurrent use.
type Client struct {
	URL   string // without a slash at the end
	HTTP  *http.Client
	Token string // bearer token, of a stack that wants one
	// Refused is what to say besides when the token is not accepted, or lacks.
	Refused string
}

// DialError is an error of a connection that says by itself what to do.
type DialError struct{ Err error }

func (e *DialError) Error() string { return e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// New returns a client of the stack at an address: a URL, or host:port.
func New(address string) (*Client, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("server address %q is not a URL such as %s", address, DefaultURL)
	}
	return &Client{URL: strings.TrimSuffix(address, "/"), HTTP: &http.Client{}}, nil
}

// Find returns the address of the stack that is meant: the first of addresses
// that is not empty, then what the address files say that stacks leave in their
// data directories, then DefaultURL. Files that are not there are passed over.
func Find(addresses, files []string) string {
	for _, a := range addresses {
		if a != "" {
			return a
		}
	}
	for _, path := range files {
		if path == "" {
			continue
		}
		var a api.Address
		if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &a) == nil && a.HTTP != "" {
			return a.HTTP
		}
	}
	return DefaultURL
}

// AddressFiles are where a stack of this user may have left its address: the
// data directory, if one was named, the runtime directory, the default data
// directory.
func AddressFiles(data, runtimeDir, defaultData string) []string {
	var files []string
	if data != "" {
		return []string{filepath.Join(data, "address.json")}
	}
	if runtimeDir != "" {
		files = append(files, filepath.Join(runtimeDir, "kiln", "address.json"))
	}
	return append(files, filepath.Join(defaultData, "address.json"))
}

// do sends a request and turns refusals into errors.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask kiln: %w", err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("ask kiln: %w", err)
	}
	refused := &StatusError{Status: resp.StatusCode, Text: message(text)}
	if resp.StatusCode == http.StatusUnauthorized && c.Refused != "" {
		return nil, fmt.Errorf("%w: %s", refused, c.Refused)
	}
	return nil, refused
}

// explain says what to do when there was no answer.
func (c *Client) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if own, ok := errors.AsType[*DialError](err); ok {
		return own.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %s: start one with kiln up, or name another with --server or KILN_SERVER (%w)", ErrNoServer, c.URL, err)
	}
	return fmt.Errorf("ask kiln: %w", err)
}

// StatusError is a refusal by the stack.
type StatusError struct {
	Status int    // of HTTP
	Text   string // what it said
}

func (e *StatusError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("kiln refused: %d %s", e.Status, http.StatusText(e.Status))
	}
	return e.Text
}

// message is what the body of a refusal says.
func message(body []byte) string {
	var e api.Error
	if json.Unmarshal(body, &e) == nil && e.Error != "" {
		return e.Error
	}
	return strings.TrimSpace(string(body))
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	resp, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read answer of kiln: %w", err)
	}
	return nil
}

// Health asks whether the stack works.
func (c *Client) Health(ctx context.Context) (api.Health, error) {
	var h api.Health
	return h, c.get(ctx, "/healthz", &h)
}

// Builds lists builds, newest first: limit of them from the place after on, and those
// only that filter is for, whose names are those of GET /v1/builds. Empty values are
// no filter.
func (c *Client) Builds(ctx context.Context, limit int, after string, filter map[string]string) (api.List, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		q.Set("after", after)
	}
	for name, value := range filter {
		if value != "" {
			q.Set(name, value)
		}
	}
	var l api.List
	return l, c.get(ctx, "/v1/builds?"+q.Encode(), &l)
}

// BuildsOf lists the builds that a change started, oldest trigger first: of an
// object by name and generation, of a push by ref and commit.
func (c *Client) BuildsOf(ctx context.Context, name, revision string) ([]api.Build, error) {
	q := url.Values{"name": {name}, "revision": {revision}}
	var l api.List
	err := c.get(ctx, "/api/builds?"+q.Encode(), &l)
	return l.Builds, err
}

// Build describes one build. id may be cut to as much of it as is unique.
func (c *Client) Build(ctx context.Context, id string) (api.Build, error) {
	var b api.Build
	return b, c.get(ctx, "/v1/builds/"+url.PathEscape(id), &b)
}

// Cancel cancels one build. id may be cut to as much of it as is unique.
func (c *Client) Cancel(ctx context.Context, id string) (api.Build, error) {
	b, err := c.Build(ctx, id)
	if err != nil {
		return b, err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/builds/"+b.ID+"/cancel", nil, nil)
	if err != nil {
		return b, err
	}
	if err := resp.Body.Close(); err != nil {
		return b, fmt.Errorf("cancel build: %w", err)
	}
	return c.Build(ctx, b.ID)
}

// Log passes on a build's log line by line, without newlines; with follow it
// goes on until the build has ended, over interruptions of the connection.
func (c *Client) Log(ctx context.Context, id string, follow bool, line func([]byte) error) error {
	offset, fails := int64(0), 0
	for {
		n, ended, err := c.logOnce(ctx, id, offset, follow, line)
		if offset += n; n > 0 {
			fails = 0
		}
		var own *lineError
		var refused *StatusError
		switch {
		case ended || err == nil && !follow:
			return nil
		case errors.As(err, &own):
			return own.err
		case errors.As(err, &refused), ctx.Err() != nil, fails >= 10:
			return err
		}
		fails++
		if err := wait.For(ctx, time.Duration(fails)*200*time.Millisecond); err != nil {
			return err
		}
	}
}

// lineError is an error of the caller's own.
type lineError struct{ err error }

func (e *lineError) Error() string { return e.err.Error() }

// logOnce reads the log over one connection. n is the number of bytes of whole
// lines that were passed on; ended says that the stack closed the log because
// there will be no more.
func (c *Client) logOnce(ctx context.Context, id string, offset int64, follow bool, line func([]byte) error) (n int64, ended bool, err error) {
	path := fmt.Sprintf("/v1/builds/%s/log?offset=%d", url.PathEscape(id), offset)
	if follow {
		path += "&follow=1"
	}
	resp, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	in := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(text) == 0 {
			return n, resp.Trailer.Get("Kiln-Log") == "end", nil
		}
		if err != nil {
			return n, false, c.explain(ctx, err)
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue // keeps the connection alive; no log has empty lines
		}
		n += int64(len(text))
		if err := line(bytes.TrimRight(text, "\r\n")); err != nil {
			return n, false, &lineError{err}
		}
	}
}

// Upload puts a build context into the stack's bucket under name. write
// produces its bytes.
func (c *Client) Upload(ctx context.Context, name string, metadata map[string]string, write func(w io.Writer) error) (bucket.Object, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(w)) }()
	defer r.Close()
	header := http.Header{"Content-Type": {"application/gzip"}}
	for k, v := range metadata {
		header.Set("X-Kiln-Meta-"+k, v)
	}
	var o bucket.Object
	resp, err := c.do(ctx, http.MethodPut, "/contexts/"+(&url.URL{Path: name}).EscapedPath(), r, header)
	if err != nil {
		return o, fmt.Errorf("upload: %w", err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&o); err != nil {
		return o, fmt.Errorf("upload: read answer of kiln: %w", err)
	}
	return o, nil
}
