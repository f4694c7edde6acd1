package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/stream"
)

// target is a repository that is pushed to.
type target struct {
	c    *Client
	repo name.Repository

	mu       sync.Mutex
	begun    *begun           // an upload that nobody uses yet
	checking chan struct{}    // closed when it is known whether there is one; nil: nobody checks
	expiry   *time.Timer      // that gives it up
	sent     map[any]*sending // by digest, or by layer as long as it has none
	noMounts map[string]bool  // repositories from which nothing is mounted
	twice    bool             // it does not take a blob with the request that begins its upload
}

// begun is an upload that was begun.
type begun struct {
	at       *url.URL
	client   *http.Client
	minChunk int64 // the least that a part may have, in bytes; 0: anything
}

// maxBegun is how long an upload that was begun is kept for who needs one.
const maxBegun = 5 * time.Minute

func newTarget(c *Client, repo name.Repository) *target {
	return &target{c: c, repo: repo, sent: map[any]*sending{}, noMounts: map[string]bool{}}
}

// sending is the upload of a layer.
type sending struct {
	done chan struct{}
	err  error
}

// once calls send for a layer unless somebody has done so with success or is
// about to.
func (t *target) once(ctx context.Context, l v1.Layer, send func() error) error {
	var key any = l
	if digest, err := l.Digest(); err == nil {
		key = digest
	} else if !reflect.TypeOf(l).Comparable() {
		return send()
	}
	for {
		t.mu.Lock()
		s := t.sent[key]
		if s == nil {
			s = &sending{done: make(chan struct{})}
			t.sent[key] = s
			t.mu.Unlock()
			s.err = send()
			digest, derr := l.Digest()
			t.mu.Lock()
			if s.err != nil {
				delete(t.sent, key)
			} else if derr == nil {
				t.sent[digest] = s
			}
			t.mu.Unlock()
			close(s.done)
			return s.err
		}
		t.mu.Unlock()
		select {
		case <-s.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if s.err == nil {
			return nil
		}
	}
}

// send makes sure that the repository has a layer.
func (t *target) send(ctx context.Context, l v1.Layer, read func(v1.Layer) (io.ReadCloser, error)) error {
	digest, err := l.Digest()
	if errors.Is(err, stream.ErrNotComputed) {
		up, err := t.begin(ctx, nil, nil)
		if err != nil {
			return err
		}
		return t.stream(ctx, up, l, read)
	}
	if err != nil {
		return permanent{err}
	}
	size, err := l.Size()
	if err != nil {
		return permanent{err}
	}
	var up *begun
	mt, err := l.MediaType()
	if err != nil {
		return permanent{err}
	}
	if !mt.IsConfig() { // a config is hardly ever there: it has the time of the build in it
		var there bool
		if there, up, err = t.find(ctx, l, digest); there || err != nil {
			return err
		}
	}
	if size <= maxSingle {
		return t.single(ctx, up, l, digest, size, read)
	}
	if up == nil {
		if up, err = t.begin(ctx, nil, nil); err != nil {
			return err
		}
	}
	return t.stream(ctx, up, l, read)
}

// find tells whether the repository has a layer, or has it now because it could be
// mounted. If not, an upload may have been begun.
func (t *target) find(ctx context.Context, l v1.Layer, digest v1.Hash) (there bool, up *begun, err error) {
	there, up = t.mount(ctx, l, digest)
	if there {
		return true, nil, nil
	}
	client, err := t.c.reach(ctx, t.repo, "")
	if err != nil {
		return false, nil, err
	}
	resp, err := do(ctx, client, http.MethodHead, blobURL(t.repo, "blobs/"+digest.String(), nil), nil, nil)
	if err == nil {
		_ = resp.Body.Close()
		err = ggcr.CheckError(resp, http.StatusOK, http.StatusNotFound)
	}
	if err != nil || resp.StatusCode == http.StatusOK {
		t.forget(ctx, up)
		return err == nil, nil, err
	}
	return false, up, nil
}

// mount mounts a layer from where it is known to be in the same registry. That
// tells as well, in one request, that the repository has it already. A registry
// that does not mount begins an upload instead.
func (t *target) mount(ctx context.Context, l v1.Layer, digest v1.Hash) (done bool, up *begun) {
	m, ok := innermost(l).(*remote.MountableLayer)
	if !ok {
		return false, nil
	}
	source := m.Reference.Context()
	from := source.RepositoryStr()
	t.mu.Lock()
	cannot := t.noMounts[from]
	t.mu.Unlock()
	if source.RegistryStr() != t.repo.RegistryStr() || from == t.repo.RepositoryStr() || cannot {
		return false, nil
	}
	client, err := t.c.reach(ctx, t.repo, from)
	if err == nil {
		query := url.Values{"mount": {digest.String()}, "from": {from}}
		var resp *http.Response
		resp, err = do(ctx, client, http.MethodPost, uploadsURL(t.repo, query), nil, nil)
		if err == nil {
			_ = resp.Body.Close()
			switch resp.StatusCode {
			case http.StatusCreated:
				return true, nil
			case http.StatusAccepted:
				up, err = upload(resp, client)
			default:
				err = ggcr.CheckError(resp, http.StatusCreated, http.StatusAccepted)
			}
		}
	}
	if err != nil && temporary(err) || ctx.Err() != nil {
		return false, nil // it will be said if it matters
	}
	t.mu.Lock()
	t.noMounts[from] = true
	t.mu.Unlock()
	return false, up
}

// upload is the one that an answer has begun.
func upload(resp *http.Response, client *http.Client) (*begun, error) {
	at, err := locationOf(resp)
	if err != nil {
		return nil, permanent{err}
	}
	return &begun{at: at, client: client, minChunk: minChunk(resp)}, nil
}

// begin begins an upload, or takes one that was begun. With a body that is all
// that there is to upload the registry may take it at once: then the result is nil.
func (t *target) begin(ctx context.Context, query url.Values, body []byte) (*begun, error) {
	client, err := t.c.reach(ctx, t.repo, "")
	if err != nil {
		return nil, err
	}
	if up := t.take(); up != nil {
		return up, nil
	}
	return t.beginAnew(ctx, client, query, body)
}

// beginAnew is begin where no upload was begun.
func (t *target) beginAnew(ctx context.Context, client *http.Client, query url.Values, body []byte) (*begun, error) {
	resp, err := do(ctx, client, http.MethodPost, uploadsURL(t.repo, query), body, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := ggcr.CheckError(resp, http.StatusCreated, http.StatusAccepted); err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusCreated {
		if body == nil {
			return nil, permanent{errors.New("the registry answers 201 to a request to begin an upload")}
		}
		return nil, nil
	}
	return upload(resp, client)
}

// check begins an upload to see whether that is allowed, and leaves it to who
// needs one first.
func (t *target) check(ctx context.Context) error {
	defer t.c.destTripper.upload(ctx, t.repo, t.c.opt.Keychain, t.c.opt.UserAgent)()
	client, err := t.c.reach(ctx, t.repo, "")
	if err != nil {
		return err
	}
	up, err := t.beginAnew(ctx, client, nil, nil)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = up
	t.expiry = time.AfterFunc(maxBegun, func() { t.close(ctx) })
	return nil
}

// await waits for a check that is under way, since it may leave an upload: that is
// there sooner than one that is begun now.
func (t *target) await(ctx context.Context) {
	t.mu.Lock()
	checking := t.checking
	t.mu.Unlock()
	if checking == nil {
		return
	}
	select {
	case <-checking:
	case <-ctx.Done():
	}
}

// take returns the upload that was begun and not used; nil if there is none.
func (t *target) take() *begun {
	t.mu.Lock()
	defer t.mu.Unlock()
	up := t.begun
	t.begun = nil
	if t.expiry != nil {
		t.expiry.Stop()
	}
	return up
}

// forget lets the registry forget an upload in the background. That it may fail
// does not matter: registries forget uploads by themselves in time.
func (t *target) forget(ctx context.Context, up *begun) {
	if up == nil {
		return
	}
	t.c.work.Go(func() {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), forgetTime, errSlow)
		defer cancel()
		if resp, err := do(ctx, up.client, http.MethodDelete, up.at, nil, nil); err == nil {
			_ = resp.Body.Close()
		}
	})
}

// forgetTime is how long the registry may take to forget an upload.
const forgetTime = 10 * time.Second

// close gives up an upload that nobody used.
func (t *target) close(ctx context.Context) {
	t.forget(ctx, t.take())
}

// maxSingle is how large a blob is that is sent in one request, in bytes.
const maxSingle = 1 << 20

// single sends a small blob: with the request that begins the upload where the
// registry takes that (distribution-spec, "Pushing a blob monolithically"), or
// with the one that ends it.
func (t *target) single(ctx context.Context, up *begun, l v1.Layer, digest v1.Hash, size int64, read func(v1.Layer) (io.ReadCloser, error)) error {
	rc, err := read(l)
	if err != nil {
		return permanent{err}
	}
	body, err := io.ReadAll(io.LimitReader(rc, size+1))
	if err = errors.Join(err, rc.Close()); err != nil {
		return err // of the place that it comes from, which may have it later
	}
	if int64(len(body)) != size {
		return permanent{fmt.Errorf("the layer has %d bytes and not %d", len(body), size)}
	}
	if up == nil {
		t.await(ctx)
		query, first := url.Values{"digest": {digest.String()}}, body
		t.mu.Lock()
		if t.twice || t.begun != nil {
			query, first = nil, nil
		}
		t.mu.Unlock()
		if up, err = t.begin(ctx, query, first); err != nil {
			if first == nil || temporary(err) || ctx.Err() != nil {
				return err
			}
			if up, err = t.begin(ctx, nil, nil); err != nil { // perhaps it is the form that it does not like
				return err
			}
		}
		if up == nil {
			return nil
		}
		if first != nil {
			t.mu.Lock()
			t.twice = true
			t.mu.Unlock()
		}
	}
	return t.commit(ctx, up, digest, body)
}

// commit ends an upload, with the bytes that are still to come.
func (t *target) commit(ctx context.Context, up *begun, digest v1.Hash, body []byte) error {
	at := *up.at
	query := at.Query()
	query.Set("digest", digest.String())
	at.RawQuery = query.Encode()
	resp, err := do(ctx, up.client, http.MethodPut, &at, body, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return ggcr.CheckError(resp, http.StatusCreated, http.StatusNoContent)
}

// do sends a request whose body, if any, can be sent again.
func do(ctx context.Context, client *http.Client, method string, at *url.URL, body []byte, header http.Header) (*http.Response, error) {
	var r io.Reader // nil, not http.NoBody, which a request cannot be repeated with
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, at.String(), r)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := client.Do(req)
	return resp, told(err)
}
