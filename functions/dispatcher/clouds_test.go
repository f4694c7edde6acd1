package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gpubsub "cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"cloud.google.com/go/storage"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kilnhook/kiln/e2e/servers"
	"github.com/kilnhook/kiln/events"
	buspubsub "github.com/kilnhook/kiln/infra/bus/pubsub"
	"github.com/kilnhook/kiln/infra/pull/sqs/sqstest"
)

// pubsub runs a Pub/Sub in this process with the topics changes and builds and
// the subscription dispatch of changes.
func pubsub(t *testing.T, opts ...pstest.ServerReactorOption) *pstest.Server {
	t.Helper()
	srv := pstest.NewServer(opts...)
	t.Cleanup(func() { srv.Close() })
	client, err := gpubsub.NewClient(t.Context(), "p1", buspubsub.ClientOptions(srv.Addr)...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, topic := range []string{"changes", "builds"} {
		if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p1/topics/" + topic}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name: "projects/p1/subscriptions/dispatch", Topic: "projects/p1/topics/changes", AckDeadlineSeconds: 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// published waits for an event of a type on the topic builds.
func published(t *testing.T, srv *pstest.Server, typ string) *pstest.Message {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, m := range srv.Messages() {
			if m.Topic == "projects/p1/topics/builds" && m.Attributes["ce-type"] == typ {
				return m
			}
		}
	}
	t.Fatalf("no %s was published", typ)
	return nil
}

// A change that is pulled from Pub/Sub is built, with the ledger in a bucket, and
// its end is published to Pub/Sub, also in the words of CDEvents. Nothing needs
// the disk but the build itself.
func TestPubSubAndBucket(t *testing.T) {
	host, digest := image(t)
	executor, argsFile := fakeExecutor(t, digest)
	srv := pubsub(t)
	bucket := servers.CloudStorage(t, servers.CloudStorageOptions{})
	client, err := storage.NewClient(t.Context(), option.WithEndpoint("http://"+bucket+"/storage/v1/"), option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Bucket("ledger").Create(t.Context(), "p1", nil); err != nil {
		t.Fatal(err)
	}
	triggers := write(t, "name: app\non: {object: {bucket: gs://contexts}}\npush: {image: "+host+"/app, tags: [latest]}\n")
	env := append(os.Environ(), "PUBSUB_EMULATOR_HOST="+srv.Addr, "STORAGE_EMULATOR_HOST="+bucket, "KILN_PULL=pubsub://p1/dispatch")
	data := t.TempDir()
	start(t, env, "--data", data, "--triggers", triggers, "--executor", executor, "--ledger", "gs://ledger/kiln", "--bus", "pubsub://p1/builds", "--cdevents")

	id := srv.Publish("projects/p1/topics/changes",
		[]byte(`{"kind":"storage#object","bucket":"contexts","name":"app.tar.gz","generation":"1587627537231057","size":"10"}`),
		map[string]string{"eventType": "OBJECT_FINALIZE", "payloadFormat": "JSON_API_V1", "bucketId": "contexts", "objectId": "app.tar.gz", "objectGeneration": "1587627537231057"})
	m := published(t, srv, events.TypeBuildFinished)
	if m.Attributes["ce-imagedigest"] != digest || m.Attributes["ce-causationid"] != id || m.OrderingKey != m.Attributes["ce-partitionkey"] {
		t.Errorf("attributes %v, ordering key %q", m.Attributes, m.OrderingKey)
	}
	if m := published(t, srv, "dev.cdevents.artifact.published.0.3.0"); !strings.Contains(string(m.Data), "pkg:oci/app@sha256%3A") {
		t.Errorf("mirrored %s", m.Data)
	}
	for deadline := time.Now().Add(30 * time.Second); srv.Message(id).Acks == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the change was not acknowledged")
		}
	}
	if args, err := os.ReadFile(argsFile); err != nil || !strings.Contains(string(args), "--context\ngs://contexts/app.tar.gz#1587627537231057\n") {
		t.Errorf("the executor was given %s, %v", args, err)
	}
	if _, err := client.Bucket("ledger").Object("kiln/builds/" + m.Attributes["ce-buildid"] + "/result.json").Attrs(t.Context()); err != nil {
		t.Errorf("the result is not in the bucket: %v", err)
	}
	for _, name := range []string{"ledger", "bus"} {
		if _, err := os.Stat(data + "/" + name); err == nil {
			t.Errorf("there is a directory %s", name)
		}
	}
}

// Where events go to a sink at once, reports are made all the same.
func TestReportsOfASinkBus(t *testing.T) {
	host, digest := image(t)
	executor, _ := fakeExecutor(t, digest)
	told := make(chan string, 10)
	chat := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		told <- string(body)
	}))
	defer chat.Close()
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer sink.Close()
	triggers := write(t, "name: app\non: {git: {repo: github.com/acme/shop}}\npush: {image: "+host+"/app, tags: [main]}\nreport: {notify: [team]}\n")
	reports := write(t, "notifications: [{name: team, url: "+chat.URL+", text: 'it is {{.Outcome}}'}]\n")
	env := append(os.Environ(), "KILN_GITHUB_SECRET=s3cr3t", "K_SINK="+sink.URL, "KILN_BUS=sink")
	url, _ := start(t, env, "--data", t.TempDir(), "--triggers", triggers, "--executor", executor, "--reports", reports)
	if status, text := post(t, url, "s3cr3t"); status != http.StatusAccepted {
		t.Fatalf("%d %s", status, text)
	}
	select {
	case text := <-told:
		if !strings.Contains(text, "it is success") {
			t.Errorf("told %s", text)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told")
	}
}

// Without a spool, events are at the sink before anything is believed to be told;
// while it is down, a change is not accepted.
func TestSinkBus(t *testing.T) {
	host, digest := image(t)
	executor, _ := fakeExecutor(t, digest)
	got := make(chan string, 100)
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		e, err := events.DecodeHTTP(r.Header, body)
		if err != nil {
			t.Error(err)
		}
		cluster, _ := e.Extensions()["cluster"].(string)
		if e.Type() == events.TypeBuildStarted {
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
		got <- e.Type() + " " + cluster
	}))
	defer sink.Close()
	triggers := write(t, "name: app\non: {git: {repo: github.com/acme/shop}}\npush: {image: "+host+"/app, tags: [main]}\n")
	env := append(os.Environ(), "KILN_GITHUB_SECRET=s3cr3t", "K_SINK="+sink.URL, `K_CE_OVERRIDES={"extensions":{"cluster":"eu"}}`, "KILN_BUS=sink")
	ledgerDir := t.TempDir()
	url, _ := start(t, env, "--data", t.TempDir(), "--triggers", triggers, "--executor", executor, "--ledger", ledgerDir)
	if status, text := post(t, url, "s3cr3t"); status != http.StatusAccepted {
		t.Fatalf("%d %s", status, text)
	}
	deadline := time.After(30 * time.Second)
	for finished := false; !finished; {
		select {
		case e := <-got:
			finished = e == events.TypeBuildFinished+" eu"
		case <-deadline:
			t.Fatal("the end was not told")
		}
	}
	refused, err := os.ReadDir(ledgerDir + "/refused")
	if err != nil || len(refused) != 1 {
		t.Errorf("refused events: %v, %v", refused, err)
	}
	resp, err := http.Get(url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("without a spool there is a stream: %d", resp.StatusCode)
	}

	down, _ := start(t, append(os.Environ(), "KILN_GITHUB_SECRET=s3cr3t", "K_SINK=http://127.0.0.1:1/", "KILN_BUS=sink"),
		"--data", t.TempDir(), "--triggers", triggers, "--executor", executor)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan int, 1)
	go func() { status, _ := post(t, down, "s3cr3t"); done <- status }()
	select {
	case status := <-done:
		if status != http.StatusServiceUnavailable {
			t.Errorf("with a sink that is down: %d", status)
		}
	case <-ctx.Done():
		t.Error("with a sink that is down there is no answer")
	}
}

// With an audience and an account, doors without a signature open for OIDC tokens
// only, also on an address that others reach. That a token opens them is shown
// where the verifier is.
func TestOIDC(t *testing.T) {
	executor, _ := fakeExecutor(t, "")
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{}})
	}))
	defer keys.Close()
	triggers := write(t, "name: app\non: {git: {repo: h/r}}\n")
	url, _ := start(t, []string{"PATH=" + os.Getenv("PATH")}, "--listen", "0.0.0.0:0", "--data", t.TempDir(), "--triggers", triggers, "--executor", executor,
		"--oidc-audience", "https://kiln", "--oidc-email", "push@p1.iam.gserviceaccount.com", "--oidc-keys", keys.URL)
	url = "http://127.0.0.1" + url[strings.LastIndexByte(url, ':'):]
	for _, token := range []string{"", "Bearer x", "Bearer a.b.c"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/events/in", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("token %q: %d", token, resp.StatusCode)
		}
	}
}

// The ledger may be in a bucket of S3, of which the environment tells as Amazon's
// tools want it.
func TestS3Ledger(t *testing.T) {
	host, digest := image(t)
	executor, _ := fakeExecutor(t, digest)
	server := servers.Versity(t, servers.VersityOptions{})
	t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretKey)
	t.Setenv("AWS_REGION", server.Region)
	client := s3.New(s3.Options{
		BaseEndpoint: &server.URL, UsePathStyle: true, Region: server.Region,
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, ""),
	})
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("ledger")}); err != nil {
		t.Fatal(err)
	}
	triggers := write(t, "name: app\non: {git: {repo: github.com/acme/shop}}\npush: {image: "+host+"/app, tags: [main]}\n")
	env := append(os.Environ(), "KILN_GITHUB_SECRET=s3cr3t", "S3_ENDPOINT="+server.URL, "S3_FORCE_PATH_STYLE=true")
	url, _ := start(t, env, "--data", t.TempDir(), "--triggers", triggers, "--executor", executor, "--ledger", "s3://ledger/kiln")
	status, text := post(t, url, "s3cr3t")
	if status != http.StatusAccepted {
		t.Fatalf("%d %s", status, text)
	}
	key := "kiln/builds/" + buildID(t, text) + "/emitted.json"
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("ledger"), Key: &key})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", key, err)
		}
	}
	if status, again := post(t, url, "s3cr3t"); status != http.StatusAccepted || !strings.Contains(again, `"duplicate"`) {
		t.Errorf("again: %d %s", status, again)
	}
}

// A notification of S3 in a queue of SQS is built, in the version that it tells of,
// and deleted from the queue.
func TestSQS(t *testing.T) {
	host, digest := image(t)
	executor, argsFile := fakeExecutor(t, digest)
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	t.Setenv("AWS_REGION", "eu-west-1")
	q := sqstest.New(t, 5, 0)
	body, err := os.ReadFile("../../events/source/s3/testdata/put.http")
	if err != nil {
		t.Fatal(err)
	}
	_, notification, _ := strings.Cut(string(body), "\n\n")
	q.Send(`{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"acme-contexts"}`)
	q.Send(notification)
	triggers := write(t, "name: app\non: {object: {bucket: s3://acme-contexts}}\npush: {image: "+host+"/app, tags: [latest]}\n")
	start(t, os.Environ(), "--data", t.TempDir(), "--triggers", triggers, "--executor", executor, "--pull", q.Address())
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		args, err := os.ReadFile(argsFile)
		if live, _ := q.Left(); err == nil && len(args) > 0 && len(live) == 0 {
			if !strings.Contains(string(args), "--context\ns3://acme-contexts/app/ctx 1.tar.gz?versionId=096fKKXTRTtl3on89fVO.nfljtsv6qko\n") {
				t.Errorf("the executor was given %s", args)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the notification was not built")
		}
	}
}

// stubborn refuses to publish the end of builds for a while.
type stubborn struct{ left atomic.Int32 }

func (s *stubborn) React(req any) (handled bool, ret any, err error) {
	publish, ok := req.(*pubsubpb.PublishRequest)
	if !ok || publish.Messages[0].Attributes["ce-type"] != events.TypeBuildFinished || s.left.Add(-1) < 0 {
		return false, nil, nil
	}
	return true, &pubsubpb.PublishResponse{}, status.Error(codes.PermissionDenied, "you may not yet")
}

// An end that Pub/Sub did not confirm is not marked as told; a sweep tells it.
func TestUnconfirmed(t *testing.T) {
	host, digest := image(t)
	executor, _ := fakeExecutor(t, digest)
	refuse := &stubborn{}
	refuse.left.Store(3)
	srv := pubsub(t, pstest.ServerReactorOption{FuncName: "Publish", Reactor: refuse})
	triggers := write(t, "name: app\non: {git: {repo: github.com/acme/shop}}\npush: {image: "+host+"/app, tags: [main]}\n")
	ledgerDir := t.TempDir()
	url, _ := start(t, append(os.Environ(), "PUBSUB_EMULATOR_HOST="+srv.Addr, "KILN_GITHUB_SECRET=s3cr3t"), "--data", t.TempDir(),
		"--triggers", triggers, "--executor", executor, "--bus", "pubsub://p1/builds", "--ledger", ledgerDir, "--sweep", "100ms")
	code, text := post(t, url, "s3cr3t")
	if code != http.StatusAccepted {
		t.Fatalf("%d %s", code, text)
	}
	emitted := ledgerDir + "/builds/" + buildID(t, text) + "/emitted.json"
	for deadline := time.Now().Add(30 * time.Second); refuse.left.Load() > 0; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(emitted); err == nil && refuse.left.Load() > 0 {
			t.Fatal("the end is marked as told, and was not")
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody tried again")
		}
	}
	m := published(t, srv, events.TypeBuildFinished)
	if m.Attributes["ce-id"] != buildID(t, text)+".finished" {
		t.Errorf("published %v", m.Attributes)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(emitted); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the end was told and is not marked")
		}
	}
}
