package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := New(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A followed log goes on where a lost connection left it, in whole lines, and
// ends when the stack says so and not before.
func TestLogResumes(t *testing.T) {
	const log = "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n"
	var calls atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var offset int
		if _, err := fmt.Sscan(r.URL.Query().Get("offset"), &offset); err != nil {
			t.Error(err)
		}
		w.Header().Set("Trailer", "Kiln-Log")
		switch calls.Add(1) {
		case 1: // one line, a sign of life and a half
			fmt.Fprint(w, log[offset:8]+"\n"+log[8:12])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case 2: // a proxy that gave up politely
			fmt.Fprint(w, log[offset:16])
		default:
			fmt.Fprint(w, log[offset:])
			w.Header().Set("Kiln-Log", "end")
		}
	})
	var got []string
	err := c.Log(t.Context(), "id", true, func(line []byte) error {
		got = append(got, string(line))
		return nil
	})
	if err != nil || strings.Join(got, "\n")+"\n" != log || calls.Load() != 3 {
		t.Errorf("%v %q in %d calls", err, got, calls.Load())
	}
	stop := errors.New("enough")
	if err := c.Log(t.Context(), "id", true, func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

// Events are followed over lost connections, each once, in order.
func TestFollowResumes(t *testing.T) {
	var calls atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var after int
		fmt.Sscan(r.Header.Get("Last-Event-ID"), &after)
		calls.Add(1)
		fmt.Fprint(w, "retry: 2000\n\n: heartbeat\n\n")
		for i := after + 1; i <= min(after+2, 5); i++ {
			fmt.Fprintf(w, "id: %d\nevent: t\ndata: {\"n\":%d}\n\n", i, i)
		}
		fmt.Fprint(w, "id: 99\ndata: {\"cut") // off
	})
	var got []string
	stop := errors.New("enough")
	from := uint64(0)
	err := c.Follow(t.Context(), &from, []string{"t"}, func(e Event) error {
		got = append(got, fmt.Sprintf("%d%s%s", e.Seq, e.Type, e.Data))
		if e.Seq == 5 {
			return stop
		}
		return nil
	})
	if want := `1t{"n":1} 2t{"n":2} 3t{"n":3} 4t{"n":4} 5t{"n":5}`; !errors.Is(err, stop) || strings.Join(got, " ") != want || calls.Load() != 3 {
		t.Errorf("%v %q in %d calls", err, got, calls.Load())
	}
}

// A stack that is not there is told at once, with what to do; a refusal is told
// in its own words.
func TestErrors(t *testing.T) {
	gone, err := New("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Health(t.Context()); !errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), "kiln up") {
		t.Errorf("%v", err)
	}
	if err := gone.Follow(t.Context(), nil, nil, nil); !errors.Is(err, ErrNoServer) {
		t.Errorf("%v", err)
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"error":"it is finished already"}`)
	})
	var refused *StatusError
	if _, err := c.Cancel(t.Context(), "x"); !errors.As(err, &refused) || refused.Status != 409 || err.Error() != "it is finished already" {
		t.Errorf("%v", err)
	}
	broken := errors.New("a file is gone")
	if _, err := c.Upload(t.Context(), "a", nil, func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if _, err := c.Builds(ctx, 1, "", nil); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"ftp://x", "http://", "http://x y"} {
		if _, err := New(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// The stack that is meant is the one named, or the one whose address file is
// found first.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name, "address.json")
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	broken, good := write("broken", "{"), write("run/kiln", `{"http":"http://127.0.0.1:7"}`)
	for _, tc := range []struct {
		addresses, files []string
		want             string
	}{
		{[]string{"", "http://a"}, []string{good}, "http://a"},
		{nil, []string{"", filepath.Join(dir, "nope"), broken, good}, "http://127.0.0.1:7"},
		{nil, []string{broken}, DefaultURL},
	} {
		if got := Find(tc.addresses, tc.files); got != tc.want {
			t.Errorf("%v: %s, want %s", tc, got, tc.want)
		}
	}
	if got := AddressFiles("", filepath.Join(dir, "run"), "/d"); got[0] != good || len(got) != 2 {
		t.Errorf("%v", got)
	}
	if got := AddressFiles("/data", "/run", "/d"); len(got) != 1 || got[0] != "/data/address.json" {
		t.Errorf("%v", got)
	}
}
