package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/stream"
)

// A large layer is sent as one stream, which may begin before its length is known.
// When that breaks off the registry says how much of it arrived, and the rest goes
// in parts of a known length (distribution-spec, "Pushing a blob in chunks"). In
// parts goes also what a registry does not take as a stream, and, where it refuses
// those too, in one piece as soon as its length is known.

const (
	// partSize is how much of a layer goes in one part, in bytes, unless the
	// registry wants more.
	partSize = 8 << 20
	// maxPartSize is the most that a registry can want. A part is held in memory.
	maxPartSize = 64 << 20
	// maxUploadResumes is how often in a row the upload of a layer is taken up again
	// without a byte having arrived in between.
	maxUploadResumes = 4
)

// minChunk is the least that the registry wants a part to have.
func minChunk(resp *http.Response) int64 {
	n, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// errForm is wrapped by the error of a registry that may take the same bytes in
// another form.
var errForm = errors.New("the registry does not take the layer in this form")

// formRefused are the answers to a stream, or a part, that are worth another form.
func formRefused(status int) bool {
	return slices.Contains([]int{
		http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusLengthRequired, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusNotImplemented,
	}, status)
}

// stream sends a layer to an upload that was begun, and ends that.
func (t *target) stream(ctx context.Context, up *begun, l v1.Layer, read func(v1.Layer) (io.ReadCloser, error)) error {
	s := &flow{t: t, up: up, layer: l, read: read}
	defer s.close()
	err := s.whole(ctx)
	inParts := false
	for idle := 0; idle < maxUploadResumes && s.resumable(ctx, err, inParts); idle++ {
		before := s.sent
		if lost := s.resume(ctx, errors.Is(err, errForm)); lost != nil {
			return s.final(err)
		}
		if s.sent > before {
			idle = 0
		}
		t.c.opt.Log.Warn("upload of a layer broke off and is resumed", "at", s.sent, "err", err)
		inParts = true
		err = s.parts(ctx)
	}
	switch {
	case s.failed != nil:
		return s.failed
	case err == nil:
		err = s.commit(ctx)
	case errors.Is(err, errForm) && ctx.Err() == nil:
		t.forget(ctx, s.up)
		err = s.piece(ctx)
	}
	if s.failed != nil {
		return s.failed
	}
	return s.final(err)
}

// resumable tells whether what is left of the layer may be sent after err.
func (s *flow) resumable(ctx context.Context, err error, inParts bool) bool {
	switch {
	case err == nil, s.failed != nil, s.once, ctx.Err() != nil:
		return false
	case errors.Is(err, errForm):
		return !inParts
	}
	var status *ggcr.Error
	return temporary(err) || errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable
}

// resume finds out where to go on: at the beginning of another upload if it is
// the form that was refused and nothing is left of this one.
func (s *flow) resume(ctx context.Context, refused bool) error {
	if !refused {
		if err := pause(ctx, s.t.c.opt.RetryWait); err != nil {
			return err
		}
	}
	err := s.ask(ctx)
	if err == nil || !refused {
		return err
	}
	s.sent = 0
	s.up, err = s.t.begin(ctx, nil, nil)
	return err
}

// flow is a layer on its way.
type flow struct {
	t     *target
	up    *begun
	layer v1.Layer
	read  func(v1.Layer) (io.ReadCloser, error)

	rc     io.ReadCloser
	at     int64 // where rc is
	failed error // of rc
	sent   int64 // bytes that the registry has
	once   bool  // the layer cannot be read again
}

func (s *flow) close() {
	if s.rc != nil {
		_ = s.rc.Close()
		s.rc = nil
	}
}

// final says of an error that trying again is of no use if the layer is gone.
func (s *flow) final(err error) error {
	if err == nil || !s.once {
		return err
	}
	return permanent{fmt.Errorf("%w (the layer was made while it was sent and cannot be sent again)", err)}
}

// seek makes the layer's next byte the one that the registry wants.
func (s *flow) seek() error {
	if s.rc != nil && s.at == s.sent {
		return nil
	}
	s.close()
	rc, err := s.read(s.layer)
	if err != nil {
		s.once = errors.Is(err, stream.ErrConsumed)
		s.failed = err
		return err
	}
	s.rc, s.at = rc, 0
	if seeker, ok := rc.(io.Seeker); ok {
		if _, err := seeker.Seek(s.sent, io.SeekStart); err == nil {
			s.at = s.sent
			return nil
		}
	}
	if s.at, err = io.CopyN(io.Discard, rc, s.sent); err != nil {
		s.failed = fmt.Errorf("read layer again: %w", err)
	}
	return s.failed
}

// whole sends all of it as one stream.
func (s *flow) whole(ctx context.Context) error {
	size, err := s.layer.Size()
	if err != nil {
		size = -1 // not known yet
	}
	resp, err := s.send(ctx, http.MethodPatch, s.up.at, size)
	if err == nil {
		defer func() { _ = resp.Body.Close() }()
		err = s.moved(resp)
	}
	if err != nil {
		s.spend()
	}
	return err
}

// send sends all of the layer in one request.
func (s *flow) send(ctx context.Context, method string, at *url.URL, size int64) (*http.Response, error) {
	rc, err := s.read(s.layer)
	if err != nil {
		s.failed, s.once = err, errors.Is(err, stream.ErrConsumed)
		return nil, err
	}
	body := &flowing{rc: rc}
	req, err := http.NewRequestWithContext(ctx, method, at.String(), body)
	if err != nil {
		return nil, errors.Join(err, rc.Close())
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := s.up.client.Do(req)
	if s.sent, s.failed = body.end(); err == nil && s.failed != nil {
		_ = resp.Body.Close()
		return nil, s.failed
	}
	return resp, told(err)
}

// spend finds out whether the layer can be read again.
func (s *flow) spend() {
	if s.failed != nil || s.once {
		return
	}
	rc, err := s.read(s.layer)
	if s.once = errors.Is(err, stream.ErrConsumed); err == nil {
		_ = rc.Close()
	}
}

// moved takes the answer to some bytes.
func (s *flow) moved(resp *http.Response) error {
	if err := ggcr.CheckError(resp, http.StatusAccepted, http.StatusNoContent, http.StatusCreated); err != nil {
		if formRefused(resp.StatusCode) {
			return fmt.Errorf("%w: %w", errForm, err)
		}
		return err
	}
	at, err := locationOf(resp)
	if err != nil {
		return permanent{err}
	}
	s.up.at = at
	return nil
}

// errOffset is the error of a registry that does not say how much it has.
var errOffset = errors.New("the registry does not say how much of the layer it has")

// ask asks the registry how much of the layer it has.
func (s *flow) ask(ctx context.Context) error {
	resp, err := do(ctx, s.up.client, http.MethodGet, s.up.at, nil, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := ggcr.CheckError(resp, http.StatusNoContent, http.StatusOK, http.StatusAccepted); err != nil {
		return err
	}
	have, err := received(resp.Header.Get("Range"))
	if err != nil {
		return err
	}
	if resp.Header.Get("Location") != "" {
		if s.up.at, err = locationOf(resp); err != nil {
			return err
		}
	}
	s.sent = have
	return nil
}

// received is how many bytes a registry has that answers with a range, whose end
// is the last byte. "0-0" is nothing or one byte: one is sent again either way.
func received(have string) (int64, error) {
	from, to, ok := strings.Cut(strings.TrimPrefix(have, "bytes="), "-")
	last, err := strconv.ParseInt(to, 10, 64)
	if have == "" || !ok || from != "0" || err != nil || last < -1 {
		return 0, fmt.Errorf("%w: its range is %q", errOffset, have)
	}
	if last <= 0 {
		return 0, nil
	}
	return last + 1, nil
}

// parts sends the rest in parts.
func (s *flow) parts(ctx context.Context) error {
	if s.up.minChunk > maxPartSize {
		return fmt.Errorf("%w: it wants parts of %d bytes", errForm, s.up.minChunk)
	}
	buf := make([]byte, max(partSize, s.up.minChunk))
	for {
		if err := s.seek(); err != nil {
			return err
		}
		n, err := fill(s.rc, buf)
		s.at += int64(n)
		if err != nil {
			s.failed = err
			return err
		}
		if n == 0 {
			return nil
		}
		if err := s.part(ctx, buf[:n]); err != nil {
			return err
		}
	}
}

// fill reads until buf is full or nothing is left.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (s *flow) part(ctx context.Context, body []byte) error {
	header := http.Header{"Content-Range": {fmt.Sprintf("%d-%d", s.sent, s.sent+int64(len(body))-1)}}
	resp, err := do(ctx, s.up.client, http.MethodPatch, s.up.at, body, header)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := s.moved(resp); err != nil {
		return err
	}
	s.sent += int64(len(body))
	return nil
}

// commit ends the upload. Should the answer be lost the layer may be there all the
// same.
func (s *flow) commit(ctx context.Context) error {
	s.close() // the layer knows its digest from now on
	digest, err := s.layer.Digest()
	if err != nil {
		return permanent{err}
	}
	err = s.t.c.thrice(ctx, func() error { return s.t.commit(ctx, s.up, digest, nil) })
	if err == nil || ctx.Err() != nil {
		return err
	}
	resp, herr := do(ctx, s.up.client, http.MethodHead, blobURL(s.t.repo, "blobs/"+digest.String(), nil), nil, nil)
	if herr == nil {
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	s.spend()
	return err
}

// piece sends the layer in one piece with the request that ends the upload, once
// its length is known: all of it was written by then.
func (s *flow) piece(ctx context.Context) error {
	s.sent = 0
	if _, err := s.layer.Size(); errors.Is(err, stream.ErrNotComputed) {
		if err := s.seek(); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, s.rc); err != nil {
			s.failed = err
			return err
		}
	}
	s.close()
	size, err := s.layer.Size()
	if err != nil {
		return permanent{err}
	}
	digest, err := s.layer.Digest()
	if err != nil {
		return permanent{err}
	}
	if s.up, err = s.t.begin(ctx, nil, nil); err != nil {
		return err
	}
	at := *s.up.at
	query := at.Query()
	query.Set("digest", digest.String())
	at.RawQuery = query.Encode()
	resp, err := s.send(ctx, http.MethodPut, &at, size)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return ggcr.CheckError(resp, http.StatusCreated, http.StatusNoContent)
}
