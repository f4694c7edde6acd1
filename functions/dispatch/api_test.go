package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// call sends a request of the API and returns its answer.
func call(t testing.TB, h http.Handler, method, path, body string, header ...string) (int, string) {
	t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

func builds(t testing.TB, text string) []Decision {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return a.Builds
}

func TestAPIBuilds(t *testing.T) {
	w := newWorld(openDir(t, t.TempDir()))
	w.remote = map[string]string{"refs/heads/main": id("a")}
	h := w.dispatcher(t).Handler()
	status, text := call(t, h, "POST", "/v1/builds", `{"repo":"https://h/r.git","ref":"main"}`)
	if status != http.StatusOK || len(builds(t, text)) != 1 || builds(t, text)[0].Status != StatusNew {
		t.Fatalf("%d %s", status, text)
	}
	first := builds(t, text)[0].BuildID
	var req events.Request
	if _, err := record.Load(t.Context(), w, record.RequestKey(first), &req); err != nil || req.Priority != events.PriorityInteractive || req.Change.After != id("a") {
		t.Errorf("request %+v, %v", req, err)
	}
	if _, text = call(t, h, "POST", "/v1/builds", `{"repo":"h/r","ref":"refs/heads/main"}`); builds(t, text)[0].BuildID != first {
		t.Errorf("asked twice: %s", text)
	}
	// The webhook of the same push is a repetition.
	if _, a, _ := send(t, h, gitHub("push", pushBody(none, "a"))); a.Builds[0].BuildID != first || a.Builds[0].Status != StatusDuplicate {
		t.Errorf("webhook: %+v", a)
	}
	status, text = call(t, h, "POST", "/v1/builds", `{"bucket":"gs://b","object":"k","generation":"7"}`)
	if status != http.StatusOK || len(builds(t, text)) != 1 {
		t.Errorf("%d %s", status, text)
	}
	if status, text = call(t, h, "POST", "/v1/builds", `{"repo":"h/r","ref":"main","trigger":"web"}`); status != http.StatusOK || !strings.Contains(text, "no trigger matches") {
		t.Errorf("another trigger: %d %s", status, text)
	}
	for body, want := range map[string]int{
		`{"repo":"h/r","ref":"gone"}`:              http.StatusNotFound,
		`{"repo":"h/other","ref":"main"}`:          http.StatusBadRequest,
		`{"repo":"h/r"}`:                           http.StatusBadRequest,
		`{"repo":"h/r","ref":"main","tag":"x"}`:    http.StatusBadRequest,
		`{"repo":"h/r","ref":"../main"}`:           http.StatusBadRequest,
		`{"repo":"h/r","ref":"main","commit":"x"}`: http.StatusBadRequest,
		`{"bucket":"gs://b","object":"k"}`:         http.StatusBadRequest,
		`hello`:                                    http.StatusBadRequest,
		strings.Repeat(" ", 65<<10):                http.StatusRequestEntityTooLarge,
	} {
		if status, text := call(t, h, "POST", "/v1/builds", body); status != want {
			t.Errorf("%.60s: %d %s", body, status, text)
		}
	}
}

// An error says what is wrong with what was asked, and nothing of how it was read.
func TestAPIErrors(t *testing.T) {
	w := newWorld(openDir(t, t.TempDir()))
	w.remote = map[string]string{"refs/heads/main": id("a")}
	h := w.dispatcher(t).Handler()
	deaf := w.dispatcher(t, func(c *Config) {
		c.ResolveRef = func(context.Context, events.Change) (string, error) { return "", errors.New("h does not answer") }
	}).Handler()
	for _, tc := range []struct {
		h                        http.Handler
		method, path, body, want string
		status                   int
	}{
		{h, "GET", "/v1/builds/x-y", "", `{"error":"\"x-y\" is not a build id, nor the beginning of one"}`, http.StatusBadRequest},
		{h, "GET", "/v1/builds/0123", "", `{"error":"no build begins with 0123"}`, http.StatusNotFound},
		{h, "GET", "/v1/builds?outcome=succes", "", `{"error":"outcome is \"succes\", and may be success, failed, cancelled or error"}`, http.StatusBadRequest},
		{h, "POST", "/v1/builds", `{"repo":"h/r","ref":"gone"}`, `{"error":"h/r has no refs/heads/gone"}`, http.StatusNotFound},
		{deaf, "POST", "/v1/builds", `{"repo":"h/r","ref":"main"}`, `{"error":"h does not answer"}`, http.StatusBadGateway},
	} {
		if status, text := call(t, tc.h, tc.method, tc.path, tc.body); status != tc.status || strings.TrimSpace(text) != tc.want {
			t.Errorf("%s %s: %d %s, want %d %s", tc.method, tc.path, status, text, tc.status, tc.want)
		}
	}
}

func TestAPIRebuildAndCancel(t *testing.T) {
	w := newWorld(openDir(t, t.TempDir()))
	d := w.dispatcher(t)
	h := d.Handler()
	a := handle(t, d, ref(none, "a", 1))
	var ids []string
	for _, key := range []string{"k1", "k1", ""} {
		status, text := call(t, h, "POST", "/v1/builds/"+a.BuildID+"/rebuild", "", "Idempotency-Key", key)
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		ids = append(ids, builds(t, text)[0].BuildID)
	}
	if ids[0] != ids[1] || ids[1] == ids[2] {
		t.Errorf("builds %v", ids)
	}
	if status, text := call(t, h, "POST", "/v1/builds/"+ids[2]+"/cancel", `{"reason":"not today"}`); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	if outcome, _ := w.outcome(t, ids[2]); outcome != events.OutcomeCancelled {
		t.Errorf("outcome %s", outcome)
	}
	b := handle(t, d, ref("a", "b", 2))
	w.succeed(t, b.BuildID)
	for path, want := range map[string]int{
		"/v1/builds/" + a.BuildID + "/rebuild":                http.StatusConflict,
		"/v1/builds/" + b.BuildID + "/cancel":                 http.StatusConflict,
		"/v1/builds/" + strings.Repeat("0", 26) + "/cancel":   http.StatusNotFound,
		"/v1/builds/" + strings.Repeat("0", 26) + "/rebuild":  http.StatusNotFound,
		"/v1/builds/" + strings.Repeat("z", 26) + "/anything": http.StatusNotFound,
	} {
		if status, text := call(t, h, "POST", path, ""); status != want {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	locked := w.dispatcher(t, func(c *Config) { c.Tokens = []string{"t0ken"} }).Handler()
	for _, path := range []string{"/v1/builds", "/v1/builds/" + a.BuildID + "/rebuild", "/v1/builds/" + a.BuildID + "/cancel"} {
		if status, _ := call(t, locked, "POST", path, "{}"); status != http.StatusUnauthorized {
			t.Errorf("%s without a token: %d", path, status)
		}
		if status, _ := call(t, locked, "POST", path, "{}", "Authorization", "Bearer t0ken"); status == http.StatusUnauthorized {
			t.Errorf("%s with a token: %d", path, status)
		}
	}
}

func TestDeadLetters(t *testing.T) {
	w := newWorld(openDir(t, t.TempDir()))
	h := w.dispatcher(t).Handler()
	for _, r := range []request{gitHub("push", `{"ref":1}`), giteaHook("push", "{"), gitLab("s3cr3t", "[]"), bitbucketHook("repo:push", "null,")} {
		for range 2 {
			if status, _, _ := send(t, h, r); status != http.StatusBadRequest {
				t.Fatalf("%s: %d", r.path, status)
			}
		}
	}
	list := func(query string) deadLetters {
		t.Helper()
		status, text := call(t, h, "GET", "/v1/deadletters"+query, "")
		var page deadLetters
		if err := json.Unmarshal([]byte(text), &page); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s: %v", status, text, err)
		}
		return page
	}
	all := list("")
	if len(all.DeadLetters) != 4 || all.Next != "" {
		t.Fatalf("%+v", all)
	}
	if page := list("?limit=3"); len(page.DeadLetters) != 3 || len(list("?limit=3&after="+page.Next).DeadLetters) != 1 {
		t.Errorf("pages: %+v", page)
	}
	for _, l := range all.DeadLetters { // nothing has learned to understand them
		path := "/v1/deadletters/" + strings.TrimPrefix(l.Key, "poison/")
		if status, text := call(t, h, "POST", path, ""); status != http.StatusBadRequest {
			t.Errorf("replay of %s: %d %s", l.Door, status, text)
		}
	}
	// A letter that is understood by now.
	p := record.Poison{Door: DoorGitHub, At: w.now, Header: map[string]string{"Content-Type": "application/json", "X-Github-Event": "push"}, Body: []byte(pushBody(none, "a"))}
	data, err := record.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(t.Context(), record.PoisonKey(p), data); err != nil {
		t.Fatal(err)
	}
	path := "/v1/deadletters/" + strings.TrimPrefix(record.PoisonKey(p), "poison/")
	status, text := call(t, h, "POST", path, "")
	if status != http.StatusOK || len(builds(t, text)) != 1 || len(w.launches) != 1 {
		t.Errorf("replay: %d %s", status, text)
	}
	if status, _ := call(t, h, "POST", path, ""); status != http.StatusNotFound {
		t.Errorf("it is still there: %d", status)
	}
	gone := "/v1/deadletters/" + strings.TrimPrefix(all.DeadLetters[0].Key, "poison/")
	if status, _ := call(t, h, "DELETE", gone, ""); status != http.StatusOK || len(list("").DeadLetters) != 3 {
		t.Errorf("forget: %d", status)
	}
	if status, _ := call(t, h, "DELETE", "/v1/deadletters/../refs", ""); status == http.StatusOK {
		t.Error("another record can be removed")
	}
}

// Whatever door a request is meant for is found by its headers, and read
// without its secret.
func TestTrustedReadsEveryForge(t *testing.T) {
	for _, r := range []request{
		gitHub("push", pushBody(none, "a")), giteaHook("push", pushBody(none, "a")), gitLab("other", gitLabBody("push", none, "a")),
		bitbucketHook("repo:push", bitbucketBody("main")),
		{"/hooks/git", map[string]string{"Content-Type": "text/plain", "Kiln-Repository": "h/r"}, id(none) + " " + id("a") + " refs/heads/main\n"},
		{"/hooks/registry", map[string]string{"Content-Type": "application/vnd.docker.distribution.events.v2+json"},
			fmt.Sprintf(`{"events":[{"action":"push","target":{"repository":"x","tag":"1","digest":"sha256:%064x"},"request":{"host":"r.io"}}]}`, 1)},
	} {
		h := http.Header{}
		for name, value := range r.header {
			if !strings.Contains(name, "Signature") && !strings.Contains(name, "Token") {
				h.Set(name, value)
			}
		}
		if door := DoorOf(h); door != r.path {
			t.Errorf("%s: found door %s", r.path, door)
		}
		if changes, err := Trusted(r.path, "", h, []byte(r.body)); err != nil || len(changes) != 1 {
			t.Errorf("%s: %v, %v", r.path, changes, err)
		}
	}
	if _, err := Trusted("/hooks/svn", "", nil, nil); err == nil {
		t.Error("a door that is none")
	}
}

// TestAPILog proves that a log is for those with a token, by any beginning of its
// build's id, and that its lack is told from the lack of a build.
func TestAPILog(t *testing.T) {
	w := newWorld(openDir(t, t.TempDir()))
	d := w.dispatcher(t, func(c *Config) {
		c.Tokens = []string{"t0ken"}
		c.ServeLog = func(w http.ResponseWriter, r *http.Request, id string) {
			fmt.Fprintf(w, "log of %s, %s", id, r.URL.RawQuery)
		}
	})
	h := d.Handler()
	_, text := call(t, h, "POST", "/v1/builds", `{"bucket":"gs://b","object":"k","generation":"7"}`, "Authorization", "Bearer t0ken")
	id := builds(t, text)[0].BuildID
	without := w.dispatcher(t).Handler()
	for _, tc := range []struct {
		h                 http.Handler
		path, token, want string
		status            int
	}{
		{h, id[:8] + "/log?follow=1", "t0ken", "log of " + id + ", follow=1", 200},
		{h, id + "/log", "", "signature or token is missing", 401},
		{h, strings.Repeat("0", 26) + "/log", "t0ken", "no build 000", 404},
		{h, "zz/log", "t0ken", "not a build id", 400},
		{without, id + "/log", "", "no logs are kept here", 404},
	} {
		status, text := call(t, tc.h, "GET", "/v1/builds/"+tc.path, "", "Authorization", "Bearer "+tc.token)
		if status != tc.status || !strings.Contains(text, tc.want) {
			t.Errorf("%s: %d %s, want %d %q", tc.path, status, text, tc.status, tc.want)
		}
	}
}
