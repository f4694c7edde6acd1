package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxRanges is how often the rest of one answer is asked for.
const maxRanges = 3

// ranged is the body of a blob. When the connection is lost the rest of the
// blob is asked for, if the server can give it: what was read is not read again.
type ranged struct {
	io.ReadCloser
	r    *router
	rt   http.RoundTripper
	req  *http.Request
	etag string // strong; "" if there is none
	done int64
	left int // requests
}

// resumable gives the answer to req a body that can be taken up again, if it is
// a blob.
func (r *router) resumable(rt http.RoundTripper, req *http.Request, resp *http.Response) {
	if !r.pull || req.Method != http.MethodGet || resp.StatusCode != http.StatusOK || resp.ContentLength <= 0 || req.Header.Get("Range") != "" ||
		resp.Header.Get("Accept-Ranges") == "none" || !strings.Contains(req.URL.Path, "/blobs/") && resp.Header.Get("Accept-Ranges") != "bytes" {
		return
	}
	b := &ranged{ReadCloser: resp.Body, r: r, rt: rt, req: req, left: maxRanges}
	if etag := resp.Header.Get("ETag"); etag != "" && !strings.HasPrefix(etag, "W/") {
		b.etag = etag
	}
	resp.Body = b
}

func (b *ranged) Read(p []byte) (int, error) {
	for {
		n, err := b.ReadCloser.Read(p)
		b.done += int64(n)
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if n > 0 {
			return n, nil // it is told again
		}
		if !b.resume(err) {
			return 0, err
		}
	}
}

// resume asks for the rest after err, and says whether it is coming.
func (b *ranged) resume(err error) bool {
	for temporary(err) && b.left > 0 && b.req.Context().Err() == nil {
		b.left--
		b.r.opt.Log.Warn("layer broke off and is resumed", "at", b.done, "err", err)
		if pause(b.req.Context(), b.r.opt.RetryWait) != nil {
			return false
		}
		var rest io.ReadCloser
		if rest, err = b.rest(); err == nil {
			_ = b.ReadCloser.Close()
			b.ReadCloser = rest
			return true
		}
	}
	return false
}

// errNoRange is the error of a server that does not give parts of a blob.
var errNoRange = errors.New("the server gives no part of it")

func (b *ranged) rest() (io.ReadCloser, error) {
	req := b.req.Clone(b.req.Context())
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", b.done))
	if b.etag != "" {
		req.Header.Set("If-Range", b.etag)
	}
	resp, err := b.rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusPartialContent || !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", b.done)) {
		_ = resp.Body.Close()
		return nil, errNoRange
	}
	return resp.Body, nil
}
