package registry

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// uploads is a registry's side of blob uploads, as distribution-spec has them:
// what arrives of a stream that breaks off is kept.
type uploads struct {
	mu     sync.Mutex
	open   map[string]*bytes.Buffer
	blobs  map[string][]byte
	seen   []string
	cut    []int // of the streams and parts to come: bytes that arrive before the connection breaks; -1: all
	refuse func(r *http.Request) int
	least  int  // bytes of a part
	silent bool // says nothing of how much it has
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	u.mu.Lock()
	u.seen = append(u.seen, r.Method+" "+r.Header.Get("Content-Range"))
	refuse := u.refuse
	u.mu.Unlock()
	if refuse != nil {
		if status := refuse(r); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	switch {
	case r.URL.Path == "/v2/":
	case r.Method == http.MethodHead:
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.blobs[id] == nil {
			w.WriteHeader(http.StatusNotFound)
		}
	case r.Method == http.MethodPost:
		u.mu.Lock()
		defer u.mu.Unlock()
		id = strconv.Itoa(len(u.open))
		u.open[id] = &bytes.Buffer{}
		w.Header().Set("Location", "/v2/app/blobs/uploads/"+id)
		if u.least > 0 {
			w.Header().Set("OCI-Chunk-Min-Length", strconv.Itoa(u.least))
		}
		w.WriteHeader(http.StatusAccepted)
	case !u.knows(id):
		http.Error(w, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`, http.StatusNotFound)
	case r.Method == http.MethodDelete:
	default:
		u.upload(w, r, id)
	}
}

// knows tells whether an upload was begun.
func (u *uploads) knows(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open[id] != nil
}

func (u *uploads) upload(w http.ResponseWriter, r *http.Request, id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	b := u.open[id]
	if at := r.Header.Get("Content-Range"); at != "" && !strings.HasPrefix(at, fmt.Sprintf("%d-", b.Len())) {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	if r.Method != http.MethodGet {
		limit := -1
		if r.Method == http.MethodPatch && len(u.cut) > 0 {
			limit, u.cut = u.cut[0], u.cut[1:]
		}
		if limit >= 0 {
			_, _ = io.CopyN(b, r.Body, int64(limit))
			panic(http.ErrAbortHandler)
		}
		if _, err := io.Copy(b, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if r.Method == http.MethodPut {
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(b.Bytes()))
		if r.URL.Query().Get("digest") != digest {
			http.Error(w, `{"errors":[{"code":"DIGEST_INVALID"}]}`, http.StatusBadRequest)
			return
		}
		u.blobs[digest] = b.Bytes()
		w.WriteHeader(http.StatusCreated)
		return
	}
	w.Header().Set("Location", r.URL.Path)
	if !u.silent {
		w.Header().Set("Range", fmt.Sprintf("0-%d", b.Len()-1))
	}
	w.WriteHeader(map[string]int{http.MethodGet: http.StatusNoContent, http.MethodPatch: http.StatusAccepted}[r.Method])
}

// bytesLayer is a layer that can be read as often as needed; one whose length is
// not known knows it once it was read.
type bytesLayer struct {
	content []byte
	unknown bool

	mu     sync.Mutex
	digest v1.Hash
}

func (l *bytesLayer) Compressed() (io.ReadCloser, error) {
	return &bytesReader{l: l, r: bytes.NewReader(l.content)}, nil
}

type bytesReader struct {
	l *bytesLayer
	r io.Reader
}

func (r *bytesReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if errors.Is(err, io.EOF) {
		r.l.mu.Lock()
		r.l.unknown = false
		r.l.mu.Unlock()
	}
	return n, err
}

func (r *bytesReader) Close() error { return nil }

func (l *bytesLayer) Digest() (v1.Hash, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unknown {
		return v1.Hash{}, stream.ErrNotComputed
	}
	if l.digest.Hex == "" {
		l.digest = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(l.content))}
	}
	return l.digest, nil
}

func (l *bytesLayer) Size() (int64, error) {
	if _, err := l.Digest(); err != nil {
		return 0, err
	}
	return int64(len(l.content)), nil
}
func (l *bytesLayer) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }
func (l *bytesLayer) DiffID() (v1.Hash, error)             { return l.Digest() }
func (l *bytesLayer) Uncompressed() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }
func (l *bytesLayer) Descriptor() (*v1.Descriptor, error)  { return partial.Descriptor(l) }

// An upload that breaks off goes on where the registry says, or takes another form
// where the registry refuses one.
func TestStreamResumes(t *testing.T) {
	const size = 20 << 20
	refusing := func(method string, part bool) func(*http.Request) int {
		return func(r *http.Request) int {
			if r.Method == method && (part || r.Header.Get("Content-Range") == "") {
				return http.StatusLengthRequired
			}
			return 0
		}
	}
	for name, tc := range map[string]struct {
		reg  *uploads
		want []string
	}{
		"whole": {&uploads{}, []string{"POST ", "PATCH ", "PUT "}},
		"cut": {&uploads{cut: []int{5 << 20}}, []string{
			"POST ", "PATCH ", "GET ", "PATCH 5242880-13631487", "PATCH 13631488-20971519", "PUT "}},
		"cut twice": {&uploads{cut: []int{5 << 20, 1 << 20}}, []string{
			"POST ", "PATCH ", "GET ", "PATCH 5242880-13631487", "GET ", "PATCH 6291456-14680063", "PATCH 14680064-20971519", "PUT "}},
		"large parts": {&uploads{cut: []int{5 << 20}, least: 10 << 20}, []string{
			"POST ", "PATCH ", "GET ", "PATCH 5242880-15728639", "PATCH 15728640-20971519", "PUT "}},
		"forgotten": {&uploads{cut: []int{5 << 20}, silent: true}, []string{
			"POST ", "PATCH ", "GET ", "POST ", "PATCH ", "PUT "}},
		"no streams": {&uploads{refuse: refusing(http.MethodPatch, false)}, []string{
			"POST ", "PATCH ", "GET ", "PATCH 0-8388607", "PATCH 8388608-16777215", "PATCH 16777216-20971519", "PUT "}},
		"no parts": {&uploads{refuse: refusing(http.MethodPatch, true)}, []string{
			"POST ", "PATCH ", "GET ", "PATCH 0-8388607", "POST ", "PUT "}},
	} {
		for _, unknown := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/unknown=%t", name, unknown), func(t *testing.T) {
				l := &bytesLayer{content: make([]byte, size), unknown: unknown}
				_, _ = rand.Read(l.content)
				reg := &uploads{open: map[string]*bytes.Buffer{}, blobs: map[string][]byte{}, cut: tc.reg.cut, refuse: tc.reg.refuse, least: tc.reg.least, silent: tc.reg.silent}
				s := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool { reg.ServeHTTP(w, r); return true })
				p, err := client(t, Options{}).Push(s.host + "/app:1")
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Upload(t.Context(), l, nil); err != nil {
					t.Fatal(err)
				}
				digest, _ := l.Digest()
				reg.mu.Lock()
				defer reg.mu.Unlock()
				if !bytes.Equal(reg.blobs[digest.String()], l.content) {
					t.Error("another blob arrived")
				}
				var seen []string
				for _, r := range reg.seen {
					if r != "HEAD " && r != "DELETE " && len(seen)+len(r) > 0 {
						seen = append(seen, r)
					}
				}
				if got := strings.Join(seen[1:], ", "); got != strings.Join(tc.want, ", ") { // the first asks how to log in
					t.Errorf("requests %s\nwant     %s", got, strings.Join(tc.want, ", "))
				}
			})
		}
	}
}

// An upload that breaks off again and again is given up, and so is one of a layer
// that cannot be read twice.
func TestStreamGivenUp(t *testing.T) {
	for name, l := range map[string]v1.Layer{"again": &bytesLayer{content: make([]byte, 3<<20)}, "once": newStreaming(t, 3<<20)} {
		t.Run(name, func(t *testing.T) {
			reg := &uploads{open: map[string]*bytes.Buffer{}, blobs: map[string][]byte{}}
			for range 1000 {
				reg.cut = append(reg.cut, 0)
			}
			s := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool { reg.ServeHTTP(w, r); return true })
			p, err := client(t, Options{}).Push(s.host + "/app:1")
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Upload(t.Context(), l, nil); err == nil || !strings.Contains(err.Error(), "push layer ") {
				t.Errorf("error = %v", err)
			}
			reg.mu.Lock()
			defer reg.mu.Unlock()
			if n := 1000 - len(reg.cut); n > 50 {
				t.Errorf("%d tries", n)
			}
		})
	}
}
