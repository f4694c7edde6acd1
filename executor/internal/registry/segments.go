package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// A large layer is fetched in segments, some at once, since one connection is often
// slower than the line. Those that are ahead of the reader are held in memory, and
// all layers together may hold so many; without room there is nothing ahead.

const (
	// segmentSize is how large a segment is, in bytes.
	segmentSize = 2 << 20
	// maxSegments is how many segments are held in memory at most.
	maxSegments = 8
	// maxSegmentsAhead is how many segments of one layer are fetched at once.
	maxSegmentsAhead = 4
	// minSegmented is how large a layer is that is fetched in segments, in bytes.
	minSegmented = 8 * segmentSize
)

// room is what holds segments in memory: used again rather than made.
type room struct {
	mu   sync.Mutex
	used int
	free [][]byte
}

// take returns room for a segment; nil if there is none.
func (r *room) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used == maxSegments {
		return nil
	}
	r.used++
	if n := len(r.free); n > 0 {
		buf := r.free[n-1]
		r.free = r.free[:n-1]
		return buf
	}
	return make([]byte, segmentSize)
}

func (r *room) give(buf []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used--
	r.free = append(r.free, buf[:segmentSize])
}

// segments reads a layer.
type segments struct {
	l      *resumingLayer
	client *http.Client
	ctx    context.Context //nolint:containedctx // io.Reader has none
	cancel context.CancelFunc
	size   int64
	digest v1.Hash
	hash   hash.Hash

	next  int64 // where the next segment begins
	ahead []*segment
	cur   []byte
	held  *segment      // which cur is of
	now   io.ReadCloser // a segment that is read as it comes
}

// segment is one that is fetched into memory.
type segment struct {
	done chan struct{}
	buf  []byte
	err  error
}

// segmented returns nil if the layer is to be read as a whole.
func (l *resumingLayer) segmented() (io.ReadCloser, error) {
	if l.ref == nil {
		return nil, nil
	}
	size, err := l.Size()
	if err != nil || size < minSegmented {
		return nil, nil //nolint:nilerr // who reads the whole says so
	}
	repo := l.ref.Context()
	if _, ok := l.c.wholeOnly.Load(repo.RegistryStr()); ok {
		return nil, nil
	}
	digest, err := l.Digest()
	if err != nil {
		return nil, err
	}
	sum, err := v1.Hasher(digest.Algorithm)
	if err != nil {
		return nil, err
	}
	client, err := l.c.reachBase(l.ctx, repo)
	if err != nil {
		return nil, err
	}
	r := &segments{l: l, client: client, size: size, digest: digest, hash: sum}
	r.ctx, r.cancel = context.WithCancel(l.ctx)
	err = l.c.thrice(l.ctx, func() (err error) {
		r.now, err = r.open(0)
		return err
	})
	if errors.Is(err, errNoRange) {
		r.cancel()
		l.c.wholeOnly.Store(repo.RegistryStr(), true)
		return nil, nil
	}
	if err != nil {
		r.cancel()
		return nil, err
	}
	r.launch()
	return r, nil
}

// open begins to read the segment at an offset.
func (r *segments) open(from int64) (io.ReadCloser, error) {
	s := &span{r: r, at: from, end: min(from+segmentSize, r.size), left: max(r.l.c.opt.DownloadRetry, minResumes)}
	if err := s.connect(); err != nil {
		return nil, err
	}
	r.next = s.end
	return s, nil
}

// launch fetches segments as long as there is room.
func (r *segments) launch() {
	for r.next < r.size && len(r.ahead) < maxSegmentsAhead-1 {
		buf := r.l.c.segments.take()
		if buf == nil {
			return
		}
		from, to := r.next, min(r.next+segmentSize, r.size)
		r.next = to
		s := &segment{done: make(chan struct{})}
		r.ahead = append(r.ahead, s)
		go func() {
			defer close(s.done)
			span := &span{r: r, at: from, end: to, left: max(r.l.c.opt.DownloadRetry, minResumes)}
			s.buf = buf[:to-from]
			_, s.err = io.ReadFull(span, s.buf)
			_ = span.Close()
		}()
	}
}

// Read implements io.Reader. At the end the layer is what its digest says.
func (r *segments) Read(p []byte) (int, error) {
	for {
		n, err := r.read(p)
		r.hash.Write(p[:n])
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (r *segments) read(p []byte) (int, error) {
	if r.now != nil {
		n, err := r.now.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		err = r.now.Close()
		r.now = nil
		return n, err
	}
	if len(r.cur) > 0 {
		n := copy(p, r.cur)
		r.cur = r.cur[n:]
		return n, nil
	}
	r.release()
	r.launch()
	if len(r.ahead) > 0 {
		r.held, r.ahead = r.ahead[0], r.ahead[1:]
		<-r.held.done
		r.cur = r.held.buf
		return 0, r.held.err
	}
	if r.next < r.size {
		var err error
		r.now, err = r.open(r.next)
		return 0, err
	}
	if got := hex.EncodeToString(r.hash.Sum(nil)); got != r.digest.Hex {
		return 0, permanent{fmt.Errorf("layer %s is corrupt: its digest is %s", r.digest, got)}
	}
	return 0, io.EOF
}

// release gives back the room of the segment that was read.
func (r *segments) release() {
	if r.held != nil {
		r.l.c.segments.give(r.held.buf)
		r.held, r.cur = nil, nil
	}
}

// Close implements io.Closer.
func (r *segments) Close() error {
	r.cancel()
	r.release()
	for _, s := range r.ahead {
		<-s.done
		r.l.c.segments.give(s.buf)
	}
	r.ahead = nil
	if r.now == nil {
		return nil
	}
	return r.now.Close()
}

// span reads a part of a layer. When the connection is lost it asks for the rest.
type span struct {
	r       *segments
	at, end int64
	left    int // resumptions
	body    io.ReadCloser
}

// connect asks for what is still to come.
func (s *span) connect() error {
	req, err := http.NewRequestWithContext(s.r.ctx, http.MethodGet, blobURL(s.r.l.ref.Context(), "blobs/"+s.r.digest.String(), nil).String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", s.at, s.end-1))
	resp, err := s.r.client.Do(req)
	if err != nil {
		return err
	}
	if err := checkPart(resp, s.at, s.end, s.r.size); err != nil {
		_ = resp.Body.Close()
		return err
	}
	s.body = resp.Body
	return nil
}

// checkPart makes sure that an answer holds the bytes from at to end of size.
func checkPart(resp *http.Response, at, end, size int64) error {
	want := fmt.Sprintf("bytes %d-%d/", at, end-1)
	have := resp.Header.Get("Content-Range")
	switch {
	case resp.StatusCode == http.StatusPartialContent && (have == want+fmt.Sprint(size) || have == want+"*"):
		return nil
	case resp.StatusCode < http.StatusBadRequest, resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%w: it answers %s with the range %q", errNoRange, resp.Status, strings.TrimSpace(have))
	}
	return ggcr.CheckError(resp, http.StatusPartialContent)
}

func (s *span) Read(p []byte) (int, error) {
	if s.at == s.end {
		return 0, io.EOF
	}
	for {
		err := error(nil)
		if s.body == nil {
			err = s.connect()
		}
		if err == nil {
			var n int
			n, err = s.body.Read(p[:min(int64(len(p)), s.end-s.at)])
			s.at += int64(n)
			if n > 0 {
				return n, nil
			}
			if err == nil {
				continue
			}
			_ = s.body.Close()
			s.body = nil
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
		}
		if !temporary(err) || s.left == 0 || s.r.ctx.Err() != nil {
			return 0, fmt.Errorf("read layer %s: broke off after %d bytes: %w", s.r.digest, s.at, err)
		}
		s.left--
		s.r.l.c.opt.Log.Warn("layer broke off and is resumed", "at", s.at, "err", err)
		if err := pause(s.r.ctx, s.r.l.c.opt.RetryWait); err != nil {
			return 0, err
		}
	}
}

// Close implements io.Closer.
func (s *span) Close() error {
	if s.body == nil {
		return nil
	}
	return s.body.Close()
}
