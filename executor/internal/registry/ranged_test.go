package registry

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRanged proves that of a blob that breaks off only the rest is asked for,
// and that a server which gives no parts is not believed to.
func TestRanged(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 10000)
	for _, c := range []struct {
		name   string
		parts  bool // the server gives them
		want   error
		ranges []string
	}{
		{"parts", true, nil, []string{"", "bytes=70000-"}},
		{"no parts", false, io.ErrUnexpectedEOF, []string{"", "bytes=70000-"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ranges []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ranges = append(ranges, r.Header.Get("Range"))
				w.Header().Set("ETag", `"x"`)
				if len(ranges) == 1 {
					w.Header().Set("Content-Length", fmt.Sprint(len(content)))
					_, _ = w.Write(content[:70000])
					panic(http.ErrAbortHandler)
				}
				if !c.parts {
					r.Header.Del("Range")
				} else if r.Header.Get("If-Range") != `"x"` {
					t.Error("the rest may be another blob's")
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			}))
			defer server.Close()
			r := newRouter(Options{RetryWait: time.Millisecond, Log: slog.New(slog.DiscardHandler)}, nil, true)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v2/x/blobs/sha256:y", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := r.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if (err == nil) != (c.want == nil) || err != nil && !strings.Contains(err.Error(), c.want.Error()) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if err == nil && !bytes.Equal(got, content) {
				t.Errorf("%d bytes arrived that are not those of the blob", len(got))
			}
			if !slices.Equal(ranges, c.ranges) {
				t.Errorf("it asked for %q, want %q", ranges, c.ranges)
			}
		})
	}
}
