package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/e2e/scenario"
	"github.com/kilnhook/kiln/events"
)

// podOf is the pod of a Job.
func (i *install) podOf(t *testing.T, job string) string {
	t.Helper()
	return i.kubectl(t, "-n", "kiln-builds", "get", "pods", "-l", "job-name="+job, "-o", "jsonpath={.items[0].metadata.name}")
}

// evicted proves that a build whose pod the cluster evicts, as when a node is
// drained, runs again and succeeds.
func (i *install) evicted(t *testing.T) {
	i.uploadDockerfile(t, "evicted", "FROM debian:bookworm-slim\nRUN sleep 6\n")
	job := i.runs(t, "evicted")
	pod := i.podOf(t, job)
	i.pipe(t, fmt.Appendf(nil, `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":"kiln-builds"}}`, pod),
		"create", "--raw", "/api/v1/namespaces/kiln-builds/pods/"+pod+"/eviction", "-f", "-")
	i.succeeds(t, "evicted")
	if next := i.podOf(t, job); next == pod {
		t.Errorf("pod %s was not evicted", pod)
	}
}

// outOfDisk proves that a build which uses more disk than it may is evicted by the
// kubelet, and told so.
func (i *install) outOfDisk(t *testing.T) {
	i.uploadDockerfileTo(t, "tight", "outofdisk", "FROM debian:bookworm-slim\nRUN head -c 300M /dev/zero >/big; sleep 120\n")
	i.ends(t, "outofdisk", events.OutcomeFailed, events.ClassDisk, "raise run.resources.disk")
}

// tooLate proves that a build which takes longer than its trigger lets it is
// stopped, and told so.
func (i *install) tooLate(t *testing.T) {
	i.uploadDockerfileTo(t, "hasty", "toolate", slow)
	i.ends(t, "toolate", events.OutcomeFailed, events.ClassTimeout, "raise run.timeout")
}

// leader is the pod of the dispatcher that follows builds, "" if none does.
func (i *install) leader(t *testing.T) string {
	t.Helper()
	holder := i.kubectl(t, "-n", "kiln-builds", "get", "lease", "kiln-finisher", "-o", "jsonpath={.spec.holderIdentity}")
	pod, _, _ := strings.Cut(holder, "_")
	return pod
}

// finisherKilled proves that of two dispatchers the other one brings a build to
// its end when the one that follows it is killed.
func (i *install) finisherKilled(t *testing.T) {
	scale := func(n string) {
		i.kubectl(t, "-n", "kiln", "scale", "deployment/kiln-dispatcher", "--replicas="+n)
		i.kubectl(t, "-n", "kiln", "rollout", "status", "deployment/kiln-dispatcher", "--timeout=120s")
	}
	scale("2")
	defer scale("1")
	eventually(t, time.Minute, "a leader", func() bool { return strings.HasPrefix(i.leader(t), "kiln-dispatcher-") })
	i.uploadDockerfile(t, "leaderless", "FROM debian:bookworm-slim\nRUN sleep 8\n")
	i.runs(t, "leaderless")
	killed := i.leader(t)
	i.kubectl(t, "-n", "kiln", "delete", "pod", killed, "--grace-period=0", "--force")
	i.succeeds(t, "leaderless")
	if now := i.leader(t); now == killed || now == "" {
		t.Errorf("the leader was %s and is %q", killed, now)
	}
}

// scenarios proves that what holds on one machine holds on the cluster.
func (i *install) scenarios(t *testing.T) {
	scenario.All(t, scenario.World{
		URL: i.URL(), Token: token, Root: i.git.root, Limit: buildLimit,
		Repository: func(name string) string { return i.git.url + "/" + name },
		Upload: func(t *testing.T, bucket, object string, body []byte) {
			t.Helper()
			file := filepath.Join(t.TempDir(), "object")
			check(t, os.WriteFile(file, body, 0o600))
			i.aws(t, "s3", "cp", file, "s3://"+bucket+"/"+object)
		},
		Image:    i.image,
		Finished: func() []event.Event { return i.sink.all(events.TypeBuildFinished) },
		Deaf:     i.sink.deaf.Store,
		Restart: func(t *testing.T) {
			t.Helper()
			i.kubectl(t, "-n", "kiln", "delete", "pod", "-l", "app.kubernetes.io/name=kiln-dispatcher", "--grace-period=0", "--force")
			i.awaitDispatcher(t)
		},
	}, "debian:bookworm-slim")
}

// otherNode proves that a build for a platform of which the cluster has no node says
// so, and ends as a whole.
func (i *install) otherNode(t *testing.T) {
	i.applySetup(t, setup{config: "base", profile: "default", ownNode: true})
	i.uploadDockerfileTo(t, "platforms", "othernode", "FROM scratch\nCOPY file /\n")
	i.ends(t, "othernode", events.OutcomeError, events.ClassInfraStart, "linux/arm64")
	i.applySetup(t, setup{config: "base", profile: "default"})
}
