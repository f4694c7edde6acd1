package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kilnhook/kiln/e2e/internal/lab"
)

// TestBaseInEStargz proves that a base whose layers BuildKit made eStargz, Debian's and one
// of odd files, is known by their tables of contents as it is by its files: what is put
// onto it is what BuildKit puts there, and of the base a twentieth is read.
func TestBaseInEStargz(t *testing.T) {
	l := lab.New(t, "..")
	for _, of := range []string{"debian:bookworm-slim", "odd:latest"} {
		name, _, _ := strings.Cut(of, ":")
		t.Run(name, func(t *testing.T) {
			context := t.TempDir()
			write := func(file, content string) {
				t.Helper()
				check(t, os.WriteFile(filepath.Join(context, file), []byte(content), 0o644))
			}
			write("Dockerfile", "FROM "+of+"\nLABEL form=estargz\n")
			check(t, lab.Settle(context))
			_, err := l.BuildKit(t.Context(), "estargz/"+name, lab.Build{Context: context, Layers: "estargz"})
			check(t, err)

			const steps = "COPY --chown=daemon:staff file /lib/there/\nCOPY file /etc/\nADD file /var/run/\nWORKDIR /usr/local/here\nCOPY file file\n"
			write("file", "content\n")
			write("Dockerfile", "FROM "+l.Host+"/estargz/"+name+"\n"+steps)
			check(t, lab.Settle(context))
			l.Match(t, "on-estargz-"+name, lab.Build{Context: context})

			whole, part := l.Host, counted(t, l.Host)
			write("Dockerfile", "FROM "+part.host+"/estargz/"+name+"\n"+steps)
			out, err := l.Overlay(t, "counted-"+name, lab.Build{Context: context, Flags: []string{"--insecure-registry=" + part.host, "--no-push"}})
			check(t, err)
			if out.Error != "" {
				t.Fatal(out.Log)
			}
			img, err := l.Image(t.Context(), whole+"/estargz/"+name, "")
			check(t, err)
			m, err := img.Manifest()
			check(t, err)
			var size int64
			for _, d := range m.Layers {
				if d.Annotations["containerd.io/snapshot/stargz/toc.digest"] == "" {
					t.Errorf("BuildKit did not make layer %s eStargz", d.Digest)
				}
				size += d.Size
			}
			t.Logf("%d of %d bytes were read", part.bytes.Load(), size)
			if n := part.bytes.Load(); n == 0 || n > size/20 {
				t.Errorf("%d of %d bytes were read", n, size)
			}
		})
	}
}

// front passes on to a registry and counts what that sends.
type front struct {
	host  string
	bytes atomic.Int64
}

func counted(t *testing.T, host string) *front {
	t.Helper()
	f := &front{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	proxy.ModifyResponse = func(r *http.Response) error {
		r.Body = &countedBody{r.Body, &f.bytes}
		return nil
	}
	srv := httptest.NewServer(proxy)
	t.Cleanup(srv.Close)
	f.host = strings.TrimPrefix(srv.URL, "http://")
	return f
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}
