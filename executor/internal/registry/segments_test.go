package registry

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// large is a registry with an image whose one layer is large.
func large(t *testing.T) (s *server, l v1.Layer, content []byte) {
	t.Helper()
	l, err := random.Layer(minSegmented+segmentSize/2, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(imageFor(t, amd64()), l)
	if err != nil {
		t.Fatal(err)
	}
	s = serve(t, false, nil)
	s.put("a:1", img)
	rc, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if content, err = io.ReadAll(rc); err != nil {
		t.Fatal(err)
	}
	return s, l, content
}

// pulledLayer is the large layer as it is read from the registry.
func pulledLayer(t *testing.T, s *server, l v1.Layer, opt Options) v1.Layer {
	t.Helper()
	img, _, err := client(t, opt).Image(t.Context(), s.host+"/a:1", amd64())
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	got := layers[len(layers)-1]
	if digest, _ := got.Digest(); digest != digestOfLayer(t, l) {
		t.Fatal("another layer")
	}
	return got
}

func digestOfLayer(t *testing.T, l v1.Layer) v1.Hash {
	t.Helper()
	h, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// parted serves parts of the blob, which the fake registry does not.
func parted(content []byte, digest v1.Hash, meddle func(w http.ResponseWriter, r *http.Request, from, to int) bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		asked, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
		if !ok || !strings.HasSuffix(r.URL.Path, digest.String()) || r.Method != http.MethodGet {
			return false
		}
		a, b, _ := strings.Cut(asked, "-")
		from, _ := strconv.Atoi(a)
		to, _ := strconv.Atoi(b)
		if meddle != nil && meddle(w, r, from, to+1) {
			return true
		}
		w.Header().Set("Content-Range", "bytes "+asked+"/"+strconv.Itoa(len(content)))
		w.Header().Set("Content-Length", strconv.Itoa(to+1-from))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(content[from : to+1])
		return true
	}
}

// A large layer is fetched in segments, some at once, each byte once.
func TestSegments(t *testing.T) {
	s, l, content := large(t)
	var at, most atomic.Int32
	var mu sync.Mutex
	counts := make([]int, len(content)/segmentSize+1)
	var both sync.WaitGroup // the second and the third are asked for at the same time
	both.Add(2)
	s.setHook(parted(content, digestOfLayer(t, l), func(_ http.ResponseWriter, _ *http.Request, from, _ int) bool {
		n := at.Add(1)
		defer at.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		mu.Lock()
		counts[from/segmentSize]++
		mu.Unlock()
		if from == segmentSize || from == 2*segmentSize {
			both.Done()
			both.Wait()
		}
		return false
	}))
	got := pulledLayer(t, s, l, Options{})
	rc, err := got.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	read, err := io.ReadAll(iotest.HalfReader(rc))
	if err != nil || !bytes.Equal(read, content) {
		t.Errorf("read %d bytes, %v", len(read), err)
	}
	if err := rc.Close(); err != nil {
		t.Error(err)
	}
	for i, n := range counts {
		if n != 1 {
			t.Errorf("segment %d was asked for %d times", i, n)
		}
	}
	if most.Load() < 2 || most.Load() > maxSegmentsAhead {
		t.Errorf("%d at once", most.Load())
	}
}

// Each segment is taken up again where it broke off; wrong bytes are an error, and
// so is what keeps breaking off. A registry without parts gives the whole layer.
func TestSegmentsBreak(t *testing.T) {
	s, l, content := large(t)
	digest := digestOfLayer(t, l)
	for name, tc := range map[string]struct {
		meddle func(w http.ResponseWriter, r *http.Request, from, to int) bool
		want   string // in the error; "" for none
		whole  bool   // the layer is asked for as a whole
	}{
		"cut": {meddle: func(w http.ResponseWriter, r *http.Request, from, to int) bool {
			if from%segmentSize != 0 {
				return false // the rest
			}
			w.Header().Set("Content-Range", "bytes "+strings.TrimPrefix(r.Header.Get("Range"), "bytes=")+"/"+strconv.Itoa(len(content)))
			w.Header().Set("Content-Length", strconv.Itoa(to-from))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(content[from : from+1000])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
		"always cut": {want: "broke off after", meddle: func(w http.ResponseWriter, _ *http.Request, from, _ int) bool {
			if from > 0 {
				panic(http.ErrAbortHandler)
			}
			return false
		}},
		"wrong bytes": {want: "corrupt", meddle: func(w http.ResponseWriter, r *http.Request, from, to int) bool {
			if from != segmentSize {
				return false
			}
			w.Header().Set("Content-Range", "bytes "+strings.TrimPrefix(r.Header.Get("Range"), "bytes=")+"/*")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, to-from))
			return true
		}},
		"another part": {want: "gives no part", meddle: func(w http.ResponseWriter, r *http.Request, from, to int) bool {
			if from != segmentSize {
				return false
			}
			w.Header().Set("Content-Range", "bytes 0-10/"+strconv.Itoa(len(content)))
			w.WriteHeader(http.StatusPartialContent)
			return true
		}},
		"no parts": {whole: true, meddle: func(w http.ResponseWriter, _ *http.Request, _, _ int) bool {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			_, _ = w.Write(content)
			return true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s.setHook(parted(content, digest, tc.meddle))
			got := pulledLayer(t, s, l, Options{})
			s.forget()
			rc, err := got.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			read, err := io.ReadAll(rc)
			switch {
			case tc.want == "" && (err != nil || !bytes.Equal(read, content)):
				t.Errorf("read %d bytes, %v", len(read), err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if err := rc.Close(); err != nil {
				t.Error(err)
			}
			if n := len(s.requests("GET ")); tc.whole && n > 3 {
				t.Errorf("%d requests for a layer that is read as a whole", n)
			}
		})
	}
}

// What is held in memory of all layers is bounded, and a layer for which there is no
// room is read all the same. Closing early gives the room back.
func TestSegmentsRoom(t *testing.T) {
	s, l, content := large(t)
	s.setHook(parted(content, digestOfLayer(t, l), nil))
	c := client(t, Options{})
	img, _, err := c.Image(t.Context(), s.host+"/a:1", amd64())
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var open []io.ReadCloser
	for range 5 { // three hold what there is
		rc, err := layers[len(layers)-1].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, rc)
	}
	if n := c.segments.used; n != maxSegments {
		t.Errorf("%d segments held, want %d", n, maxSegments)
	}
	for _, rc := range open[3:] {
		if read, err := io.ReadAll(rc); err != nil || !bytes.Equal(read, content) {
			t.Errorf("read %d bytes, %v", len(read), err)
		}
	}
	for _, rc := range open {
		if err := rc.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := c.segments.used; n != 0 {
		t.Errorf("%d segments held in the end", n)
	}
}
