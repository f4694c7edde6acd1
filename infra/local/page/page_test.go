package page

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

const evil = `<script>alert(1)</script>`

func build() api.Build {
	raw := json.RawMessage(`{"type":"dev.kilnhook.build.finished.v1","data":{"message":"` + evil + `"}}`)
	now := time.Unix(1_700_000_000, 0)
	return api.Build{
		ID: "b4fqlqs6nuner3bfunf5738b7r", State: api.StateFinished, Event: &raw,
		Request: events.Request{
			Image: "127.0.0.1:8765/app", Tags: []string{"main"}, RequestedAt: now, Attempt: 1,
			Change: events.Change{Kind: events.KindGit, Location: "localhost/app", Name: "refs/heads/größe/" + evil, After: strings.Repeat("a", 40)},
		},
		Result: &events.Result{
			Outcome: events.OutcomeSuccess, Digest: "sha256:" + strings.Repeat("0", 64), Message: evil,
			StartedAt: now, FinishedAt: now.Add(1200 * time.Millisecond),
			Platforms: []events.PlatformInfo{{OS: "linux", Arch: evil, Digest: "sha256:" + strings.Repeat("7", 64)}},
		},
	}
}

// Both pages show what they are for, under a strict policy, and nothing that a
// branch, a log or an event holds becomes markup.
func TestPages(t *testing.T) {
	p, err := New(func() time.Time { return time.Unix(1_700_000_100, 0) })
	if err != nil {
		t.Fatal(err)
	}
	b := build()
	list, one := httptest.NewRecorder(), httptest.NewRecorder()
	if err := p.List(list, api.List{Builds: []api.Build{b, {ID: "x", State: api.StateRunning}}, Next: "k"}, Doors{HTTP: "http://h:1", S3: "http://h:2"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Build(one, b, []buildlog.Step{{Number: 1, Name: evil, State: "done", MS: 5}}, "#1 "+evil+"\n"); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		rec  *httptest.ResponseRecorder
		want []string
	}{
		"list":  {list, []string{"b4fqlqs6nu", "success", "sha256:000000000000", "1.2s", "1 min ago", "größe", "data-live", "/?after=k", "http://h:2"}},
		"build": {one, []string{"docker pull 127.0.0.1:8765/app@sha256:0000", "#1 &lt;script&gt;", "dev.kilnhook.build.finished.v1", "5ms", `class="tag">main`, "linux/&lt;script&gt;", "sha256:7777"}},
	} {
		body := tc.rec.Body.String()
		for _, want := range tc.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %q in %s", name, want, body)
			}
		}
		if strings.Contains(body, evil) {
			t.Errorf("%s: markup got through", name)
		}
		if csp := tc.rec.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", name, csp)
		}
	}
}

// An unfinished build is followed and can be cancelled; a finished one is not.
func TestBuildStates(t *testing.T) {
	p, err := New(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for state, want := range map[string]bool{api.StateRunning: true, api.StateQueued: true, api.StateFinished: false} {
		rec := httptest.NewRecorder()
		if err := p.Build(rec, api.Build{ID: "x", State: state}, nil, ""); err != nil {
			t.Fatal(err)
		}
		body := rec.Body.String()
		if strings.Contains(body, "data-follow") != want || strings.Contains(body, "Cancel") != want {
			t.Errorf("%s: %s", state, body)
		}
	}
}
