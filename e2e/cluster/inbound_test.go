package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
)

const (
	ingressPort = "30081" // of the Brokers
	// brokerAudience is whom the tokens are for that the Broker wants to see.
	brokerAudience = "eventing.knative.dev/broker/kiln/kiln"
	// changesAccount is the service account that Knative makes for the Trigger.
	changesAccount = "kiln-changes-oidc-eventing.knative.dev-trigger"
)

// ingress makes the Brokers reachable for the host.
const ingress = `apiVersion: v1
kind: Service
metadata: {name: broker-ingress-outside, namespace: knative-eventing}
spec:
  type: NodePort
  selector: {eventing.knative.dev/brokerRole: ingress}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: ` + ingressPort + `}]
`

// inbound proves that changes which Knative's sources and other tools send to the
// Broker are built, that what became of them is told by the same Broker, and that
// neither it nor the dispatcher takes an event from somebody who is not let in.
func (i *install) inbound(t *testing.T) {
	i.kubectl(t, "-n", "knative-eventing", "patch", "configmap", "config-features", "--type=merge", "-p", `{"data":{"authentication-oidc":"enabled"}}`)
	i.pipe(t, []byte(ingress), "apply", "-f", "-")
	i.applySetup(t, setup{config: "inbound", profile: "default"})
	for what, want := range map[string]string{
		"broker/kiln {.status.address.audience}":                                                                           brokerAudience,
		"trigger/kiln-changes {.status.subscriberAudience}":                                                                "kiln-dispatcher",
		"sinkbinding/kiln-dispatcher {.status.sinkAudience}":                                                               brokerAudience,
		"deployment/kiln-dispatcher {.spec.template.spec.containers[0].volumeMounts[?(@.name==\"oidc-token\")].mountPath}": "/oidc",
	} {
		object, path, _ := strings.Cut(what, " ")
		eventually(t, time.Minute, what, func() bool { return i.kubectl(t, "-n", "kiln", "get", object, "-o", "jsonpath="+path) == want })
	}
	i.kubectl(t, "-n", "kiln", "wait", "--for=condition=Ready", "--timeout=120s", "broker/kiln", "trigger/subscriber", "trigger/kiln-changes")
	i.kubectl(t, "-n", "kiln", "rollout", "status", "deployment/kiln-dispatcher", "--timeout=120s")

	token := i.tokenOf(t, "default", brokerAudience)
	push := i.githubSource(t, "inbound-github")
	broker := "http://" + net.JoinHostPort(i.IP(), ingressPort) + "/kiln/kiln"
	eventually(t, time.Minute, "the Broker takes an event", func() bool { return i.post(t, broker, token, push) == http.StatusAccepted })
	i.succeeds(t, "inbound-github")
	if status := i.post(t, broker, token, i.cdevent(t, "inbound-cdevents")); status != http.StatusAccepted {
		t.Fatalf("the Broker: %d", status)
	}
	i.succeeds(t, "inbound-cdevents")

	other := i.githubSource(t, "inbound-refused")
	for name, tc := range map[string]struct {
		url, token string
		want       int
	}{
		"the Broker, nobody":                                   {broker, "", http.StatusUnauthorized},
		"the Broker, a token for another":                      {broker, i.tokenOf(t, "default", "kiln-dispatcher"), http.StatusUnauthorized},
		"the dispatcher, nobody":                               {i.URL() + "/events/in", "", http.StatusUnauthorized},
		"the dispatcher, another account":                      {i.URL() + "/events/in", i.tokenOf(t, "default", "kiln-dispatcher"), http.StatusUnauthorized},
		"the dispatcher, another audience":                     {i.URL() + "/events/in", i.tokenOf(t, changesAccount, brokerAudience), http.StatusUnauthorized},
		"the dispatcher, the Trigger, a change that was built": {i.URL() + "/events/in", i.tokenOf(t, changesAccount, "kiln-dispatcher"), http.StatusAccepted},
	} {
		e := other
		if tc.want == http.StatusAccepted {
			e = push
		}
		if status := i.post(t, tc.url, tc.token, e); status != tc.want {
			t.Errorf("%s: %d, want %d", name, status, tc.want)
		}
	}
	for _, e := range i.sink.all(events.TypeBuildFinished) {
		if strings.Contains(string(e.Data()), "inbound-refused") {
			t.Errorf("what was refused was built: %s", e)
		}
	}
}

// tokenOf is a token of a service account of Kiln's namespace.
func (i *install) tokenOf(t *testing.T, account, audience string) string {
	t.Helper()
	return strings.TrimSpace(i.kubectl(t, "-n", "kiln", "create", "token", account, "--audience="+audience))
}

// post sends an event and returns the status of the answer.
func (i *install) post(t *testing.T, url, token string, e event.Event) int {
	t.Helper()
	header, body, err := events.EncodeHTTP(e)
	check(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(string(body)))
	check(t, err)
	req.Header = header
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	text, err := io.ReadAll(resp.Body)
	check(t, err)
	check(t, resp.Body.Close())
	t.Logf("%s: %s %s", url, resp.Status, text)
	return resp.StatusCode
}

// pushed makes a repository, with nobody told of it, and returns its address and its
// commit.
func (i *install) pushed(t *testing.T, name string) (address, commit string) {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY Dockerfile /"+name+"\n"), 0o644))
	return i.git.url + "/" + name + ".git", i.git.keep(t, name, dir)
}

// githubSource is the event of Knative's GitHubSource for a push to a new branch.
func (i *install) githubSource(t *testing.T, name string) event.Event {
	t.Helper()
	address, commit := i.pushed(t, name)
	return i.event(t, name, "dev.knative.source.github.push", fmt.Sprintf(
		`{"ref":"refs/heads/main","before":%q,"after":%q,"created":true,"deleted":false,"forced":false,"repository":{"full_name":"acme/%s","default_branch":"main","pushed_at":%d,"clone_url":%q},"pusher":{"name":"ann"}}`,
		strings.Repeat("0", 40), commit, name, time.Now().Unix(), address))
}

// cdevent is a CDEvent of a change that another tool has merged.
func (i *install) cdevent(t *testing.T, name string) event.Event {
	t.Helper()
	const typ = "dev.cdevents.change.merged.0.3.0"
	address, commit := i.pushed(t, name)
	return i.event(t, name, typ, fmt.Sprintf(
		`{"context":{"specversion":"0.5.1","id":%q,"source":"/ci","type":%q,"timestamp":%q},"subject":{"id":"pr-7","content":{"repository":{"id":"acme/%s","source":%q}}},"customData":{"ref":"refs/heads/main","after":%q}}`,
		name, typ, time.Now().UTC().Format(time.RFC3339), name, address, commit))
}

func (i *install) event(t *testing.T, id, typ, data string) event.Event {
	t.Helper()
	e := event.New()
	e.SetID(id)
	e.SetSource("/ci")
	e.SetType(typ)
	check(t, e.SetData("application/json", json.RawMessage(data)))
	return e
}
