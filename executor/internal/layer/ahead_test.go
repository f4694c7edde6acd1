package layer

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// gated is a layer whose bytes come once somebody lets them.
type gated struct {
	v1.Layer
	open  func() (io.ReadCloser, error)
	asked chan struct{}
	once  sync.Once
}

func (g *gated) Compressed() (io.ReadCloser, error) {
	g.once.Do(func() { close(g.asked) })
	return g.open()
}

// Layers are fetched while the first is read, and read as they come. One that
// cannot be fetched is read itself.
func TestFetchAhead(t *testing.T) {
	body := strings.Repeat("content", 100000)
	gate := make(chan struct{})
	broken := errors.New("broken")
	tries := 0
	layers := []*gated{
		{open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("first")), nil }},
		{open: func() (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() {
				_, _ = io.WriteString(w, body[:len(body)/2])
				<-gate
				_, _ = io.WriteString(w, body[len(body)/2:])
				_ = w.Close()
			}()
			return r, nil
		}},
		{open: func() (io.ReadCloser, error) {
			if tries++; tries == 1 {
				return io.NopCloser(iotest.ErrReader(broken)), nil
			}
			return io.NopCloser(strings.NewReader("third")), nil
		}},
		{open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }},
	}
	var in []v1.Layer
	for _, l := range layers {
		l.asked = make(chan struct{})
		l.Layer = static.NewLayer(nil, types.OCIUncompressedLayer)
		in = append(in, l)
	}
	var mu sync.Mutex
	told := map[string]int64{} // bytes by state and error
	meter := progress.Meter{ID: "1.0", Now: time.Now, Sink: func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind != progress.KindPhase || e.Phase != progress.PhasePull || e.ID != "1.0" {
			t.Errorf("told %+v", e)
		}
		told[strings.TrimSpace(string(e.State)+" "+e.Error)] += max(e.Current, 1)
	}}
	dir := t.TempDir()
	ahead, stop := FetchAhead(t.Context(), dir, in, meter)
	defer stop()
	for _, l := range layers[1:] {
		<-l.asked // though nobody has read anything
	}
	select {
	case <-layers[0].asked:
		t.Error("the first layer was fetched before it was read")
	default:
	}
	read := func(l v1.Layer) (string, error) {
		rc, err := l.Compressed()
		if err != nil {
			return "", err
		}
		defer rc.Close()
		b, err := io.ReadAll(rc)
		return string(b), err
	}
	if got, err := read(ahead[0]); got != "first" || err != nil {
		t.Errorf("first: %q %v", got, err)
	}
	rc, err := ahead[1].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	half := make([]byte, len(body)/2)
	if _, err := io.ReadFull(rc, half); err != nil {
		t.Fatal(err)
	}
	close(gate)
	rest, err := io.ReadAll(rc)
	if string(half)+string(rest) != body || err != nil {
		t.Errorf("second: %d bytes, %v", len(half)+len(rest), err)
	}
	if got, err := read(ahead[2]); err != nil && !errors.Is(err, broken) || err == nil && got != "third" {
		t.Errorf("third: %q %v", got, err)
	}
	if got, err := read(ahead[2]); got != "third" || err != nil {
		t.Errorf("third, again: %q %v", got, err)
	}
	if got, err := read(ahead[3]); got != "" || err != nil {
		t.Errorf("fourth: %q %v", got, err)
	}
	stop()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	// Five times a layer was opened; that which failed was opened again.
	if told["started"] < 5 || told["failed broken"] != 1 || told["done"] < int64(len("first")+len(body)+len("third")) {
		t.Errorf("told %v", told)
	}
}

// Who stops early waits for nothing.
func TestFetchAheadStops(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	slow := &gated{Layer: static.NewLayer(nil, types.OCIUncompressedLayer), asked: make(chan struct{}), open: func() (io.ReadCloser, error) { return r, nil }}
	_, stop := FetchAhead(t.Context(), t.TempDir(), []v1.Layer{slow, slow, slow}, progress.Meter{})
	<-slow.asked
	done := make(chan struct{})
	go func() { stop(); close(done) }()
	_, _ = w.Write([]byte("x")) // a network read ends when its context does; a pipe needs a byte
	_ = w.Close()
	<-done
}
