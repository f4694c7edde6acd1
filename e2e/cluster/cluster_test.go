package main_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/cluster/node"
	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/e2e/scenario"
	"github.com/kilnhook/kiln/e2e/servers"
)

const (
	nodePort = "30080" // of the dispatcher
	token    = "let-the-tests-in"
	debian   = "library/debian:bookworm-slim" // the base image, in the registry
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
	cfg.Kubelet = []string{"volumeStatsAggPeriod: 2s"} // how soon it sees that a build uses too much disk
	bin := t.TempDir()
	run(t, "go", "build", "-trimpath", "-o", bin+"/", ".", "../../executor")
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
	for _, bucket := range append(scenario.Buckets(), "ledger", "tight") {
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
	root, err := baseimage.Debian(t.Context(), dir, os.Stderr)
	check(t, err)
	_, err = baseimage.Push(t.Context(), root, i.Registry()+"/"+debian)
	check(t, err)
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
func (i *install) aws(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), need.Command(t, "aws"), append([]string{"--endpoint-url", i.s3.URL}, args...)...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+i.s3.AccessKey, "AWS_SECRET_ACCESS_KEY="+i.s3.SecretKey,
		"AWS_DEFAULT_REGION="+i.s3.Region, "AWS_EC2_METADATA_DISABLED=true")
	out, err := process.Run(t.Context(), cmd, nil)
	check(t, err)
	return string(out)
}

// upload packs a directory and uploads it as an object.
func (i *install) upload(t *testing.T, dir, object string) {
	t.Helper()
	i.uploadTo(t, "contexts", dir, object)
}

// uploadTo is upload to any bucket.
func (i *install) uploadTo(t *testing.T, bucket, dir, object string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "context.tar.gz")
	run(t, "tar", "-czf", file, "-C", dir, ".")
	i.aws(t, "s3", "cp", file, "s3://"+bucket+"/"+object)
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
