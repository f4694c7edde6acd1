package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/kilnhook/kiln/e2e/internal/registryd"
)

// traffic is what went through a depot.
type traffic struct {
	Requests int64 `json:"requests"`
	Sent     int64 `json:"sent"`     // bytes of bodies to the registry
	Received int64 `json:"received"` // bytes of bodies from it
}

// depot is a registry, Debian's docker-registry, behind a handler that counts.
type depot struct {
	host     string // of the handler
	dir      string
	registry *registryd.Registry
	server   *http.Server
	keep     map[string]bool // blobs that are there to stay

	requests, sent, received atomic.Int64
}

func newDepot(ctx context.Context, dir string) (*depot, error) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, fmt.Errorf("%w; run .ci/setup bench", err)
	}
	d := &depot{dir: dir, keep: map[string]bool{}}
	if d.registry, err = registryd.Start(ctx, program, dir, nil); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, d.registry.Stop())
	}
	d.host = listener.Addr().String()
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: d.registry.Host})
			r.Out.Host = r.In.Host // the registry makes addresses of it
		},
		ModifyResponse: func(r *http.Response) error {
			r.Body = &counted{r.Body, &d.received}
			return nil
		},
	}
	d.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.requests.Add(1)
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &counted{r.Body, &d.sent}
		}
		proxy.ServeHTTP(w, r)
	})}
	go d.server.Serve(listener) //nolint:errcheck // ends with Close
	return d, nil
}

// counted adds what is read from a body to a number.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (d *depot) traffic() traffic {
	return traffic{d.requests.Load(), d.sent.Load(), d.received.Load()}
}

func (t traffic) since(before traffic) traffic {
	return traffic{t.Requests - before.Requests, t.Sent - before.Sent, t.Received - before.Received}
}

// close ends the registry. Its directory stays.
func (d *depot) close() error {
	return errors.Join(d.server.Close(), d.registry.Stop())
}

func (d *depot) path(elements ...string) string {
	return filepath.Join(append([]string{d.dir, "data", "docker", "registry", "v2"}, elements...)...)
}

// settle marks all blobs as there to stay.
func (d *depot) settle() error {
	blobs, err := d.blobs()
	for _, b := range blobs {
		d.keep[b] = true
	}
	return err
}

// clone makes a repository that has what another has.
func (d *depot) clone(from, to string) error {
	return os.CopyFS(d.path("repositories", to), os.DirFS(d.path("repositories", from)))
}

// share lets a repository have the blobs of another, but none of its images.
func (d *depot) share(from, to string) error {
	const blobs = "_layers"
	return os.CopyFS(d.path("repositories", to, blobs), os.DirFS(d.path("repositories", from, blobs)))
}

// clear removes a repository and the blobs that came since the last settle, so that nobody
// finds what somebody else has pushed.
func (d *depot) clear(repository string) error {
	if err := os.RemoveAll(d.path("repositories", repository)); err != nil {
		return err
	}
	blobs, err := d.blobs()
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if !d.keep[b] {
			if err := os.RemoveAll(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// blobs are the directories of all blobs.
func (d *depot) blobs() ([]string, error) {
	blobs, err := filepath.Glob(d.path("blobs", "sha256", "*", "*"))
	if err != nil {
		return nil, err
	}
	return blobs, nil
}

// repository is a name that registries take, made of parts.
func repository(parts ...string) string { return strings.ToLower(strings.Join(parts, "/")) }
