package report_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/functions/report"
	"github.com/kilnhook/kiln/infra/ledger"
)

const (
	commit = "199eddf46df50de8d02e99bf1c5fdb4101338224"
	other  = "a10867b14bb761a232cd80139fbd4c0d33264240"
	digest = "sha256:0b31b1c02ff458ad9b7b81cbdf8f028bd54699fa151f221d1e8de6817db93427"
)

// server is a forge or a chat that writes down what it is asked.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	asked   []string
	answers []func(http.ResponseWriter) // in turn; then 201
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		auth := r.Header.Get("Authorization") + r.Header.Get("Private-Token")
		s.asked = append(s.asked, fmt.Sprintf("%s %s [%s] %s", r.Method, r.URL.EscapedPath(), auth, canonical(t, body)))
		if len(s.answers) > 0 {
			answer := s.answers[0]
			s.answers = s.answers[1:]
			answer(w)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(s.Close)
	return s
}

// canonical writes JSON with its keys in order.
func canonical(t *testing.T, body []byte) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Errorf("%s: %v", body, err)
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(v)) {
		parts = append(parts, fmt.Sprintf("%s=%v", k, v[k]))
	}
	return strings.Join(parts, " | ")
}

func (s *server) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func reject(status int, header ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	}
}

// fixture is a reporter with its ledger.
type fixture struct {
	*report.Reporter
	t *testing.T
	l *ledger.Mem
}

func newFixture(t *testing.T, config string, edit ...func(*report.Options)) *fixture {
	t.Helper()
	c, err := report.Parse("report.yaml", []byte(config), report.Secrets{Env: func(name string) string {
		if name == "HOOK" {
			return "https://hooks.example/secret"
		}
		return "value-of-" + name
	}})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, l: &ledger.Mem{}}
	opts := report.Options{Config: c, Ledger: f.l, MinBackoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond, Now: time.Now}
	for _, e := range edit {
		e(&opts)
	}
	if f.Reporter, err = report.New(opts); err != nil {
		t.Fatal(err)
	}
	return f
}

// request records a build of a commit as number seq of its ref.
func (f *fixture) request(host string, seq, nonce uint64, after string) events.Request {
	f.t.Helper()
	req := events.Request{
		Install: "test", Tenant: "acme", Trigger: "app", Sequence: seq, Nonce: nonce, Group: "app/refs/heads/main", Attempt: 1,
		Context: "git://x", Image: "reg.io/app", Change: events.Change{
			Kind: events.KindGit, Location: host + "/acme/shop", Name: "refs/heads/main", Before: strings.Repeat("0", 40), After: after,
		},
		Report: events.Report{Status: true, Notify: []string{"team"}},
	}
	req.BuildID = req.DeriveBuildID()
	f.record(req)
	return req
}

func (f *fixture) record(req events.Request) {
	f.t.Helper()
	data, err := record.Encode(req)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.l.Create(f.t.Context(), record.RequestKey(req.BuildID), data); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) started(req events.Request) {
	f.t.Helper()
	e, err := events.StartedEvent(req, time.Now())
	f.handle(e, err)
}

func (f *fixture) finished(req events.Request, res events.Result) {
	f.t.Helper()
	res.FinishedAt = time.Now()
	e, err := events.FinishedEvent(req, res, nil)
	f.handle(e, err)
}

func (f *fixture) handle(e event.Event, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.Handle(f.t.Context(), e); err != nil {
		f.t.Fatal(err)
	}
}

var (
	success   = events.Result{Outcome: events.OutcomeSuccess, Digest: digest}
	failed    = events.Result{Outcome: events.OutcomeFailed, Class: events.ClassBuild, Message: "RUN make failed:\nexit status 2"}
	cancelled = events.Result{Outcome: events.OutcomeCancelled, Class: events.ClassSuperseded, Reason: "superseded by x"}
)

// What each forge is asked, to the letter.
func TestForges(t *testing.T) {
	for kind, tc := range map[string]struct{ path, auth, pending, success, failure, cancelled string }{
		"github": {
			"/repos/acme/shop/statuses/" + commit, "Bearer value-of-TOKEN",
			"context=kiln/app | description=the image is being built | state=pending | target_url=https://kiln/b/%s",
			"context=kiln/app | description=built " + digest + " | state=success | target_url=https://kiln/b/%s",
			"context=kiln/app | description=RUN make failed: exit status 2 | state=failure | target_url=https://kiln/b/%s",
			"context=kiln/app | description=superseded by x | state=error | target_url=https://kiln/b/%s",
		},
		"gitlab": {
			"/projects/acme%2Fshop/statuses/" + commit, "value-of-TOKEN",
			"description=the image is being built | name=kiln/app | ref=main | state=running | target_url=https://kiln/b/%s",
			"description=built " + digest + " | name=kiln/app | ref=main | state=success | target_url=https://kiln/b/%s",
			"description=RUN make failed: exit status 2 | name=kiln/app | ref=main | state=failed | target_url=https://kiln/b/%s",
			"description=superseded by x | name=kiln/app | ref=main | state=canceled | target_url=https://kiln/b/%s",
		},
		"gitea": {
			"/repos/acme/shop/statuses/" + commit, "token value-of-TOKEN",
			"context=kiln/app | description=the image is being built | state=pending | target_url=https://kiln/b/%s",
			"context=kiln/app | description=built " + digest + " | state=success | target_url=https://kiln/b/%s",
			"context=kiln/app | description=RUN make failed: exit status 2 | state=failure | target_url=https://kiln/b/%s",
			"context=kiln/app | description=superseded by x | state=warning | target_url=https://kiln/b/%s",
		},
		"bitbucket": {
			"/repositories/acme/shop/commit/" + commit + "/statuses/build", "Bearer value-of-TOKEN",
			"description=the image is being built | key=kiln/app | name=kiln/app | refname=main | state=INPROGRESS | url=https://kiln/b/%s",
			"description=built " + digest + " | key=kiln/app | name=kiln/app | refname=main | state=SUCCESSFUL | url=https://kiln/b/%s",
			"description=RUN make failed: exit status 2 | key=kiln/app | name=kiln/app | refname=main | state=FAILED | url=https://kiln/b/%s",
			"description=superseded by x | key=kiln/app | name=kiln/app | refname=main | state=STOPPED | url=https://kiln/b/%s",
		},
		"bitbucket-datacenter": {
			"/rest/build-status/1.0/commits/" + commit, "Bearer value-of-TOKEN",
			"description=the image is being built | key=kiln/app | name=kiln/app | state=INPROGRESS | url=https://kiln/b/%s",
			"description=built " + digest + " | key=kiln/app | name=kiln/app | state=SUCCESSFUL | url=https://kiln/b/%s",
			"description=RUN make failed: exit status 2 | key=kiln/app | name=kiln/app | state=FAILED | url=https://kiln/b/%s",
			"description=superseded by x | key=kiln/app | name=kiln/app | state=FAILED | url=https://kiln/b/%s",
		},
	} {
		t.Run(kind, func(t *testing.T) {
			s := newServer(t)
			for n, end := range []struct {
				res  events.Result
				want string
			}{{success, tc.success}, {failed, tc.failure}, {cancelled, tc.cancelled}} {
				f := newFixture(t, fmt.Sprintf("detailsURL: 'https://kiln/b/{id}'\nforges: [{host: f.example, kind: %s, api: %s, tokenEnv: TOKEN}]", kind, s.URL))
				req := f.request("f.example", uint64(n+1), 0, commit)
				for range 2 { // events are sent at least once
					f.started(req)
				}
				for range 2 {
					f.finished(req, end.res)
				}
				f.started(req) // and late
				head := fmt.Sprintf("POST %s [%s] ", tc.path, tc.auth)
				want := []string{head + fmt.Sprintf(tc.pending, req.BuildID), head + fmt.Sprintf(end.want, req.BuildID)}
				if got := s.all()[2*n:]; !slices.Equal(got, want) {
					t.Errorf("asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
		})
	}
}

const github = "forges: [{host: github.com, api: %s, tokenEnv: T}]"

// Only the newest build of a commit says what becomes of it.
func TestNewestOnly(t *testing.T) {
	s := newServer(t)
	f := newFixture(t, fmt.Sprintf(github, s.URL))
	states := func() string {
		var list []string
		for _, a := range s.all() {
			_, state, _ := strings.Cut(a, "state=")
			list = append(list, a[strings.Index(a, "statuses/")+9:][:4]+":"+state)
		}
		return strings.Join(list, " ")
	}
	b1, a2, b3 := f.request("github.com", 1, 0, commit), f.request("github.com", 2, 0, other), f.request("github.com", 3, 0, commit)
	f.started(b1)
	f.started(a2)
	f.started(b3)
	f.finished(b3, success)
	f.finished(b1, cancelled) // late: of the same commit as the newest
	f.finished(a2, cancelled) // of another commit, which would stay pending
	again := f.request("github.com", 3, 1, commit)
	f.started(again)
	f.finished(b3, success)
	f.finished(again, failed)
	if got := states(); got != "199e:pending a108:pending 199e:pending 199e:success a108:error 199e:pending 199e:failure" {
		t.Error(got)
	}
}

// A build that has finished before anybody looks makes one status.
func TestCoalesced(t *testing.T) {
	s := newServer(t)
	f := newFixture(t, fmt.Sprintf(github, s.URL))
	req := f.request("github.com", 1, 0, commit)
	if _, err := f.l.Create(t.Context(), record.ResultKey(req.BuildID), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	f.started(req)
	f.finished(req, success)
	if got := s.all(); len(got) != 1 || !strings.Contains(got[0], "state=success") {
		t.Errorf("%q", got)
	}
}

// What fails is tried again, after as long as the forge asks for; what is
// refused is not.
func TestRetries(t *testing.T) {
	s := newServer(t)
	clock := time.Unix(1795400000, 0)
	f := newFixture(t, fmt.Sprintf("forges: [{host: g.example, kind: gitea, api: %s, tokenEnv: T}]", s.URL), func(o *report.Options) {
		o.Now = func() time.Time { // every look at the clock is ten seconds later
			clock = clock.Add(10 * time.Second)
			return clock
		}
	})
	req := f.request("g.example", 1, 0, commit)
	s.answers = []func(http.ResponseWriter){reject(500), reject(429, "Retry-After", "7"), reject(503)}
	f.finished(req, success)
	if n := len(s.all()); n != 4 {
		t.Errorf("%d requests", n)
	}
	for status, tries := range map[int]int{404: 1, 422: 1, 401: 1, 302: 1, 403: 6, 502: 6} {
		s := newServer(t)
		for range tries {
			s.answers = append(s.answers, reject(status))
		}
		f := newFixture(t, fmt.Sprintf("forges: [{host: g.example, kind: gitea, api: %s, tokenEnv: T}]", s.URL))
		f.finished(f.request("g.example", 1, 0, commit), success)
		if n := len(s.all()); n != tries {
			t.Errorf("status %d: %d requests, want %d", status, n, tries)
		}
	}
}

// Retry-After keeps everybody from the host that long.
func TestRetryAfter(t *testing.T) {
	s := newServer(t)
	f := newFixture(t, fmt.Sprintf("forges: [{host: g.example, kind: gitea, api: %s, tokenEnv: T}]", s.URL))
	s.answers = []func(http.ResponseWriter){reject(429, "Retry-After", "1")}
	begin := time.Now()
	f.finished(f.request("g.example", 1, 0, commit), success)
	if took := time.Since(begin); took < 900*time.Millisecond || len(s.all()) != 2 {
		t.Errorf("tried again after %s, %d requests", took, len(s.all()))
	}
}

// Builds whose trigger does not ask for it, objects and unknown hosts are left
// alone.
func TestNotAsked(t *testing.T) {
	s := newServer(t)
	f := newFixture(t, fmt.Sprintf(github, s.URL))
	silent := f.request("github.com", 1, 0, commit)
	silent.Sequence, silent.Report = 9, events.Report{}
	silent.BuildID = silent.DeriveBuildID()
	f.record(silent)
	f.finished(silent, success)
	f.finished(f.request("elsewhere.example", 1, 0, commit), success)
	e, err := events.FinishedEvent(events.Request{BuildID: strings.Repeat("0", 26), Install: "i", Tenant: "t", Trigger: "x"}, events.Result{Outcome: events.OutcomeError, FinishedAt: time.Now()}, nil)
	f.handle(e, err) // a build that nobody recorded
	if got := s.all(); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestNotifications(t *testing.T) {
	s := newServer(t)
	f := newFixture(t, `
detailsURL: https://kiln/b/{id}
notifications:
  - {name: team, urlEnv: HOOK, when: {changed: true}}
  - {name: nobody, urlEnv: HOOK}
`, func(o *report.Options) {
		o.Config.Notifications[0].URL, o.Config.Notifications[1].URL = s.URL+"/team", s.URL+"/nobody"
	})
	first := f.request("github.com", 1, 0, commit)
	f.finished(first, success) // as it should be: nothing has changed
	broken := f.request("github.com", 2, 0, other)
	for range 2 {
		f.finished(broken, failed)
	}
	f.finished(f.request("github.com", 3, 0, commit), cancelled)
	f.finished(f.request("github.com", 4, 0, other), failed) // still
	mended := f.request("github.com", 5, 0, commit)
	f.finished(mended, success)
	f.finished(f.request("github.com", 4, 1, other), failed) // late, and not the newest
	want := []string{
		"POST /team [] text=❌ app: failed (build) of github.com/acme/shop refs/heads/main at a10867b14bb7\nRUN make failed:\nexit status 2\nhttps://kiln/b/" + broken.BuildID,
		"POST /team [] text=✅ app: success of github.com/acme/shop refs/heads/main at 199eddf46df5\nreg.io/app@" + digest + "\nhttps://kiln/b/" + mended.BuildID,
	}
	if got := s.all(); !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTemplatesAndFilters(t *testing.T) {
	s := newServer(t)
	f := newFixture(t, `
notifications:
  - name: team
    urlEnv: HOOK
    body: '{"title": {{ .Build.Trigger | upper | json }}, "why": {{ .Message | json }}, "new": {{ .Changed }}}'
    when: {outcomes: [failed, error], triggers: [app]}
`, func(o *report.Options) { o.Config.Notifications[0].URL = s.URL })
	f.finished(f.request("github.com", 1, 0, commit), success)
	f.finished(f.request("github.com", 2, 0, other), failed)
	if got := s.all(); len(got) != 1 || got[0] != "POST / [] new=true | title=APP | why=RUN make failed:\nexit status 2" {
		t.Errorf("%q", got)
	}
}

func TestConfigErrors(t *testing.T) {
	secrets := report.Secrets{
		Env:  func(name string) string { return map[string]string{"T": "x"}[name] },
		File: func(string) ([]byte, error) { return nil, io.ErrUnexpectedEOF },
	}
	for in, want := range map[string]string{
		"forges: [{host: github.com}]":                                               "token of github.com: name a file or a variable",
		"forges: [{host: github.com, tokenEnv: GONE}]":                               "variable GONE is empty",
		"forges: [{host: github.com, tokenFile: /x}]":                                "unexpected EOF",
		"forges: [{host: github.com, tokenFile: /x, tokenEnv: T}]":                   "not both",
		"forges: [{host: git.example, tokenEnv: T}]":                                 `kind "" of git.example is none of`,
		"forges: [{host: bitbucket.org, tokenEnv: T}]":                               "set detailsURL",
		"forges: [{host: github.com, api: nowhere, tokenEnv: T}]":                    "no address",
		"forges: [{host: github.com, tokenEnv: T}, {host: github.com, tokenEnv: T}]": "there twice",
		"forges: [{host: github.com/acme, tokenEnv: T}]":                             "is not one such as",
		"forgez: []":             "line 1: field forgez not found",
		"detailsURL: https://x/": "with {id}",
		"notifications: [{name: a b, url: 'http://x'}]":                          "is not one of letters",
		"notifications: [{name: a, url: x}]":                                     "no address",
		"notifications: [{name: a, url: 'http://x', text: '{{ .Nope }}'}]":       "Nope",
		"notifications: [{name: a, url: 'http://x', text: '{{'}]":                "template of a",
		"notifications: [{name: a, url: 'http://x', body: '{{ .Message }}'}]":    "yields no JSON",
		"notifications: [{name: a, url: 'http://x', text: a, body: b}]":          "both text and body",
		"notifications: [{name: a, url: 'http://x', when: {outcomes: [great]}}]": "great",
	} {
		if _, err := report.Parse("f", []byte(in), secrets); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		}
	}
	if _, err := report.Parse("f", nil, secrets); err != nil {
		t.Errorf("nothing: %v", err)
	}
}
