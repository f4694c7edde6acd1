package main_test

import (
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/kilnhook/kiln/e2e/scenario"
)

// setup is a way to install Kiln.
type setup struct {
	config  string // directory below knative/config
	profile string // of builds
	adds    string // component below knative/config; "" is none
	image   string // of the executor; "" is the working tree's
	suspend bool   // Jobs wait, for nobody
	ownNode bool   // each platform is built on a node of its own kind
}

// overlay is a kustomization of the tests on top of Kiln's own.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{{.Base}}{{if .Broker}}, subscriber.yaml{{end}}]
{{- if .Adds}}
components: [{{.Adds}}]
{{- end}}
images:
  - {name: kiln-dispatcher, newName: {{.Registry}}/kiln/dispatcher, newTag: test}
  - {name: kiln-executor, newName: {{.Registry}}/kiln/executor, newTag: test}
configMapGenerator:
  - {name: kiln-config, namespace: kiln, behavior: merge, files: [kiln.yaml, jobs.yaml]}
  - name: kiln-environment
    namespace: kiln
    behavior: merge
    literals:
      - KILN_LEDGER=s3://ledger/kiln
      - S3_ENDPOINT={{.S3Inside}}
      - S3_FORCE_PATH_STYLE=true
      - AWS_REGION=us-east-1
{{- if not .Broker}}
      - KILN_BUS=sink
      - K_SINK={{.Sink}}
{{- end}}
secretGenerator:
  - name: kiln-secrets
    namespace: kiln
    literals:
      - KILN_TOKEN={{.Token}}
      - KILN_RESULT_KEY=nobody-guesses-this-key
      - AWS_ACCESS_KEY_ID={{.S3.AccessKey}}
      - AWS_SECRET_ACCESS_KEY={{.S3.SecretKey}}
{{- range $name, $value := .Secrets}}
      - {{printf "%s=%s" $name $value | printf "%q"}}
{{- end}}
patches:
  - target: {version: v1, kind: Service, name: kiln-dispatcher}
    patch: |-
      - {op: add, path: /spec/type, value: NodePort}
      - {op: add, path: /spec/ports/0/nodePort, value: {{.NodePort}}}
  - target: {kind: Deployment, name: kiln-dispatcher}
    patch: |-
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: --insecure-registry={{.Registry}}}
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: --sweep=5s}
{{- if .JobSink}}
  - target: {kind: JobSink, name: kiln}
    patch: |-
      - {op: add, path: /spec/job/spec/template/spec/containers/0/args/-, value: --insecure-registry={{.Registry}}}
      - {op: add, path: /spec/job/spec/template/spec/containers/0/args/-, value: --registry-map=index.docker.io={{.Registry}}}
      - {op: add, path: /spec/job/spec/template/spec/containers/0/args/-, value: --skip-default-registry-fallback}
      - op: add
        path: /spec/job/spec/template/spec/containers/0/env
        value:
          - {name: GIT_PULL_METHOD, value: http}
          - {name: S3_ENDPOINT, value: "{{.S3Inside}}"}
          - {name: S3_FORCE_PATH_STYLE, value: "true"}
          - {name: AWS_REGION, value: us-east-1}
          - {name: AWS_ACCESS_KEY_ID, value: "{{.S3.AccessKey}}"}
          - {name: AWS_SECRET_ACCESS_KEY, value: "{{.S3.SecretKey}}"}
{{- end}}
`

// tight is a trigger of builds that may use little disk.
const tight = `
  - name: tight
    on: {object: {bucket: s3://tight, suffix: .tar.gz}}
    push: {image: "REGISTRY/built/{{ .Object.Stem | slug }}", tags: [latest]}
    run: {timeout: 3m, resources: {disk: 64Mi}}
`

// jobs are the options of Jobs.
const jobs = `image: {{.Image}}
profile: {{.Profile}}
serviceAccount: kiln-executor
suspend: {{.Suspend}}
pendingTimeout: 20s
anyNode: {{.AnyNode}}
flags: ["--registry-map=index.docker.io={{.Registry}}", "--skip-default-registry-fallback"]
resources: {limits: {memory: 512Mi}}
env:
  - {name: GIT_PULL_METHOD, value: http}
  - {name: S3_ENDPOINT, value: "{{.S3Inside}}"}
  - {name: S3_FORCE_PATH_STYLE, value: "true"}
  - {name: AWS_REGION, value: us-east-1}
  - {name: AWS_ACCESS_KEY_ID, value: "{{.S3.AccessKey}}"}
  - {name: AWS_SECRET_ACCESS_KEY, value: "{{.S3.SecretKey}}"}
`

// subscriber is the test's server as a Service of the cluster, and what the Broker
// sends there.
const subscriber = `apiVersion: v1
kind: Service
metadata: {name: subscriber, namespace: kiln}
spec:
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: subscriber
  namespace: kiln
  labels: {kubernetes.io/service-name: subscriber}
addressType: IPv4
ports: [{name: http, port: {{.SinkPort}}}]
endpoints: [{addresses: ["{{.SinkIP}}"]}]
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: subscriber, namespace: kiln}
spec:
  broker: kiln
  subscriber:
    ref: {apiVersion: v1, kind: Service, name: subscriber}
`

// apply applies Kiln's manifests with a profile for builds, and waits until the
// dispatcher serves.
func (i *install) apply(t *testing.T, profile string) {
	t.Helper()
	i.applySetup(t, setup{config: "base", profile: profile})
}

// applySetup is apply for any way to install Kiln.
func (i *install) applySetup(t *testing.T, s setup) {
	t.Helper()
	dir := t.TempDir()
	base, err := filepath.Abs(filepath.Join("../../knative/config", s.config))
	check(t, err)
	base, err = filepath.Rel(dir, base)
	check(t, err)
	adds := ""
	if s.adds != "" {
		adds = filepath.Join(base, "..", s.adds)
	}
	if s.image == "" {
		s.image = i.Registry() + "/kiln/executor:test"
	}
	sink, err := url.Parse(i.sink.url)
	check(t, err)
	values := map[string]any{
		"Base": base, "Adds": adds, "Registry": i.Registry(), "Sink": i.sink.url, "S3Inside": i.s3Inside, "S3": i.s3, "Token": token,
		"NodePort": nodePort, "Profile": s.profile, "Image": s.image, "Suspend": s.suspend, "AnyNode": !s.ownNode, "Secrets": scenario.Secrets(),
		"Broker": s.config != "base", "JobSink": s.config == "jobsink", "SinkIP": sink.Hostname(), "SinkPort": sink.Port(),
	}
	for name, text := range map[string]string{
		"kustomization.yaml": overlay, "jobs.yaml": jobs, "subscriber.yaml": subscriber,
	} {
		f, err := os.Create(filepath.Join(dir, name))
		check(t, err)
		check(t, errors.Join(template.Must(template.New(name).Parse(text)).Execute(f, values), f.Close()))
	}
	what := "triggers:" + scenario.Triggers(i.Registry()) + strings.ReplaceAll(tight, "REGISTRY", i.Registry())
	check(t, os.WriteFile(filepath.Join(dir, "kiln.yaml"), []byte(what), 0o644))
	i.kubectl(t, "apply", "-k", dir)
	if s.profile == "overlay" {
		// The pod's user namespace makes what the standard forbids harmless, but
		// the admission of this version cannot know.
		i.kubectl(t, "label", "--overwrite", "namespace", "kiln-builds", "pod-security.kubernetes.io/enforce=privileged")
	}
	i.kubectl(t, "-n", "kiln", "rollout", "status", "deployment/kiln-dispatcher", "--timeout=120s")
	i.awaitDispatcher(t)
}

// awaitDispatcher waits until the dispatcher answers, and goes on to.
func (i *install) awaitDispatcher(t *testing.T) {
	t.Helper()
	// The node's proxy learns a moment later which pod is there now.
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	inRow := 0
	eventually(t, time.Minute, "the dispatcher answers", func() bool {
		resp, err := client.Get(i.URL() + "/healthz")
		if err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusOK {
			inRow = 0
		} else {
			inRow++
		}
		return inRow == 5
	})
}
