// Package cloud tests Kiln as it runs in a cloud, with every part a process of its
// own and every service of the cloud a program that somebody else wrote: an
// upload becomes a notification, a push, a call of a function, a build, an image
// in a registry and an event on a topic.
package cloud

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/port"

	gpubsub "cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/storage"
	"google.golang.org/api/option"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/internal/tools"
	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/e2e/servers"
	buspubsub "github.com/kilnhook/kiln/infra/bus/pubsub"
)

// patience is how long a step may take on a busy machine.
const patience = 2 * time.Minute

const project = "p1"

// programs are compiled once.
var programs struct{ dispatcher, executor, function string } // made by TestMain

func TestMain(m *testing.M) {
	tools.Main(m, map[string]*string{"functions/dispatcher": &programs.dispatcher, "executor": &programs.executor, "functions/gcf/serve": &programs.function})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// cloud is the services of one: Pub/Sub, storage and a registry.
type cloud struct {
	pubsub, storage, registry string // host:port of each
	client                    *gpubsub.Client
	buckets                   *storage.Client
}

// newCloud starts the services, with the buckets contexts and ledger and some
// topics.
func newCloud(t *testing.T, topics ...string) *cloud {
	t.Helper()
	c := &cloud{pubsub: servers.PubSub(t)}
	c.storage = servers.CloudStorage(t, servers.CloudStorageOptions{PubSub: c.pubsub})
	registry, err := registryd.Start(t.Context(), need.Command(t, "docker-registry"), t.TempDir(), nil)
	check(t, err)
	t.Cleanup(func() { check(t, registry.Stop()) })
	c.registry = registry.Host
	c.client, err = gpubsub.NewClient(t.Context(), project, buspubsub.ClientOptions(c.pubsub)...)
	check(t, err)
	t.Cleanup(func() { c.client.Close() })
	for _, topic := range topics {
		_, err := c.client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topicName(topic)})
		check(t, err)
	}
	c.buckets, err = storage.NewClient(t.Context(), option.WithEndpoint("http://"+c.storage+"/storage/v1/"), option.WithoutAuthentication())
	check(t, err)
	t.Cleanup(func() { c.buckets.Close() })
	for _, bucket := range []string{"contexts", "ledger"} {
		check(t, c.buckets.Bucket(bucket).Create(t.Context(), project, nil))
	}
	return c
}

func topicName(topic string) string { return "projects/" + project + "/topics/" + topic }

// notify makes the bucket contexts tell a topic of every object that arrives.
func (c *cloud) notify(t *testing.T, topic string) {
	t.Helper()
	_, err := c.buckets.Bucket("contexts").AddNotification(t.Context(), &storage.Notification{
		TopicProjectID: project, TopicID: topic, PayloadFormat: storage.JSONPayload, EventTypes: []string{storage.ObjectFinalizeEvent},
	})
	check(t, err)
}

// subscribe makes a subscription: a push to a URL, if there is one, that goes to
// the topic dead after five attempts.
func (c *cloud) subscribe(t *testing.T, name, topic, url string, wrapped bool) {
	t.Helper()
	sub := &pubsubpb.Subscription{
		Name: "projects/" + project + "/subscriptions/" + name, Topic: topicName(topic), AckDeadlineSeconds: 20,
		RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(100 * time.Millisecond), MaximumBackoff: durationpb.New(time.Second)},
	}
	if url != "" {
		sub.PushConfig = &pubsubpb.PushConfig{PushEndpoint: url}
		if !wrapped {
			sub.PushConfig.Wrapper = &pubsubpb.PushConfig_NoWrapper_{NoWrapper: &pubsubpb.PushConfig_NoWrapper{WriteMetadata: true}}
		}
	}
	if name != "dead" && name != "watch" {
		sub.DeadLetterPolicy = &pubsubpb.DeadLetterPolicy{DeadLetterTopic: topicName("dead"), MaxDeliveryAttempts: 5}
	}
	_, err := c.client.SubscriptionAdminClient.CreateSubscription(t.Context(), sub)
	check(t, err)
}

// inbox is what came through a subscription.
type inbox struct {
	mu       sync.Mutex
	messages []*gpubsub.Message
}

// receive reads a subscription until the test ends.
func (c *cloud) receive(t *testing.T, name string) *inbox {
	t.Helper()
	in := &inbox{}
	ctx, done := t.Context(), make(chan struct{})
	go func() {
		defer close(done)
		_ = c.client.Subscriber(name).Receive(ctx, func(_ context.Context, m *gpubsub.Message) {
			in.mu.Lock()
			in.messages = append(in.messages, m)
			in.mu.Unlock()
			m.Ack()
		})
	}()
	t.Cleanup(func() { <-done })
	return in
}

// of returns the messages that hold an attribute of a value.
func (in *inbox) of(name, value string) []*gpubsub.Message {
	in.mu.Lock()
	defer in.mu.Unlock()
	var found []*gpubsub.Message
	for _, m := range in.messages {
		if m.Attributes[name] == value {
			found = append(found, m)
		}
	}
	return found
}

// upload puts an archive of files into the bucket contexts and returns its
// generation.
func (c *cloud) upload(t *testing.T, name string, files map[string][]byte) string {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for name, content := range files {
		check(t, tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}))
		_, err := tw.Write(content)
		check(t, err)
	}
	check(t, errors.Join(tw.Close(), zw.Close()))
	w := c.buckets.Bucket("contexts").Object(name).NewWriter(t.Context())
	_, err := io.Copy(w, &buf)
	check(t, errors.Join(err, w.Close()))
	return fmt.Sprint(w.Attrs().Generation)
}

// dispatcher starts the dispatcher, whose ledger and bus are the cloud's, and
// returns its URL.
func (c *cloud) dispatcher(t *testing.T, flags ...string) string {
	t.Helper()
	need.Root(t)
	dir := t.TempDir()
	need.Overlays(t, dir)
	triggers := filepath.Join(dir, "kiln.yaml")
	check(t, os.WriteFile(triggers, []byte("name: app\non: {object: {bucket: gs://contexts, suffix: .tar.gz}}\npush: {image: "+c.registry+"/app, tags: ['{{ .Object.Stem }}']}\n"), 0o600))
	token := filepath.Join(dir, "token")
	check(t, os.WriteFile(token, []byte("t0ken\n"), 0o600))
	args := append([]string{"--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "data"), "--triggers", triggers, "--token-file", token,
		"--ledger", "gs://ledger/kiln", "--bus", "pubsub://" + project + "/builds", "--cdevents",
		"--executor", programs.executor, "--executor-flag=--isolation=overlay", "--executor-flag=--work-dir=" + filepath.Join(dir, "work"), "--sweep", "2s"}, flags...)
	check(t, os.Mkdir(filepath.Join(dir, "work"), 0o700))
	cmd := exec.Command(programs.dispatcher, args...)
	cmd.Env = append(os.Environ(), "PUBSUB_EMULATOR_HOST="+c.pubsub, "STORAGE_EMULATOR_HOST="+c.storage)
	listening := regexp.MustCompile(`msg=listening address=(\S+)`)
	found := make(chan string, 1)
	server, err := process.Start("dispatcher", cmd, false, t.Output(), func(line string) {
		if m := listening.FindStringSubmatch(line); m != nil {
			found <- m[1]
		}
	})
	check(t, err)
	t.Cleanup(func() { check(t, server.Stop()) })
	select {
	case address := <-found:
		return "http://" + address
	case <-server.Done():
		t.Fatal(server.Failure())
	case <-time.After(patience):
		t.Fatal("the dispatcher does not listen")
	}
	return ""
}

// function starts a function and returns its URL.
func (c *cloud) function(t *testing.T, name string, env ...string) string {
	t.Helper()
	address := port.Free(t)
	_, number, err := net.SplitHostPort(address)
	check(t, err)
	cmd := exec.Command(programs.function)
	cmd.Env = append([]string{"FUNCTION_TARGET=" + name, "PORT=" + number, "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "PUBSUB_EMULATOR_HOST=" + c.pubsub}, env...)
	server, err := process.Start(name, cmd, false, t.Output(), nil)
	check(t, err)
	t.Cleanup(func() { check(t, server.Stop()) })
	eventually(t, "the function listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return "http://" + address
}

// app is a context whose build runs a program, with a word that it writes.
func app(t *testing.T, word string) map[string][]byte {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		need.Missing(t, "/bin/busybox (run .ci/setup)")
	}
	return map[string][]byte{
		"busybox":    busybox,
		"Dockerfile": []byte("FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo " + word + " > /built\"]\n"),
	}
}

// get is a GET whose answer must be a success.
func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	check(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return string(body)
}
