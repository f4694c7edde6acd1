package dispatch

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Builds are listed newest first, by pages and filters, and described by as much of
// an id as is unique.
func TestAPIList(t *testing.T) {
	w := newWorld(openDir(t, t.TempDir()))
	d := w.dispatcher(t)
	d.cfg.Describe = func(_ context.Context, b *Build) error {
		if b.Result == nil {
			b.State, b.Position = "queued", 3
		}
		return nil
	}
	h := d.Handler()
	var ids []string
	for i := range 5 {
		status, text := call(t, h, "POST", "/v1/builds", fmt.Sprintf(`{"bucket":"gs://b","object":"k%d","generation":"7"}`, i%2))
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		if b := builds(t, text)[0]; b.Status == StatusNew {
			ids = append(ids, b.BuildID)
		}
	}
	if len(ids) != 2 {
		t.Fatalf("builds: %v", ids)
	}
	if err := d.Cancel(t.Context(), ids[0], "enough"); err != nil {
		t.Fatal(err)
	}
	list := func(query string) Builds {
		t.Helper()
		status, text := call(t, h, "GET", "/v1/builds"+query, "")
		var l Builds
		if err := json.Unmarshal([]byte(text), &l); err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %s: %v", query, status, text, err)
		}
		return l
	}
	for query, want := range map[string]int{
		"": 2, "?name=k0": 1, "?name=k2": 0, "?outcome=cancelled": 1, "?outcome=success": 0, "?state=queued": 1,
		"?state=finished": 1, "?revision=7": 2, "?revision=8": 0, "?image=nobody": 0, "?limit=1": 1,
	} {
		if l := list(query); len(l.Builds) != want {
			t.Errorf("%s: %d builds, want %d", query, len(l.Builds), want)
		}
	}
	first := list("?limit=1")
	if second := list("?limit=1&after=" + first.Next); first.Next == "" || second.Builds[0].ID == first.Builds[0].ID || second.Next != "" {
		t.Errorf("pages: %+v and %+v", first, second)
	}
	for path, want := range map[string]int{
		"/v1/builds/" + ids[0]: http.StatusOK, "/v1/builds/" + ids[0][:8]: http.StatusOK, "/v1/builds/zz": http.StatusBadRequest,
		"/v1/builds/" + strings.Repeat("0", 26): http.StatusNotFound, "/v1/builds/00000000": http.StatusNotFound,
		"/v1/builds?limit=0": http.StatusBadRequest, "/v1/builds?color=red": http.StatusBadRequest,
	} {
		if status, text := call(t, h, "GET", path, ""); status != want {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	b, err := d.Describe(t.Context(), ids[0][:10])
	if err != nil || b.ID != ids[0] || b.State != BuildFinished || b.Result == nil || b.Request.Change.Name != "k0" {
		t.Errorf("%+v, %v", b, err)
	}
	if b, err = d.Describe(t.Context(), ids[1]); err != nil || b.State != "queued" || b.Position != 3 {
		t.Errorf("%+v, %v", b, err)
	}
}
