package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ranger is what a layer is of which parts can be read.
type ranger interface {
	Range(ctx context.Context, from, to int64) (io.ReadCloser, error)
}

func rangerOf(t *testing.T, l v1.Layer) ranger {
	t.Helper()
	r, ok := l.(ranger)
	if !ok {
		t.Fatalf("no parts can be read of %T", l)
	}
	return r
}

// A part of a layer is read alone, and taken up again where a connection is lost.
func TestRange(t *testing.T) {
	s, l, content := large(t)
	cut := true
	s.setHook(parted(content, digestOfLayer(t, l), func(w http.ResponseWriter, _ *http.Request, from, to int) bool {
		if !cut {
			return false
		}
		cut = false
		w.Header().Set("Content-Range", "bytes "+strconv.Itoa(from)+"-"+strconv.Itoa(to-1)+"/"+strconv.Itoa(len(content)))
		w.Header().Set("Content-Length", strconv.Itoa(to-from))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(content[from : from+10])
		panic(http.ErrAbortHandler)
	}))
	r := rangerOf(t, pulledLayer(t, s, l, Options{}))
	rc, err := r.Range(t.Context(), 1000, 5000)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(rc)
	if err = errors.Join(err, rc.Close()); err != nil || !bytes.Equal(got, content[1000:5000]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := len(s.requests("/blobs/" + digestOfLayer(t, l).String())); n != 2 || cut {
		t.Errorf("%d requests", n)
	}
}

// A registry that gives no parts is asked once, and gives layers whole all the same.
func TestNoRange(t *testing.T) {
	s, l, content := large(t)
	s.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		return false
	})
	got := pulledLayer(t, s, l, Options{})
	r := rangerOf(t, got)
	for range 2 {
		if rc, err := r.Range(t.Context(), 1000, 5000); !errors.Is(err, errNoRange) {
			t.Errorf("%v, %v", rc, err)
		}
	}
	if n := len(s.requests("/blobs/" + digestOfLayer(t, l).String())); n != 1 {
		t.Errorf("%d requests", n)
	}
	rc, err := got.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(rc)
	if err = errors.Join(err, rc.Close()); err != nil || !bytes.Equal(whole, content) {
		t.Errorf("%d bytes, %v", len(whole), err)
	}
}
