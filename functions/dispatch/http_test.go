package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/pubsub"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// request is one that a test sends.
type request struct {
	path   string
	header map[string]string
	body   string
}

// send sends a request and returns the status, the answer and the header.
func send(t testing.TB, h http.Handler, r request) (int, answer, http.Header) {
	t.Helper()
	req := httptest.NewRequest(http.MethodPost, r.path, strings.NewReader(r.body))
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	var a answer
	if rec.Header().Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil {
			t.Fatalf("answer %s: %v", rec.Body, err)
		}
	}
	return rec.Code, a, rec.Header()
}

// Every kind of request and the answer it gets.
func TestAnswers(t *testing.T) {
	unsigned := gitHub("push", pushBody(none, "a"))
	unsigned.header["X-Hub-Signature-256"] = "sha256=" + strings.Repeat("0", 64)
	form := gitHub("push", "payload=%7B%7D")
	form.header["Content-Type"] = "application/x-www-form-urlencoded"
	forged := giteaHook("push", pushBody(none, "a"))
	forged.header["X-Forgejo-Signature"] = strings.Repeat("0", 64)
	unsignedPush := bitbucketHook("repo:push", bitbucketBody("main"))
	delete(unsignedPush.header, "X-Hub-Signature")
	structured := request{"/events/in", map[string]string{"Content-Type": "application/cloudevents+json"},
		`{"specversion":"1.0","id":"1","type":"dev.kilnhook.build.finished.v1","source":"/s"}`}
	otherRepo := changed(t, events.Change{Kind: events.KindGit, Location: "h/other", Name: "refs/heads/main", Before: id(none), After: id("a")})

	for name, tc := range map[string]struct {
		request request
		status  int
		says    string // in the answer
	}{
		"github push":           {gitHub("push", pushBody(none, "a")), 202, "new"},
		"github ping":           {gitHub("ping", `{"zen":"x"}`), 200, "event is ping"},
		"github delete":         {gitHub("push", pushBody("a", none)), 200, "never built"},
		"github wrong":          {unsigned, 401, "signature"},
		"github form":           {form, 400, "application/json"},
		"github not json":       {gitHub("push", "{"), 400, "GitHub push"},
		"git lines":             {lines(id(none) + " " + id("a") + " refs/heads/main\n"), 202, "new"},
		"git nothing":           {lines("\n"), 200, "no ref"},
		"git garbage":           {lines("garbage\n"), 400, "line 1"},
		"s3":                    {request{"/hooks/s3", nil, s3Body}, 200, "no trigger matches"},
		"s3 test":               {request{"/hooks/s3", nil, `{"Event":"s3:TestEvent"}`}, 200, "tests"},
		"s3 bridge":             {request{"/hooks/s3", nil, `{"detail-type":"Object Created","source":"aws.s3","detail":{"bucket":{"name":"b"},"object":{"key":"k","size":3,"etag":"e"}}}`}, 200, "no trigger matches"},
		"s3 garbage":            {request{"/hooks/s3", nil, `[]`}, 400, "S3"},
		"gcs":                   {finalized(gcsObject), 202, "new"},
		"gcs empty":             {finalized(strings.Replace(gcsObject, `"3"`, `"0"`, 1)), 200, "empty"},
		"azure":                 {blobCreated("PutBlob"), 200, "no trigger matches"},
		"azure not whole":       {blobCreated("CreateFile"), 200, "CreateFile"},
		"azure garbage":         {blobCreated(""), 400, "api"},
		"knative github":        {knativeEvent("dev.knative.source.github.push", pushBody(none, "a")), 202, "new"},
		"knative gitlab":        {knativeEvent("dev.knative.sources.gitlab.push", gitLabBody("push", none, "a")), 202, "new"},
		"adapter of github":     {knativeEvent("com.github.push", pushBody(none, "a")), 202, "new"},
		"knative issue":         {knativeEvent("dev.knative.source.github.issues", "{}"), 200, "not a push"},
		"knative garbage":       {knativeEvent("com.github.push", "{"), 400, "GitHub push"},
		"pubsub event":          {inMessage(changed(t, ref(none, "a", 1))), 202, "new"},
		"pubsub knative":        {inMessage(knativeEvent("com.github.push", pushBody(none, "a"))), 202, "new"},
		"pubsub event garbage":  {inMessage(knativeEvent("com.github.push", "{")), 200, "GitHub push"},
		"pubsub bare":           {bareMessage(changed(t, ref(none, "a", 1))), 202, "new"},
		"pubsub bare garbage":   {bareMessage(knativeEvent("com.github.push", "{")), 200, "GitHub push"},
		"gcs garbage":           {finalized("x"), 400, "Cloud Storage"},
		"pubsub":                {pubSub(gcsObject), 202, "new"},
		"pubsub garbage":        {pubSub("x"), 200, "Cloud Storage"}, // or it would come for ever
		"source.changed git":    {changed(t, ref(none, "a", 1)), 202, "new"},
		"source.changed object": {changed(t, object("1", 1)), 202, "new"},
		"source.changed other":  {otherRepo, 200, "no trigger matches"},
		"our own event":         {structured, 200, "nothing is built for events of type dev.kilnhook.build.finished.v1"},
		"no event":              {request{"/events/in", map[string]string{"Content-Type": "application/json"}, "{}"}, 400, "no message"},
		"no such door":          {request{"/hooks/gogs", nil, "{}"}, 404, ""},
		"gitlab push":           {gitLab("s3cr3t", gitLabBody("push", none, "a")), 202, "new"},
		"gitlab delete":         {gitLab("s3cr3t", gitLabBody("push", "a", none)), 200, "never built"},
		"gitlab other":          {gitLab("s3cr3t", gitLabBody("issue", none, "a")), 200, "event is issue"},
		"gitlab wrong":          {gitLab("secret", gitLabBody("push", none, "a")), 401, "token"},
		"gitea push":            {giteaHook("push", pushBody(none, "a")), 202, "new"},
		"gitea delete":          {giteaHook("delete", `{"ref":"main","ref_type":"branch","repository":{"clone_url":"https://h/r.git"}}`), 200, "never built"},
		"gitea create":          {giteaHook("create", "{}"), 200, "event is create"},
		"gitea forged":          {forged, 401, "signature"},
		"gitea garbage":         {giteaHook("push", "{"), 400, "Gitea push"},
		"bitbucket push":        {bitbucketHook("repo:push", bitbucketBody("main")), 202, "new"},
		"bitbucket other":       {bitbucketHook("diagnostics:ping", "{}"), 200, "diagnostics:ping"},
		"bitbucket wrong":       {unsignedPush, 401, "signature"},
		"bitbucket garbage":     {bitbucketHook("repo:push", "{"), 400, "Bitbucket push"},
		"gitlab garbage":        {gitLab("s3cr3t", "{"), 400, "GitLab push"},
	} {
		w := newWorld(new(ledger.Mem))
		status, a, _ := send(t, w.dispatcher(t).Handler(), tc.request)
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if status != tc.status || !strings.Contains(string(text), tc.says) {
			t.Errorf("%s: %d %s, want %d with %q", name, status, text, tc.status, tc.says)
		}
		if (status == 202) != (len(w.launches) == 1) {
			t.Errorf("%s: answered %d with launches %v", name, status, w.launches)
		}
		if kept := w.keys(t, "poison/"); (len(kept) == 1) != (status == 400 || strings.HasPrefix(name, "pubsub") && strings.HasSuffix(name, "garbage")) {
			t.Errorf("%s: kept %v", name, kept)
		}
	}
}

// A redelivery is answered with the same build, and what GitHub said about the
// delivery and the trace is in the request.
func TestRedeliveryIsAccepted(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	h := w.dispatcher(t).Handler()
	_, first, _ := send(t, h, gitHub("push", pushBody(none, "a")))
	status, second, _ := send(t, h, gitHub("push", pushBody(none, "a")))
	if status != 202 || second.Builds[0].Status != StatusDuplicate || second.Builds[0].BuildID != first.Builds[0].BuildID || len(w.launches) != 1 {
		t.Errorf("%d %+v after %+v", status, second, first)
	}
	req := w.running[first.Builds[0].BuildID]
	if req.Change.Delivery != "guid-1" || req.TraceParent != "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" {
		t.Errorf("request %+v", req)
	}
}

// One push of two refs is two builds, in one answer.
func TestSeveralChanges(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	body := id(none) + " " + id("a") + " refs/heads/main\n" + id(none) + " " + id("a") + " refs/tags/v1\n" + id("b") + " " + id(none) + " refs/heads/old\n"
	status, a, _ := send(t, w.dispatcher(t).Handler(), lines(body))
	if status != 202 || len(a.Builds) != 3 || len(w.launches) != 2 {
		t.Errorf("%d %+v", status, a)
	}
}

// Several refs of one webhook are as many builds.
func TestSeveralChangesOfBitbucket(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	status, a, _ := send(t, w.dispatcher(t).Handler(), bitbucketHook("repo:push", bitbucketBody("main", "next")))
	if status != 202 || len(a.Builds) != 2 || len(w.launches) != 2 {
		t.Errorf("%d %+v", status, a)
	}
}

// Whoever runs the stack is told how to confirm a subscription; who asks is not.
func TestConfirmationIsLogged(t *testing.T) {
	const address = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"
	var log strings.Builder
	w := newWorld(new(ledger.Mem))
	h := w.dispatcher(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }).Handler()
	status, a, _ := send(t, h, request{"/hooks/s3", nil, `{"Type":"SubscriptionConfirmation","TopicArn":"arn:t","SubscribeURL":"` + address + `"}`})
	if status != 200 || strings.Contains(a.Ignored, address) || !strings.Contains(log.String(), address) {
		t.Errorf("%d %+v, log %s", status, a, log.String())
	}
}

// What fails here and now is answered so that it comes again, and says nothing
// about our insides.
func TestInfrastructureErrors(t *testing.T) {
	for step, tc := range map[string]struct {
		err    error
		status int
	}{
		"before launch": {errors.New("https://10.0.0.1: connection refused"), 503},
		"after launch":  {fmt.Errorf("jobs: %w", ErrQuota), 429},
		"before swap":   {errors.New("disk full"), 503},
		"before create": {errors.New("disk full"), 503},
		"before publish " + events.TypeBuildRequested: {errors.New("bus is down"), 503},
	} {
		w := newWorld(new(ledger.Mem))
		w.Fault = func(s string) error {
			if strings.HasPrefix(s, step) {
				return tc.err
			}
			return nil
		}
		status, a, header := send(t, w.dispatcher(t).Handler(), gitHub("push", pushBody(none, "a")))
		if status != tc.status || header.Get("Retry-After") == "" || len(a.Builds) != 0 {
			t.Errorf("%s: %d %+v, Retry-After %q", step, status, a, header.Get("Retry-After"))
		}
		if strings.Contains(a.Error, "10.0.0.1") || strings.Contains(a.Error, "disk") {
			t.Errorf("%s: the answer tells %q", step, a.Error)
		}
		w.Fault = nil
		status, _, _ = send(t, w.dispatcher(t).Handler(), gitHub("push", pushBody(none, "a")))
		if status != 202 || len(w.running) != 1 {
			t.Errorf("%s: then %d, running %d", step, status, len(w.running))
		}
	}
}

// A poisonous message of Pub/Sub is told to be fine only once it is kept.
func TestPoisonIsKeptBeforeItIsAccepted(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	w.Fault = func(s string) error {
		if strings.HasPrefix(s, "before create poison/") {
			return errors.New("disk full")
		}
		return nil
	}
	if status, _, _ := send(t, w.dispatcher(t).Handler(), pubSub("x")); status != 503 {
		t.Errorf("not kept: %d", status)
	}
	if status, _, _ := send(t, w.dispatcher(t).Handler(), gitHub("push", "{")); status != 400 {
		t.Errorf("a forge does not repeat: %d", status)
	}
}

// What is kept of a poisonous request is what one needs to find the fault, and
// no credential; the same request again is kept once.
func TestPoisonRecord(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	r := gitHub("push", `{"ref":`)
	r.header["Authorization"] = "Bearer hunter2"
	r.header["Cookie"] = "hunter2"
	for range 3 {
		send(t, w.dispatcher(t).Handler(), r)
	}
	keys := w.keys(t, "poison/")
	if len(keys) != 1 {
		t.Fatalf("kept %v", keys)
	}
	raw, _, err := w.Get(t.Context(), keys[0])
	if err != nil || strings.Contains(string(raw), "hunter2") || strings.Contains(strings.ToLower(string(raw)), "signature") {
		t.Errorf("%s, %v", raw, err)
	}
	var p record.Poison
	if _, err := record.Load(t.Context(), w, keys[0], &p); err != nil || string(p.Body) != `{"ref":` || p.Door != "/hooks/github" || p.Header["X-Github-Event"] != "push" {
		t.Errorf("%+v, %v", p, err)
	}
	if rejected := w.rejections(); len(rejected) != 1 {
		t.Errorf("rejections %v", rejected)
	}
	r = gitHub("push", "{"+strings.Repeat(" ", maxPoison))
	send(t, w.dispatcher(t).Handler(), r)
	for _, key := range w.keys(t, "poison/") {
		var p record.Poison
		if _, err := record.Load(t.Context(), w, key, &p); err != nil || len(p.Body) > maxPoison || p.Cut != (len(p.Body) == maxPoison) {
			t.Errorf("%d bytes, cut %t, %v", len(p.Body), p.Cut, err)
		}
	}
}

// Who is not let in leaves nothing behind, also with a malformed body.
func TestUnauthorisedLeavesNothing(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	h := w.dispatcher(t, func(c *Config) { c.Tokens = []string{"t0ken"} }).Handler()
	good := changed(t, ref(none, "a", 1))
	for name, r := range map[string]request{
		"github": {"/hooks/github", nil, "{"}, "git": lines("garbage"), "s3": {"/hooks/s3", nil, "{"}, "events": good, "events, malformed": {"/events/in", nil, "{"},
	} {
		if status, a, _ := send(t, h, r); status != 401 || a.Error == "" {
			t.Errorf("%s: %d %+v", name, status, a)
		}
	}
	if keys := w.keys(t, ""); len(keys) != 0 {
		t.Errorf("left %v", keys)
	}
	good.header["Authorization"] = "Bearer t0ken"
	if status, _, _ := send(t, h, good); status != 202 {
		t.Errorf("with the token: %d", status)
	}
	closed := w.dispatcher(t, func(c *Config) { c.GitHubSecrets = nil }).Handler()
	if status, _, _ := send(t, closed, gitHub("ping", "{}")); status != 401 {
		t.Errorf("without a secret the door is open: %d", status)
	}
}

// Whose identity is known is let in without a token; where that cannot be known
// now, the sender comes again. Nothing is read before.
func TestIdentity(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	h := w.dispatcher(t, func(c *Config) {
		c.Tokens = []string{"t0ken"}
		c.Identity = func(_ context.Context, h http.Header) error {
			switch h.Get("Authorization") {
			case "Bearer known":
				return nil
			case "Bearer unclear":
				return errors.New("the issuer is down")
			}
			return source.ErrUnauthorised
		}
	}).Handler()
	for authorization, want := range map[string]int{"": 401, "Bearer x": 401, "Bearer unclear": 503, "Bearer t0ken": 202, "Bearer known": 202} {
		for _, r := range []request{changed(t, ref(none, "a", 1)), {"/events/in", map[string]string{}, "{"}} {
			r.header["Authorization"] = authorization
			malformed := r.body == "{"
			if status, _, _ := send(t, h, r); status != want && !(malformed && want == 202 && status == 400) {
				t.Errorf("%q: %d, want %d", authorization, status, want)
			}
		}
	}
}

// A message that was fetched may be acknowledged when what it tells is durable,
// there is nothing to build, or it is put aside; otherwise it comes again.
func TestDeliver(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	d := w.dispatcher(t)
	envelope, err := pubsub.Envelope("projects/p/subscriptions/s", "7", at(1),
		map[string]string{"eventType": "OBJECT_FINALIZE", "bucketId": "b", "objectId": "k", "objectGeneration": "1", "payloadFormat": "NONE"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Deliver(t.Context(), DoorPubSub, http.Header{}, envelope); err != nil || len(w.launches) != 1 {
		t.Errorf("a notification: %v, %d launches", err, len(w.launches))
	}
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	traced := strings.NewReplacer(`"objectId":"k"`, `"objectId":"k2","ce-traceparent":"`+trace+`"`).Replace(string(envelope))
	if err := d.Deliver(t.Context(), DoorPubSub, http.Header{}, []byte(traced)); err != nil || w.running[w.launches[1]].TraceParent != trace {
		t.Errorf("a traced notification: %v, %+v", err, w.running[w.launches[1]])
	}
	for door, body := range map[string]string{DoorSQS: `{"Event":"s3:TestEvent","Service":"Amazon S3"}`, DoorPubSub: `{"subscription":"s","message":{"attributes":{"eventType":"OBJECT_DELETE","bucketId":"b","objectId":"k"}}}`} {
		if err := d.Deliver(t.Context(), door, http.Header{}, []byte(body)); err != nil {
			t.Errorf("%s: nothing to build: %v", door, err)
		}
	}
	if keys := w.keys(t, "poison/"); len(keys) != 0 {
		t.Errorf("put aside %v", keys)
	}
	if err := d.Deliver(t.Context(), DoorSQS, http.Header{}, []byte("{")); err != nil || len(w.keys(t, "poison/")) != 1 {
		t.Errorf("what cannot be understood: %v, put aside %v", err, w.keys(t, "poison/"))
	}
	w.Fault = func(step string) error {
		if strings.HasPrefix(step, "before create") {
			return errors.New("disk full")
		}
		return nil
	}
	if err := d.Deliver(t.Context(), DoorSQS, http.Header{}, []byte("[")); err == nil {
		t.Error("what could not be put aside was acknowledged")
	}
	next := strings.Replace(string(envelope), `"objectGeneration":"1"`, `"objectGeneration":"2"`, 1)
	if err := d.Deliver(t.Context(), DoorPubSub, http.Header{}, []byte(next)); err == nil {
		t.Error("what is not in the ledger was acknowledged")
	}
}

// A body beyond the limit is refused, without being read to its end.
func TestBodyLimit(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	endless := &countingReader{}
	req := httptest.NewRequest(http.MethodPost, "/hooks/github", endless)
	rec := httptest.NewRecorder()
	w.dispatcher(t).Handler().ServeHTTP(rec, req)
	if rec.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d", rec.Code)
	}
	if endless.n > MaxBody+1<<20 {
		t.Errorf("%d bytes were read", endless.n)
	}
	req = httptest.NewRequest(http.MethodPost, "/hooks/github", io.MultiReader(strings.NewReader("{"), brokenReader{}))
	rec = httptest.NewRecorder()
	w.dispatcher(t).Handler().ServeHTTP(rec, req)
	if rec.Code != http.StatusBadRequest || len(w.keys(t, "")) != 0 {
		t.Errorf("a body that breaks off: status %d", rec.Code)
	}
}

// countingReader never ends.
type countingReader struct{ n int64 }

func (r *countingReader) Read(p []byte) (int, error) {
	r.n += int64(len(p))
	return len(p), nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestOnlyPost(t *testing.T) {
	h := newWorld(new(ledger.Mem)).dispatcher(t).Handler()
	req := httptest.NewRequest(http.MethodGet, "/hooks/github", nil)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", rec.Code)
	}
}

func TestTraceParent(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for v, want := range map[string]string{
		good: good, "": "", "x": "", good + "0": "", strings.ToUpper(good): "", strings.Replace(good, "-", "_", 1): "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7\r\n01": "",
	} {
		if got := traceParent(http.Header{"Traceparent": {v}}); got != want {
			t.Errorf("%q: %q", v, got)
		}
	}
	if got := traceParent(http.Header{"Traceparent": {"x"}, "Ce-Traceparent": {good}}); got != good {
		t.Errorf("of the event: %q", got)
	}
}

// Beyond a number of requests at once, a sender is told to come again, and
// nothing of its request is kept.
func TestTooManyAtOnce(t *testing.T) {
	w := newWorld(new(ledger.Mem))
	entered, leave := make(chan struct{}), make(chan struct{})
	w.Fault = func(step string) error {
		if step == "before launch" {
			close(entered)
			<-leave
		}
		return nil
	}
	h := w.dispatcher(t, func(c *Config) { c.MaxInFlight = 1 }).Handler()
	first := make(chan int)
	go func() { status, _, _ := send(t, h, changed(t, object("1", 1))); first <- status }()
	<-entered
	status, _, header := send(t, h, changed(t, object("2", 2)))
	if status != http.StatusTooManyRequests || header.Get("Retry-After") == "" {
		t.Errorf("the second at once: %d %v", status, header)
	}
	close(leave)
	if status := <-first; status != http.StatusAccepted {
		t.Errorf("the first: %d", status)
	}
	w.Fault = nil
	if status, _, _ := send(t, h, changed(t, object("2", 2))); status != http.StatusAccepted {
		t.Errorf("sent again: %d", status)
	}
}
