package dispatch

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/events"
)

// gitHub is a signed webhook.
func gitHub(event, body string) request {
	return request{"/hooks/github", map[string]string{
		"Content-Type": "application/json", "X-GitHub-Event": event, "X-GitHub-Delivery": "guid-1",
		"X-Hub-Signature-256": "sha256=" + hexHMAC(body),
		"Traceparent":         "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}, body}
}

func pushBody(before, after string) string {
	return fmt.Sprintf(`{"ref":"refs/heads/main","before":%q,"after":%q,"repository":{"full_name":"r","clone_url":"https://h/r.git","pushed_at":1795400005}}`, id(before), id(after))
}

// gitLab is a hook with the older token.
func gitLab(token, body string) request {
	return request{"/hooks/gitlab", map[string]string{"Content-Type": "application/json", "X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": token}, body}
}

func gitLabBody(kind, before, after string) string {
	return fmt.Sprintf(`{"object_kind":%q,"ref":"refs/heads/main","before":%q,"after":%q,"project":{"git_http_url":"https://h/r.git"}}`, kind, id(before), id(after))
}

// hexHMAC is the signature that forges make of a body.
func hexHMAC(body string) string {
	mac := hmac.New(sha256.New, []byte("s3cr3t"))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

// giteaHook is a signed webhook of Gitea.
func giteaHook(event, body string) request {
	return request{"/hooks/gitea", map[string]string{"Content-Type": "application/json", "X-Gitea-Event": event, "X-Gitea-Signature": hexHMAC(body)}, body}
}

// bitbucketHook is a signed webhook of Bitbucket.
func bitbucketHook(event, body string) request {
	return request{"/hooks/bitbucket", map[string]string{"Content-Type": "application/json", "X-Event-Key": event, "X-Hub-Signature": "sha256=" + hexHMAC(body)}, body}
}

// bitbucketBody is a push of new branches.
func bitbucketBody(branches ...string) string {
	var changes []string
	for _, name := range branches {
		changes = append(changes, fmt.Sprintf(`{"old":null,"new":{"type":"branch","name":%q,"target":{"hash":%q}}}`, name, id("a")))
	}
	return `{"repository":{"links":{"html":{"href":"https://h/r"}}},"push":{"changes":[` + strings.Join(changes, ",") + `]}}`
}

// lines is a post-receive hook.
func lines(body string) request {
	return request{"/hooks/git", map[string]string{"Content-Type": "text/plain", "Kiln-Repository": "ssh://git@h/r.git"}, body}
}

// changed is a CloudEvent of ours in binary mode.
func changed(t testing.TB, c events.Change) request {
	t.Helper()
	e, err := events.SourceChangedEvent("i", "t", c)
	if err != nil {
		t.Fatal(err)
	}
	header, body, err := events.EncodeHTTP(e)
	if err != nil {
		t.Fatal(err)
	}
	r := request{"/events/in", map[string]string{}, string(body)}
	for name, values := range header {
		r.header[name] = values[0]
	}
	return r
}

const gcsObject = `{"bucket":"b","name":"k","generation":"7","size":"3"}`

func finalized(body string) request {
	return request{"/events/in", map[string]string{
		"Content-Type": "application/json", "Ce-Specversion": "1.0", "Ce-Id": "1", "Ce-Source": "//storage.googleapis.com/projects/_/buckets/b",
		"Ce-Type": "google.cloud.storage.object.v1.finalized",
	}, body}
}

// knativeEvent is a CloudEvent that a source made of a webhook.
func knativeEvent(typ, body string) request {
	return request{"/events/in", map[string]string{
		"Content-Type": "application/json", "Ce-Specversion": "1.0", "Ce-Id": "1", "Ce-Source": "https://h/r", "Ce-Type": typ,
	}, body}
}

// inMessage puts a CloudEvent into a message that Pub/Sub pushes.
func inMessage(r request) request {
	attributes := map[string]string{}
	for name, value := range r.header {
		if rest, ok := strings.CutPrefix(name, "Ce-"); ok {
			name = "ce-" + strings.ToLower(rest)
		}
		attributes[name] = value
	}
	body, err := json.Marshal(map[string]any{"subscription": "s", "message": map[string]any{
		"messageId": "1", "data": []byte(r.body), "attributes": attributes,
	}})
	if err != nil {
		panic(err)
	}
	return request{r.path, map[string]string{"Content-Type": "application/json"}, string(body)}
}

// bareMessage is what a push subscription without a wrapper makes of it.
func bareMessage(r request) request {
	r.header["X-Goog-Pubsub-Message-Id"] = "1"
	r.header["X-Goog-Pubsub-Subscription-Name"] = "s"
	return r
}

func blobCreated(api string) request {
	return request{"/events/in", map[string]string{"Content-Type": "application/cloudevents+json"}, `{"specversion":"1.0","type":"Microsoft.Storage.BlobCreated",
		"source":"/s","id":"1","subject":"/blobServices/default/containers/c/blobs/k","data":{"api":"` + api + `","eTag":"0x1","contentLength":3,"url":"https://a.blob.core.windows.net/c/k"}}`}
}

func pubSub(data string) request {
	body, err := json.Marshal(map[string]any{"subscription": "s", "message": map[string]any{
		"messageId": "1", "data": []byte(data),
		"attributes": map[string]string{"eventType": "OBJECT_FINALIZE", "payloadFormat": "JSON_API_V1"},
	}})
	if err != nil {
		panic(err)
	}
	return request{"/events/in", map[string]string{"Content-Type": "application/json"}, string(body)}
}

const s3Body = `{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"k","size":3,"eTag":"e","sequencer":"0A"}}}]}`
