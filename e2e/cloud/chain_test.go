package cloud

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gpubsub "cloud.google.com/go/pubsub/v2"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/pull/pubsub"
)

const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// notified is whoever BuildFinished posts to.
func notified(t *testing.T) (url string, got chan http.Header) {
	t.Helper()
	key, err := bus.ParseSecret(secret)
	check(t, err)
	got = make(chan http.Header, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seconds, err := strconv.ParseInt(r.Header.Get("Webhook-Timestamp"), 10, 64)
		if err != nil || r.Header.Get("Webhook-Signature") != bus.Sign(key, r.Header.Get("Webhook-Id"), time.Unix(seconds, 0), body) {
			t.Errorf("a notification is not signed as it should be: %v", r.Header)
		}
		got <- r.Header
	}))
	t.Cleanup(server.Close)
	return server.URL, got
}

// The whole way: bucket, notification, topic, push, function, dispatcher,
// executor, registry, topic, push without a wrapper, function, webhook. Every
// upload is told twice, and built once.
func TestChain(t *testing.T) {
	c := newCloud(t, "uploads", "builds", "dead")
	c.notify(t, "uploads")
	c.notify(t, "uploads") // so that every upload is two messages
	dispatcher := c.dispatcher(t)
	upload := c.function(t, "BucketUpload", "KILN_CHANGES="+dispatcher+"/events/in", "KILN_TOKEN=t0ken")
	to, got := notified(t)
	finished := c.function(t, "BuildFinished", "KILN_NOTIFY_URL="+to, "KILN_NOTIFY_SECRET="+secret)
	c.subscribe(t, "uploads-to-function", "uploads", upload+"/projects/"+project+"/topics/uploads", true)
	c.subscribe(t, "builds-to-function", "builds", finished, false)
	c.subscribe(t, "watch", "builds", "", true)
	c.subscribe(t, "dead", "dead", "", true)
	builds, dead := c.receive(t, "watch"), c.receive(t, "dead")

	generation := c.upload(t, "shop.tar.gz", app(t, "first"))
	eventually(t, "build.finished is on the topic", func() bool { return len(builds.of("ce-type", events.TypeBuildFinished)) > 0 })
	m := builds.of("ce-type", events.TypeBuildFinished)[0]
	var data events.Finished
	check(t, json.Unmarshal(m.Data, &data))
	if data.Outcome != events.OutcomeSuccess || data.Source.Generation != generation || m.Attributes["ce-outcome"] != "success" {
		t.Fatalf("the build ended with %s: %+v", m.Data, m.Attributes)
	}
	digest := m.Attributes["ce-imagedigest"]
	if word := built(t, c.registry+"/app@"+digest); word != "first\n" {
		t.Errorf("the image holds %q", word)
	}
	if tagged, err := remote.Head(tag(t, c.registry+"/app:shop")); err != nil || tagged.Digest.String() != digest {
		t.Errorf("tag: %v, %v", tagged, err)
	}
	select {
	case h := <-got:
		if h.Get("Ce-Imagedigest") != digest || h.Get("Ce-Id") != m.Attributes["ce-id"] {
			t.Errorf("notified with %v", h)
		}
	case <-time.After(patience):
		t.Error("nobody was notified")
	}
	eventually(t, "CDEvents tell of the artifact", func() bool { return len(builds.of("ce-type", "dev.cdevents.artifact.published.0.3.0")) > 0 })

	c.upload(t, "shop.tar.gz", app(t, "second"))
	eventually(t, "the second build is finished", func() bool { return len(ids(builds.of("ce-type", events.TypeBuildFinished))) == 2 })
	time.Sleep(3 * time.Second) // for builds that should not be
	if requested := ids(builds.of("ce-type", events.TypeBuildRequested)); len(requested) != 2 {
		t.Errorf("two uploads, told twice each, are the builds %v", requested)
	}
	if dead := dead.of("bucketId", "contexts"); len(dead) != 0 {
		t.Errorf("%d messages are dead", len(dead))
	}
	if get(t, "http://"+c.storage+"/storage/v1/b/ledger/o?prefix=kiln/builds/"+m.Attributes["ce-buildid"]+"/emitted.json"); t.Failed() {
		return
	}
}

// ids are the different ids of events.
func ids(messages []*gpubsub.Message) map[string]bool {
	all := map[string]bool{}
	for _, m := range messages {
		all[m.Attributes["ce-id"]] = true
	}
	return all
}

func tag(t *testing.T, ref string) name.Tag {
	t.Helper()
	tag, err := name.NewTag(ref)
	check(t, err)
	return tag
}

// built pulls an image and returns what its RUN wrote.
func built(t *testing.T, ref string) string {
	t.Helper()
	digest, err := name.NewDigest(ref)
	check(t, err)
	img, err := remote.Image(digest)
	check(t, err)
	content := mutate.Extract(img)
	defer content.Close()
	for tr := tar.NewReader(content); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("%s has no /built", ref)
		}
		check(t, err)
		if strings.TrimPrefix(h.Name, "/") == "built" {
			text, err := io.ReadAll(tr)
			check(t, err)
			return string(text)
		}
	}
}

// A dispatcher that is pushed to without a function, with the wrapper and without
// it, and that pulls as well, makes one build of all of that.
func TestPushAndPull(t *testing.T) {
	c := newCloud(t, "uploads", "builds", "dead")
	c.notify(t, "uploads")
	c.subscribe(t, "pulled", "uploads", "", true)
	c.subscribe(t, "watch", "builds", "", true)
	builds := c.receive(t, "watch")
	dispatcher := c.dispatcher(t, "--pull", "pubsub://"+project+"/pulled")
	var accepted atomic.Int32
	// The emulator sends no tokens, so this stands for the platform in front.
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), r.Method, dispatcher+"/events/in", r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header = r.Header.Clone()
		req.Header.Set("Authorization", "Bearer t0ken")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusAccepted {
			accepted.Add(1)
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	defer front.Close()
	c.subscribe(t, "wrapped", "uploads", front.URL, true)
	c.subscribe(t, "bare", "uploads", front.URL, false)

	c.upload(t, "direct.tar.gz", app(t, "direct"))
	eventually(t, "the build is finished", func() bool { return len(builds.of("ce-type", events.TypeBuildFinished)) > 0 })
	eventually(t, "both pushes are accepted", func() bool { return accepted.Load() >= 2 })
	if requested := ids(builds.of("ce-type", events.TypeBuildRequested)); len(requested) != 1 {
		t.Errorf("one upload is the builds %v", requested)
	}
	if outcome := builds.of("ce-type", events.TypeBuildFinished)[0].Attributes["ce-outcome"]; outcome != "success" {
		t.Errorf("outcome %s", outcome)
	}
}

// What a function cannot pass on comes again and again, and then lies with the
// dead letters as it came; what is given back by a puller as well.
func TestDeadLetters(t *testing.T) {
	c := newCloud(t, "uploads", "builds", "dead")
	c.subscribe(t, "dead", "dead", "", true)
	dead := c.receive(t, "dead")
	var attempts atomic.Int32
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		attempts.Add(1)
		w.WriteHeader(http.StatusUnprocessableEntity) // at once, and not after the function's own attempts
	}))
	defer down.Close()
	upload := c.function(t, "BucketUpload", "KILN_CHANGES="+down.URL+"/events/in")
	c.subscribe(t, "uploads-to-function", "uploads", upload+"/projects/"+project+"/topics/uploads", true)
	c.notify(t, "uploads")
	c.upload(t, "lost.tar.gz", map[string][]byte{"Dockerfile": []byte("FROM scratch\n")})
	eventually(t, "the message is dead", func() bool { return len(dead.of("objectId", "lost.tar.gz")) > 0 })
	m := dead.of("objectId", "lost.tar.gz")[0]
	if m.Attributes["eventType"] != "OBJECT_FINALIZE" || m.Attributes["bucketId"] != "contexts" || !strings.Contains(string(m.Data), "lost.tar.gz") {
		t.Errorf("dead message %v %s", m.Attributes, m.Data)
	}
	if n := attempts.Load(); n < 5 {
		t.Errorf("it was tried %d times", n)
	}

	c.subscribe(t, "pulled", "builds", "", true)
	var good, bad atomic.Int32
	p, err := pubsub.Open(t.Context(), pubsub.Options{Project: project, Subscription: "pulled", Address: c.pubsub, Deliver: func(_ context.Context, _ http.Header, body []byte) error {
		if strings.Contains(string(body), `"kind":"good"`) {
			if good.Add(1) < 3 {
				return errors.New("not yet")
			}
			return nil
		}
		bad.Add(1)
		return errors.New("never")
	}})
	check(t, err)
	defer p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	topic := c.client.Publisher("builds")
	defer topic.Stop()
	for _, kind := range []string{"good", "bad"} {
		_, err := topic.Publish(t.Context(), &gpubsub.Message{Data: []byte("x"), Attributes: map[string]string{"kind": kind}}).Get(t.Context())
		check(t, err)
	}
	eventually(t, "the bad message is dead", func() bool { return len(dead.of("kind", "bad")) > 0 })
	eventually(t, "the good message was handled", func() bool { return good.Load() >= 3 })
	cancel()
	check(t, <-done)
	if bad.Load() < 5 || len(dead.of("kind", "good")) != 0 {
		t.Errorf("the bad one was tried %d times, %d good ones are dead", bad.Load(), len(dead.of("kind", "good")))
	}
}
