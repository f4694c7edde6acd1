package main_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/kilnhook/kiln/e2e/cluster/node"
	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/e2e/servers"
)

const (
	nodePort = "30080" // of the dispatcher
	token    = "let-the-tests-in"
)

// install is Kiln on a real node, and everything around it.
type install struct {
	*node.Node
	executor string // the binary
	s3       servers.S3
	s3Inside string // its URL as pods see it
	git      *gitServer
	sink     *sink
}

// newInstall starts a node with the images of the working tree in its registry,
// and the servers that pods and the dispatcher talk to. Nothing is applied yet.
func newInstall(t *testing.T) *install {
	t.Helper()
	if os.Getenv("KILN_CLUSTER") == "" {
		t.Skip("this makes a Kubernetes node, which is compiled the first time: set KILN_CLUSTER=1, or run make e2e")
	}
	need.Root(t)
	for _, command := range []string{"ip", "iptables", "docker-registry", "mmdebstrap", "curl", "git", "busybox"} {
		need.Command(t, command)
	}
	dir, err := cache.Default()
	check(t, err)
	programs, err := node.Compile(t.Context(), dir, ".", node.Built, os.Stderr)
	check(t, err)
	cfg, err := node.NewConfig(t.TempDir(), programs, node.Built)
	check(t, err)
	cfg.Bound = true
	bin := t.TempDir()
	run(t, "go", "build", "-o", bin+"/", ".", "../../executor")
	n, err := node.Start(t.Context(), cfg, []string{filepath.Join(bin, "cluster"), "init"})
	check(t, err)
	i := &install{Node: n, executor: filepath.Join(bin, "executor")}
	t.Cleanup(func() {
		if t.Failed() {
			i.describe(t)
		}
		check(t, n.Stop())
	})
	i.pushImages(t, dir)
	i.sink = newSink(t, n.HostIP())
	relay := listen(t, "127.0.0.1", withToken(i.URL()+"/hooks/s3"))
	i.s3 = servers.Versity(t, servers.VersityOptions{Webhook: relay})
	i.s3Inside = "http://" + forward(t, n.HostIP(), strings.TrimPrefix(i.s3.URL, "http://"))
	i.git = newGitServer(t, n.HostIP(), i.URL())
	for _, bucket := range []string{"contexts", "ledger"} {
		i.aws(t, "s3", "mb", "s3://"+bucket)
	}
	return i
}

// URL is where the dispatcher's doors are for the host.
func (i *install) URL() string { return "http://" + net.JoinHostPort(i.IP(), nodePort) }

// pushImages puts Kiln's images, made with its own executor, and a base image
// into the node's registry.
func (i *install) pushImages(t *testing.T, dir cache.Dir) {
	t.Helper()
	out := t.TempDir()
	build := exec.CommandContext(t.Context(), "../../infra/images/build", out)
	build.Env = append(os.Environ(), "EXECUTOR="+i.executor, "VERSION=v0.0.0-test")
	_, err := process.Run(t.Context(), build, nil)
	check(t, err)
	layouts, err := filepath.Glob(filepath.Join(out, "*", "*"))
	check(t, err)
	for _, layout := range layouts {
		if name := filepath.Base(layout); name == "executor" || name == "dispatcher" {
			run(t, i.executor, "push", layout, "--destination="+i.Registry()+"/kiln/"+name+":test", "--insecure-registry="+i.Registry())
		}
	}
	debian, err := baseimage.Debian(t.Context(), dir, os.Stderr)
	check(t, err)
	_, err = baseimage.Push(t.Context(), debian, i.Registry()+"/library/debian:bookworm-slim")
	check(t, err)
}

// overlay is a kustomization of the tests on top of Kiln's own.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{{.Base}}]
images:
  - {name: kiln-dispatcher, newName: {{.Registry}}/kiln/dispatcher, newTag: test}
configMapGenerator:
  - {name: kiln-config, namespace: kiln, behavior: merge, files: [kiln.yaml, jobs.yaml]}
  - name: kiln-environment
    namespace: kiln
    behavior: merge
    literals:
      - KILN_LEDGER=s3://ledger/kiln
      - KILN_BUS=sink
      - K_SINK={{.Sink}}
      - S3_ENDPOINT={{.S3Inside}}
      - S3_FORCE_PATH_STYLE=true
      - AWS_REGION=us-east-1
secretGenerator:
  - name: kiln-secrets
    namespace: kiln
    literals: [KILN_TOKEN={{.Token}}, AWS_ACCESS_KEY_ID={{.S3.AccessKey}}, AWS_SECRET_ACCESS_KEY={{.S3.SecretKey}}]
patches:
  - target: {kind: Service, name: kiln-dispatcher}
    patch: |-
      - {op: add, path: /spec/type, value: NodePort}
      - {op: add, path: /spec/ports/0/nodePort, value: {{.NodePort}}}
  - target: {kind: Deployment, name: kiln-dispatcher}
    patch: |-
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: --insecure-registry={{.Registry}}}
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: --sweep=5s}
`

// triggers build what the tests upload and push.
const triggers = `triggers:
  - name: upload
    on: {object: {bucket: s3://contexts, suffix: .tar.gz}}
    push: {image: "{{.Registry}}/built/{{"{{ .Object.Stem | slug }}"}}", tags: [latest]}
    run: {timeout: 2m}
  - name: push
    on: {git: {repo: "**"}}
    push: {image: "{{.Registry}}/built/{{"{{ .Repo.Name | slug }}"}}", tags: ["{{"{{ .Ref.Slug }}"}}"]}
    run: {timeout: 2m}
`

// jobs are the options of Jobs.
const jobs = `image: {{.Image}}
profile: {{.Profile}}
serviceAccount: kiln-executor
pendingTimeout: 20s
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

// apply applies Kiln's manifests with a profile for builds, and waits until the
// dispatcher serves.
func (i *install) apply(t *testing.T, profile string) {
	t.Helper()
	i.applyImage(t, profile, i.Registry()+"/kiln/executor:test")
}

// applyImage is apply with another image for the executor.
func (i *install) applyImage(t *testing.T, profile, image string) {
	t.Helper()
	dir := t.TempDir()
	base, err := filepath.Abs("../../knative/config/base")
	check(t, err)
	base, err = filepath.Rel(dir, base)
	check(t, err)
	values := map[string]any{
		"Base": base, "Registry": i.Registry(), "Sink": i.sink.url, "S3Inside": i.s3Inside, "S3": i.s3, "Token": token,
		"NodePort": nodePort, "Profile": profile, "Image": image,
	}
	for name, text := range map[string]string{"kustomization.yaml": overlay, "kiln.yaml": triggers, "jobs.yaml": jobs} {
		f, err := os.Create(filepath.Join(dir, name))
		check(t, err)
		check(t, errors.Join(template.Must(template.New(name).Parse(text)).Execute(f, values), f.Close()))
	}
	i.kubectl(t, "apply", "-k", dir)
	if profile == "overlay" {
		// The pod's user namespace makes what the standard forbids harmless, but
		// the admission of this version cannot know.
		i.kubectl(t, "label", "--overwrite", "namespace", "kiln-builds", "pod-security.kubernetes.io/enforce=privileged")
	}
	i.kubectl(t, "-n", "kiln", "rollout", "status", "deployment/kiln-dispatcher", "--timeout=120s")
}

// kubectl runs kubectl and returns what it printed.
func (i *install) kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := process.Run(t.Context(), i.Kubectl(t.Context(), args...), nil)
	check(t, err)
	return string(out)
}

// describe prints what helps to find out why a test failed.
func (i *install) describe(t *testing.T) {
	for _, args := range []string{
		"get pods -A -o wide", "-n kiln-builds get jobs", "-n kiln logs deployment/kiln-dispatcher --tail=40",
		"-n kiln-builds get events --sort-by=.lastTimestamp", "-n kiln-builds logs -l app.kubernetes.io/name=kiln-executor --tail=20",
	} {
		cmd := i.Kubectl(context.Background(), strings.Fields(args)...)
		out, _ := cmd.CombinedOutput() // whatever it says
		t.Logf("kubectl %s\n%s", args, out)
	}
}

// aws runs the AWS command line on the test's S3.
func (i *install) aws(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), need.Command(t, "aws"), append([]string{"--endpoint-url", i.s3.URL}, args...)...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+i.s3.AccessKey, "AWS_SECRET_ACCESS_KEY="+i.s3.SecretKey,
		"AWS_DEFAULT_REGION="+i.s3.Region, "AWS_EC2_METADATA_DISABLED=true")
	_, err := process.Run(t.Context(), cmd, nil)
	check(t, err)
}

// upload packs a directory and uploads it as an object.
func (i *install) upload(t *testing.T, dir, object string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "context.tar.gz")
	run(t, "tar", "-czf", file, "-C", dir, ".")
	i.aws(t, "s3", "cp", file, "s3://contexts/"+object)
}

// forward passes connections to an address of the host on to another, and
// returns the first.
func forward(t *testing.T, ip, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go pass(in, to)
		}
	}()
	return l.Addr().String()
}

// listen serves a handler on an address of the host and returns its URL.
func listen(t *testing.T, ip string, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	check(t, err)
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }() // it ends when it is closed
	t.Cleanup(func() { check(t, server.Close()) })
	return "http://" + l.Addr().String()
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := process.Run(t.Context(), exec.CommandContext(t.Context(), name, args...), nil)
	check(t, err)
	return string(out)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(fmt.Errorf("%s: not within %s", what, limit))
		}
	}
}
