package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/port"

	gpubsub "cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/sourcetest"
	"github.com/kilnhook/kiln/infra/bus"
	buspubsub "github.com/kilnhook/kiln/infra/bus/pubsub"
)

// serveVariable tells this test binary that it runs as the program.
const serveVariable = "KILN_TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	if err := serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stop()
	os.Exit(0)
}

// start runs a function as a process of the functions framework and returns its
// URL.
func start(t *testing.T, function string, env ...string) string {
	t.Helper()
	address := port.Free(t)
	_, number, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append([]string{serveVariable + "=1", "FUNCTION_TARGET=" + function, "PORT=" + number, "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	cmd.Stderr, cmd.Stdout = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return "http://" + address
		}
		if time.Now().After(deadline) {
			t.Fatal("the function does not listen")
		}
	}
}

// post sends a request and returns the status and the answer.
func post(t *testing.T, url string, h http.Header, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = h
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// receiver gets events and answers with a status.
type receiver struct {
	*httptest.Server
	got    chan received
	status int
}

type received struct {
	event  event.Event
	header http.Header
	body   []byte
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{got: make(chan received, 100), status: http.StatusAccepted}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		e, err := events.DecodeHTTP(req.Header, body)
		if err != nil {
			t.Error(err)
		}
		r.got <- received{e, req.Header, body}
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

// change is the next event that came, as a change.
func (r *receiver) change(t *testing.T) (events.Change, http.Header) {
	t.Helper()
	select {
	case got := <-r.got:
		c, err := source.ChangeOf(got.event)
		if err != nil {
			t.Fatal(err)
		}
		return c, got.header
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was passed on")
		return events.Change{}, nil
	}
}

// An object is passed on as the same change whether it comes by Eventarc or by a
// raw push, of which the framework makes an event; a dispatcher that refuses or
// is down makes the sender come again.
func TestBucketUpload(t *testing.T) {
	to := newReceiver(t)
	url := start(t, "BucketUpload", "KILN_CHANGES="+to.URL+"/events/in", "KILN_TOKEN=t0ken")
	var keys []string
	for _, name := range []string{"eventarc", "pubsub"} {
		h, body := sourcetest.Request(t, "../../../events/source/gcs/testdata/"+name+".http")
		if status, text := post(t, url, h, body); status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, status, text)
		}
		c, header := to.change(t)
		if header.Get("Authorization") != "Bearer t0ken" || c.Delivery != "7408162483014213" || c.Generation != "1587627537231057" {
			t.Errorf("%s: %+v with %v", name, c, header)
		}
		keys = append(keys, c.Key())
	}
	if keys[0] != keys[1] {
		t.Errorf("the keys differ: %q", keys)
	}
	h, body := sourcetest.Request(t, "../../../events/source/gcs/testdata/eventarc_deleted.http")
	if status, text := post(t, url, h, body); status != http.StatusOK || len(to.got) != 0 {
		t.Errorf("what calls for no build: %d %s", status, text)
	}
	h, body = sourcetest.Request(t, "../../../events/source/gcs/testdata/pubsub_bad_data.http")
	if status, _ := post(t, url, h, body); status != http.StatusInternalServerError {
		t.Errorf("what cannot be read: %d, want the sender to keep it", status)
	}
	for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized} {
		to.status = status
		h, body := sourcetest.Request(t, "../../../events/source/gcs/testdata/eventarc.http")
		if got, _ := post(t, url, h, body); got != http.StatusInternalServerError {
			t.Errorf("with a dispatcher that answers %d: %d", status, got)
		}
	}
}

// A dispatcher that wants an OIDC token gets one of the function's account, as the
// platform gives them out.
func TestAudience(t *testing.T) {
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"aud":"https://kiln","exp":%d}`, time.Now().Add(time.Hour).Unix()))
	token := "eyJhbGciOiJSUzI1NiJ9." + claims + ".c2ln"
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		switch {
		case r.Header.Get("Metadata-Flavor") != "Google":
			w.WriteHeader(http.StatusForbidden)
		case strings.HasSuffix(r.URL.Path, "/identity") && r.URL.Query().Get("audience") == "https://kiln":
			_, _ = io.WriteString(w, token)
		default:
			_, _ = io.WriteString(w, "p1")
		}
	}))
	defer metadata.Close()
	to := newReceiver(t)
	url := start(t, "BucketUpload", "KILN_CHANGES="+to.URL, "KILN_CHANGES_AUDIENCE=https://kiln", "GCE_METADATA_HOST="+strings.TrimPrefix(metadata.URL, "http://"))
	h, body := sourcetest.Request(t, "../../../events/source/gcs/testdata/eventarc.http")
	if status, text := post(t, url, h, body); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	if _, header := to.change(t); header.Get("Authorization") != "Bearer "+token {
		t.Errorf("authorized by %q", header.Get("Authorization"))
	}
}

// Webhooks of every forge are verified and passed on to a topic.
func TestGitPush(t *testing.T) {
	srv := pstest.NewServer()
	defer srv.Close()
	client, err := gpubsub.NewClient(t.Context(), "p1", buspubsub.ClientOptions(srv.Addr)...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p1/topics/changes"}); err != nil {
		t.Fatal(err)
	}
	url := start(t, "GitPush", "KILN_CHANGES=pubsub://p1/changes", "PUBSUB_EMULATOR_HOST="+srv.Addr,
		"KILN_GITHUB_SECRET=s1", "KILN_GITLAB_SECRET=s2", "KILN_GITEA_SECRET=old\ns3", "KILN_BITBUCKET_SECRET=s4")
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	sign := func(secret string, body []byte) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		return hex.EncodeToString(mac.Sum(nil))
	}
	for _, tc := range []struct{ name, header, prefix, secret, location string }{
		{"github/testdata/push", "X-Hub-Signature-256", "sha256=", "s1", "github.com/acme/shop"},
		{"gitlab/testdata/push", "X-Gitlab-Token", "", "s2", "gitlab.com/acme/shop"},
		{"gitea/testdata/push", "X-Gitea-Signature", "", "s3", ""},
		{"gitea/testdata/forgejo", "X-Forgejo-Signature", "", "s3", ""},
		{"bitbucket/testdata/cloud_push", "X-Hub-Signature", "sha256=", "s4", ""},
		{"bitbucket/testdata/dc_push", "X-Hub-Signature", "sha256=", "s4", ""},
	} {
		for secret, want := range map[string]int{"wrong": http.StatusUnauthorized, tc.secret: http.StatusAccepted} {
			before := len(srv.Messages())
			h, body := sourcetest.Request(t, "../../../events/source/"+tc.name+".http")
			h.Set("Traceparent", trace)
			h.Set(tc.header, tc.prefix+sign(secret, body))
			if tc.header == "X-Gitlab-Token" {
				h.Set(tc.header, secret)
			}
			status, text := post(t, url, h, body)
			messages := srv.Messages()
			if status != want || (len(messages) > before) != (want == http.StatusAccepted) {
				t.Errorf("%s with secret %q: %d %s, %d messages", tc.name, secret, status, text, len(messages)-before)
				continue
			}
			if want != http.StatusAccepted {
				continue
			}
			m := messages[len(messages)-1]
			var c events.Change
			if err := json.Unmarshal(m.Data, &c); err != nil || m.Attributes["ce-type"] != events.TypeSourceChanged || c.Kind != events.KindGit || m.OrderingKey != c.Location+"/"+c.Name || m.Attributes["ce-traceparent"] != trace {
				t.Errorf("%s: %+v with %v, %v", tc.name, c, m.Attributes, err)
			}
			if tc.location != "" && c.Location != tc.location {
				t.Errorf("%s: location %s", tc.name, c.Location)
			}
		}
	}
	for name, tc := range map[string]struct {
		h    http.Header
		body string
		want int
	}{
		"no forge": {http.Header{}, "{}", http.StatusBadRequest},
		"ping":     {http.Header{"X-Github-Event": {"ping"}, "Content-Type": {"application/json"}, "X-Hub-Signature-256": {"sha256=" + sign("s1", []byte("{}"))}}, "{}", http.StatusOK},
	} {
		if status, text := post(t, url, tc.h, []byte(tc.body)); status != tc.want {
			t.Errorf("%s: %d %s, want %d", name, status, text, tc.want)
		}
	}
}

// The end of a build is posted, signed, whether it comes as it is or in a message.
func TestBuildFinished(t *testing.T) {
	to := newReceiver(t)
	secret := "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	url := start(t, "BuildFinished", "KILN_NOTIFY_URL="+to.URL, "KILN_NOTIFY_SECRET="+secret)
	text, err := os.ReadFile("../../../events/testdata/build.finished.success.json")
	if err != nil {
		t.Fatal(err)
	}
	var e event.Event
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	m := buspubsub.Message(e)
	envelope, err := json.Marshal(map[string]any{"subscription": "projects/p/subscriptions/s", "message": map[string]any{
		"messageId": "1", "publishTime": "2026-11-23T07:38:57.9Z", "attributes": m.Attributes, "data": base64.StdEncoding.EncodeToString(m.Data),
	}})
	if err != nil {
		t.Fatal(err)
	}
	h, body, err := events.EncodeHTTP(e)
	if err != nil {
		t.Fatal(err)
	}
	for name, request := range map[string]struct {
		h    http.Header
		body []byte
	}{"as it is": {h, body}, "in a message": {http.Header{"Content-Type": {"application/json"}}, envelope}} {
		if status, text := post(t, url+"/projects/p/topics/builds", request.h, request.body); status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, status, text)
		}
		select {
		case got := <-to.got:
			key, err := bus.ParseSecret(secret)
			if err != nil {
				t.Fatal(err)
			}
			var seconds int64
			if _, err := fmt.Sscan(got.header.Get("Webhook-Timestamp"), &seconds); err != nil {
				t.Fatal(err)
			}
			want := bus.Sign(key, e.ID(), time.Unix(seconds, 0), got.body)
			if got.event.ID() != e.ID() || got.event.Extensions()[events.ExtImageDigest] != e.Extensions()[events.ExtImageDigest] || got.header.Get("Webhook-Signature") != want {
				t.Errorf("%s: got %s signed %s, want %s", name, got.event, got.header.Get("Webhook-Signature"), want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: nobody was notified", name)
		}
	}
	h["Ce-Type"] = []string{events.TypeBuildQueued}
	if status, _ := post(t, url, h, body); status != http.StatusOK || len(to.got) != 0 {
		t.Errorf("another event: %d, %d were posted", status, len(to.got))
	}
}

// What a function lacks it says.
func TestUnconfigured(t *testing.T) {
	h, body := sourcetest.Request(t, "../../../events/source/gcs/testdata/eventarc.http")
	for _, function := range []string{"BucketUpload", "BuildFinished"} {
		if status, _ := post(t, start(t, function), h, body); status != http.StatusInternalServerError {
			t.Errorf("%s without configuration: %d", function, status)
		}
	}
	h, body = sourcetest.Request(t, "../../../events/source/gcs/testdata/eventarc.http")
	if status, _ := post(t, start(t, "GitPush", "KILN_GITLAB_SECRET=whsec_x"), h, body); status != http.StatusServiceUnavailable {
		t.Errorf("GitPush with half a secret: %d", status)
	}
	if err := serve(t.Context()); err == nil || !strings.Contains(err.Error(), "FUNCTION_TARGET") {
		t.Errorf("without FUNCTION_TARGET: %v", err)
	}
}
