package main_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/cluster/knative"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/git"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/example"
)

// TestKnative proves, with Knative Eventing on a real node, that the dispatcher
// gets its sink by a SinkBinding, that what became of builds arrives at a subscriber
// through the Broker, that a JobSink runs the same builds with the same images, and
// that changes come through the Broker too, which has to show who it is.
func TestKnative(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	i := newInstall(t)
	kept, err := cache.Default()
	check(t, err)
	eventing, err := knative.Compile(t.Context(), kept, "eventing", os.Stderr)
	check(t, err)
	check(t, eventing.Install(t.Context(), i, i.executor))
	site := t.TempDir()
	check(t, example.Write(site))
	var refs []string
	both := func(t *testing.T, name string) {
		i.upload(t, site, name+"-up.tar.gz")
		refs = append(refs, i.succeeds(t, name+"-up"))
		work := t.TempDir()
		check(t, os.CopyFS(work, os.DirFS(site)))
		i.git.push(t, name+"-push", work, git.HeaderRepository)
		refs = append(refs, i.succeeds(t, name+"-push"))
	}
	for _, profile := range []string{"inplace", "overlay"} {
		t.Run("broker, "+profile, func(t *testing.T) {
			i.applyEventing(t, setup{config: "eventing", profile: profile})
			both(t, "broker-"+profile)
		})
		if t.Failed() {
			return
		}
	}
	t.Run("profiles", func(t *testing.T) { i.profilesAreValid(t) })
	t.Run("Jobs are told of", func(t *testing.T) { i.jobsAreTold(t) })
	t.Run("JobSink", func(t *testing.T) {
		i.applyEventing(t, setup{config: "jobsink", profile: "default"})
		i.kubectl(t, "-n", "kiln-builds", "wait", "--for=condition=Ready", "jobsink/kiln", "--timeout=60s")
		both(t, "jobsink")
		i.fails(t, "jobsink-failing", "FROM debian:bookworm-slim\nRUN echo oh no; exit 3\n", events.OutcomeFailed, events.ClassBuild, "oh no")
		i.byJobSink(t, 3)
		i.jobSinkLogs(t)
	})
	t.Run("changes through the Broker", func(t *testing.T) { i.inbound(t) })
	t.Run("JobSink with tokens", func(t *testing.T) { i.jobSinkWithTokens(t) })
	t.Run("equal", func(t *testing.T) { i.equal(t, refs) })
	t.Run("one outcome each", func(t *testing.T) { i.oneOutcomeEach(t, 9+3) })
}

// applyEventing applies a setup with a Broker, and waits until it delivers.
func (i *install) applyEventing(t *testing.T, s setup) {
	t.Helper()
	i.applySetup(t, s)
	i.kubectl(t, "-n", "kiln", "wait", "--for=condition=Ready", "--timeout=120s", "broker/kiln", "trigger/subscriber",
		"sinkbinding/kiln-dispatcher", "apiserversource/kiln-jobs")
	// The binding may have changed the Deployment after it was applied.
	i.kubectl(t, "-n", "kiln", "rollout", "status", "deployment/kiln-dispatcher", "--timeout=120s")
	sink := i.kubectl(t, "-n", "kiln", "get", "deployment/kiln-dispatcher", "-o",
		`jsonpath={.spec.template.spec.containers[0].env[?(@.name=="K_SINK")].value}`)
	if want := "http://broker-ingress.knative-eventing.svc.cluster.local/kiln/kiln"; sink != want {
		t.Fatalf("K_SINK is %q, want %q", sink, want)
	}
}

// jobsAreTold proves that the states of Jobs are events in the Broker, and that
// they hold nothing of the request.
func (i *install) jobsAreTold(t *testing.T) {
	const typ = "dev.knative.apiserver.ref.update"
	eventually(t, time.Minute, typ, func() bool { return len(i.sink.all(typ)) > 0 })
	for _, e := range i.sink.all(typ) {
		if !strings.HasPrefix(e.Subject(), "/apis/batch/v1/namespaces/kiln-builds/jobs/kiln-") || strings.Contains(string(e.Data()), "annotations") {
			t.Errorf("%s", e)
		}
	}
}

// jobSinkLogs proves that what the executors of a JobSink say is followed and kept as
// that of others: live, to its end although the dispatcher that follows is killed, and
// when Jobs, pods and that dispatcher are gone.
func (i *install) jobSinkLogs(t *testing.T) {
	c := newCLI(t, i)
	asked := func(object, dockerfile string) (b api.Build) {
		i.uploadDockerfile(t, object, dockerfile)
		eventually(t, buildLimit, "a build of "+object, func() bool {
			var l api.List
			check(t, json.Unmarshal([]byte(c.says(t, "builds", "--json", "--name", object+".tar.gz")), &l))
			if len(l.Builds) > 0 {
				b = l.Builds[0]
			}
			return b.ID != ""
		})
		return b
	}
	followed := asked("jobsink-chatty", chatty)
	digest := c.live(t, "jobsink-chatty", followed, func() {})
	killed := asked("jobsink-led", chatty)
	eventually(t, buildLimit, "what the RUN says first", func() bool {
		return strings.Contains(i.get(t, "/v1/builds/"+killed.ID+"/log?format=text"), " begun")
	})
	i.kubectl(t, "-n", "kiln", "delete", "pods", "-l", "app.kubernetes.io/name=kiln-dispatcher", "--force", "--grace-period=0")
	i.succeeds(t, "jobsink-led")
	i.awaitDispatcher(t)
	for name, b := range map[string]api.Build{"jobsink-chatty": followed, "jobsink-led": killed, "jobsink-failing": c.build(t, "jobsink-failing")} {
		eventually(t, time.Minute, "the log of "+name+" in the ledger", func() bool {
			return strings.Contains(i.aws(t, "s3", "ls", "--recursive", "s3://ledger/kiln/builds/"+b.ID+"/"), "log.gz")
		})
	}
	i.kubectl(t, "-n", "kiln-builds", "delete", "jobs", "-l", "sinks.knative.dev/job-sink-name=kiln")
	i.restartDispatcher(t)
	c.kept(t, followed, "begun", "over", digest)
	c.kept(t, killed, "begun", "over")
	c.kept(t, c.build(t, "jobsink-failing"), "oh no")
}

// byJobSink proves that so many Jobs were made by the JobSink, and none by the
// dispatcher.
func (i *install) byJobSink(t *testing.T, want int) {
	t.Helper()
	out := i.kubectl(t, "-n", "kiln-builds", "get", "jobs", "-l", "sinks.knative.dev/job-sink-name=kiln", "-o", "name")
	if got := len(strings.Fields(out)); got != want {
		t.Errorf("the JobSink made %d Jobs, want %d:\n%s", got, want, out)
	}
	if denied := i.kubectl(t, "auth", "can-i", "--list", "-n", "kiln-builds", "--as=system:serviceaccount:kiln:kiln-dispatcher"); strings.Contains(denied, "jobs") {
		t.Errorf("the dispatcher may still make Jobs:\n%s", denied)
	}
}
