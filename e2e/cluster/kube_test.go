package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/infra/local/api"
)

// cli is kiln as somebody has it who has a kubeconfig.
type cli struct {
	i   *install
	bin string // directory with kiln and kubectl-kiln
	env []string
}

func newCLI(t *testing.T, i *install) cli {
	t.Helper()
	c := cli{i: i, bin: t.TempDir()}
	run(t, "go", "build", "-trimpath", "-o", c.bin+"/", "../../infra/kiln")
	check(t, os.Symlink("kiln", filepath.Join(c.bin, "kubectl-kiln")))
	c.env = []string{"PATH=" + c.bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "KUBECONFIG=" + i.Kubeconfig()}
	return c
}

func (c cli) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "kiln"), args...)
	cmd.Env = c.env
	return cmd
}

// says runs kiln --kube and returns what it printed, on a success.
func (c cli) says(t *testing.T, args ...string) string {
	t.Helper()
	var out, problems bytes.Buffer
	cmd := c.command(t.Context(), append([]string{"--kube"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		t.Fatalf("kiln --kube %s: %v\n%s%s", strings.Join(args, " "), err, &out, &problems)
	}
	t.Logf("$ kiln --kube %s\n%s%s", strings.Join(args, " "), &out, &problems)
	return out.String()
}

// refuses runs kiln and returns what it says on its failure.
func (c cli) refuses(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.command(t.Context(), args...).CombinedOutput()
	if err == nil {
		t.Errorf("kiln %s succeeds: %s", strings.Join(args, " "), out)
	}
	t.Logf("$ kiln %s\n%s", strings.Join(args, " "), out)
	return string(out)
}

// build is the newest build of an object.
func (c cli) build(t *testing.T, object string) api.Build {
	t.Helper()
	var l api.List
	check(t, json.Unmarshal([]byte(c.says(t, "builds", "--json", "--name", object+".tar.gz")), &l))
	if len(l.Builds) == 0 {
		t.Fatalf("there is no build of %s", object)
	}
	return l.Builds[0]
}

// get is what the dispatcher answers at a path.
func (i *install) get(t *testing.T, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, i.URL()+path, nil)
	check(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, resp.StatusCode, body)
	}
	return string(body)
}

// lines gathers what a command prints.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// kube proves that kiln --kube, with nothing but a kubeconfig, lists builds, follows
// their logs, has them when Job, pod and dispatcher are gone, cancels and rebuilds; and
// that who lacks a right is told which.
func (i *install) kube(t *testing.T) {
	i.apply(t, "default")
	c := newCLI(t, i)
	t.Run("logs", func(t *testing.T) { c.logs(t) })
	t.Run("cancel", func(t *testing.T) { c.cancel(t) })
	t.Run("refusals", func(t *testing.T) { c.refusals(t) })
	t.Run("rights", func(t *testing.T) { c.rights(t) })
}

const chatty = "FROM debian:bookworm-slim\nRUN echo begun; sleep 12; echo over\n"

func (c cli) logs(t *testing.T) {
	site := t.TempDir()
	check(t, os.WriteFile(filepath.Join(site, "Dockerfile"), []byte("FROM scratch\nCOPY Dockerfile /\n"), 0o644))
	commit := c.i.git.keep(t, "asked", site)
	asked := c.says(t, "start", c.i.git.url+"/asked.git", "main", "--commit", commit)
	if id := regexp.MustCompile(`^build ([0-9a-v]{26}) \(new\)`).FindStringSubmatch(asked); id == nil {
		t.Error("what was asked for is not built")
	} else {
		c.says(t, "logs", "-f", id[1])
	}
	c.i.succeeds(t, "asked")
	c.i.uploadDockerfile(t, "chatty", chatty)
	job := c.i.runs(t, "chatty")
	b := c.build(t, "chatty")
	if job != "kiln-"+b.ID {
		t.Errorf("Job %s of build %s", job, b.ID)
	}
	eventually(t, 10*time.Second, "the build in the list of those that run", func() bool {
		return strings.Contains(c.says(t, "builds", "--state", "running"), b.ID[:10])
	})
	digest := c.live(t, "chatty", b, func() {
		if m := c.i.get(t, "/metrics"); !strings.Contains(m, `kiln_builds{state="running"} 1`) {
			t.Errorf("the build that runs is not counted:\n%s", m)
		}
	})
	// What is in the ledger needs neither Job nor the dispatcher that has followed it.
	c.i.kubectl(t, "-n", "kiln-builds", "delete", "job", job)
	c.i.restartDispatcher(t)
	c.kept(t, b, "begun", "over", digest)
	rebuilt := c.says(t, "rebuild", b.ID)
	again := c.build(t, "chatty")
	if again.ID == b.ID || !strings.Contains(rebuilt, again.ID) {
		t.Errorf("rebuild of %s: %s", b.ID, rebuilt)
	}
	if out := c.says(t, "logs", "-f", again.ID); !strings.Contains(out, "over") {
		t.Error("the log of the second build is not whole")
	}
	out := run(t, "env", "-i", c.env[0], c.env[1], c.env[2], "kubectl", "kiln", "builds", "--outcome", "success")
	if t.Logf("$ kubectl kiln builds --outcome success\n%s", out); !strings.Contains(out, b.ID[:10]) {
		t.Error("as a plugin of kubectl it does not list the build")
	}
}

// live follows the log of a build of chatty to its end, and proves that it comes while
// the build runs and is whole. during is called meanwhile.
func (c cli) live(t *testing.T, object string, b api.Build, during func()) (digest string) {
	t.Helper()
	var live lines
	follow := c.command(t.Context(), "--kube", "logs", "-f", b.ID[:10])
	follow.Stdout, follow.Stderr = &live, &live
	check(t, follow.Start())
	eventually(t, buildLimit, "what the RUN says first", func() bool { return strings.Contains(live.String(), "begun") })
	if text := live.String(); strings.Contains(text, "over\n") && !strings.Contains(text, "echo over") {
		t.Errorf("the log came only at its end:\n%s", text)
	}
	if c.build(t, object).Finished() {
		t.Error("the log was not live: the build is over")
	}
	during()
	if err := follow.Wait(); err != nil {
		t.Errorf("kiln --kube logs -f: %v", err)
	}
	t.Logf("$ kiln --kube logs -f %s\n%s", b.ID[:10], live.String())
	ref := c.i.succeeds(t, object)
	digest = ref[strings.Index(ref, "@")+1:]
	if text := live.String(); !strings.Contains(text, " over") || !strings.Contains(text, digest) {
		t.Errorf("the log has no end")
	}
	if page := c.i.get(t, "/builds/"+b.ID); !strings.Contains(page, "begun") || !strings.Contains(page, "RUN echo begun") {
		t.Errorf("the page has no timeline:\n%s", page)
	}
	return digest
}

// kept proves that the log of a build of chatty is there, and its steps.
func (c cli) kept(t *testing.T, b api.Build, words ...string) {
	t.Helper()
	text := c.says(t, "logs", b.ID)
	for _, want := range words {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the log that is kept", want)
		}
	}
	if out := c.says(t, "build", b.ID[:12]); !strings.Contains(out, "RUN echo") {
		t.Error("there are no steps")
	}
}

// restartDispatcher has another dispatcher take the place of the one that there is.
func (i *install) restartDispatcher(t *testing.T) {
	t.Helper()
	i.kubectl(t, "-n", "kiln", "rollout", "restart", "deployment/kiln-dispatcher")
	i.kubectl(t, "-n", "kiln", "rollout", "status", "deployment/kiln-dispatcher", "--timeout=120s")
}

func (c cli) cancel(t *testing.T) {
	c.i.uploadDockerfile(t, "stopped", slow)
	c.i.runs(t, "stopped")
	b := c.build(t, "stopped")
	var live lines
	ctx, stop := context.WithTimeout(t.Context(), buildLimit)
	defer stop()
	follow := c.command(ctx, "--kube", "logs", "-f", b.ID)
	follow.Stdout = &live
	check(t, follow.Start())
	eventually(t, buildLimit, "what the RUN says", func() bool { return strings.Contains(live.String(), " begun") })
	c.says(t, "cancel", b.ID[:10])
	check(t, follow.Wait())
	eventually(t, time.Minute, "the end of the build", func() bool {
		b = c.build(t, "stopped")
		return b.Finished()
	})
	if b.Result.Outcome != "cancelled" {
		t.Errorf("%+v", b.Result)
	}
	out := c.says(t, "logs", b.ID)
	if !strings.Contains(out, " begun") || !strings.Contains(out, "cancelled") || strings.Contains(out, "not whole") {
		t.Error("the log of what was cancelled is not kept whole")
	}
}

func (c cli) refusals(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"--kube=nowhere builds", "has no context nowhere: it has "},
		{"--kube -n elsewhere builds", "no dispatcher is in namespace elsewhere"},
		{"--kube --token wrong builds", "the token of --token or KILN_TOKEN is not one of the dispatcher's"},
		{"--kube logs 0123456", "no build begins with 0123456"},
		{"--kube submit .", "of the stack on one machine"},
	} {
		if out := c.refuses(t, strings.Fields(tc.args)...); !strings.Contains(out, tc.want) {
			t.Errorf("kiln %s does not say %q", tc.args, tc.want)
		}
	}
}

// rights proves that the Role for users is enough, and what is said to who has less.
func (c cli) rights(t *testing.T) {
	config := filepath.Join(t.TempDir(), "kubeconfig")
	raw, err := os.ReadFile(c.i.Kubeconfig())
	check(t, err)
	check(t, os.WriteFile(config, raw, 0o600))
	c.i.kubectl(t, "create", "serviceaccount", "somebody", "-n", "default")
	credential := strings.TrimSpace(c.i.kubectl(t, "create", "token", "somebody", "-n", "default"))
	cluster := c.i.kubectl(t, "config", "view", "-o", "jsonpath={.clusters[0].name}")
	for _, args := range [][]string{
		{"set-credentials", "somebody", "--token=" + credential}, {"set-context", "theirs", "--cluster=" + cluster, "--user=somebody"},
	} {
		run(t, "env", "-i", c.env[0], c.env[1], "kubectl", "--kubeconfig", config, "config", args[0], args[1], args[2], args[len(args)-1])
	}
	theirs := c
	theirs.env = append(theirs.env[:len(theirs.env):len(theirs.env)], "KUBECONFIG="+config)
	if out := theirs.refuses(t, "--kube=theirs", "builds"); !strings.Contains(out, "you may not list pods in namespace kiln of context theirs") {
		t.Error("who may nothing is not told so")
	}
	c.i.kubectl(t, "apply", "-f", "../../knative/config/users.yaml")
	c.i.kubectl(t, "-n", "kiln", "create", "rolebinding", "users", "--role=kiln-user", "--serviceaccount=default:somebody")
	if out := theirs.refuses(t, "--kube=theirs", "builds"); !strings.Contains(out, "you may not read Secret kiln-secrets") || !strings.Contains(out, "KILN_TOKEN") {
		t.Error("who lacks the token is not told so")
	}
	theirs.env = append(theirs.env, "KILN_TOKEN="+token)
	if out := theirs.says(t, "--context", "theirs", "builds"); !strings.Contains(out, "chatty") {
		t.Error("the Role for users is not enough")
	}
}
