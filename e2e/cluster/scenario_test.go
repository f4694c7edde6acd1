package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
	"github.com/kilnhook/kiln/e2e/scenario"
	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/git"
	"github.com/kilnhook/kiln/infra/local/example"
)

// buildLimit is how long a build may take on a busy machine.
const buildLimit = 3 * time.Minute

// TestCluster proves, on a real node, that an upload and a push each run an
// executor pod whose image's digest comes back in the completion event, in every
// profile and with equal images, and that every way a pod can end has its outcome.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	i := newInstall(t)
	site := t.TempDir()
	check(t, example.Write(site))
	var refs []string
	for _, profile := range []string{"default", "inplace", "overlay"} {
		t.Run(profile, func(t *testing.T) {
			i.apply(t, profile)
			i.upload(t, site, profile+"-up.tar.gz")
			refs = append(refs, i.succeeds(t, profile+"-up"))
			work := t.TempDir()
			check(t, os.CopyFS(work, os.DirFS(site)))
			i.git.push(t, profile+"-push", work, git.HeaderRepository)
			refs = append(refs, i.succeeds(t, profile+"-push"))
		})
	}
	t.Run("equal", func(t *testing.T) { i.equal(t, refs) })
	i.apply(t, "default")
	t.Run("out of memory", func(t *testing.T) {
		i.fails(t, "oom", "FROM debian:bookworm-slim\nRUN tail /dev/zero\n", events.OutcomeFailed, events.ClassOOM, "")
	})
	t.Run("a RUN fails", func(t *testing.T) {
		i.fails(t, "failing", "FROM debian:bookworm-slim\nRUN echo oh no; exit 3\n", events.OutcomeFailed, events.ClassBuild, "oh no")
	})
	t.Run("deleted", func(t *testing.T) { i.deleted(t) })
	t.Run("dispatcher killed", func(t *testing.T) { i.dispatcherKilled(t) })
	t.Run("evicted", func(t *testing.T) { i.evicted(t) })
	t.Run("out of disk", func(t *testing.T) { i.outOfDisk(t) })
	t.Run("too late", func(t *testing.T) { i.tooLate(t) })
	t.Run("finisher killed", func(t *testing.T) { i.finisherKilled(t) })
	t.Run("scenarios", func(t *testing.T) { i.scenarios(t) })
	t.Run("no node for a platform", func(t *testing.T) { i.otherNode(t) })
	t.Run("restricted", func(t *testing.T) { i.restricted(t) })
	t.Run("no image", func(t *testing.T) { i.noImage(t) })
	t.Run("one outcome each", func(t *testing.T) { i.oneOutcomeEach(t, 14+4+scenario.Builds()) })
	t.Run("kiln --kube", func(t *testing.T) { i.kube(t) })
}

// image is the repository of what is built of an object or repository.
func (i *install) image(name string) string { return i.Registry() + "/built/" + name }

// succeeds waits for a build's success and returns the reference of its image,
// which its tag names too.
func (i *install) succeeds(t *testing.T, name string) string {
	t.Helper()
	e, data := i.sink.finished(t, i.image(name), buildLimit)
	if data.Outcome != events.OutcomeSuccess || !events.IsDigest(data.Image.Digest) {
		t.Fatalf("%s: %+v", name, data)
	}
	if e.Extensions()[events.ExtImageDigest] != data.Image.Digest {
		t.Errorf("%s: attribute imagedigest %v, data %s", name, e.Extensions()[events.ExtImageDigest], data.Image.Digest)
	}
	return i.image(name) + "@" + data.Image.Digest
}

// fails uploads a Dockerfile and waits for its build to end as it must.
func (i *install) fails(t *testing.T, name, dockerfile string, outcome events.Outcome, class events.Class, message string) {
	t.Helper()
	i.uploadDockerfile(t, name, dockerfile)
	i.ends(t, name, outcome, class, message)
}

func (i *install) ends(t *testing.T, name string, outcome events.Outcome, class events.Class, message string) {
	t.Helper()
	_, data := i.sink.finished(t, i.image(name), buildLimit)
	if data.Outcome != outcome || data.Class != class || !strings.Contains(data.Message, message) {
		t.Errorf("%s: %s %s %q, want %s %s %q", name, data.Outcome, data.Class, data.Message, outcome, class, message)
	}
}

func (i *install) uploadDockerfile(t *testing.T, name, dockerfile string) {
	t.Helper()
	i.uploadDockerfileTo(t, "contexts", name, dockerfile)
}

func (i *install) uploadDockerfileTo(t *testing.T, bucket, name, dockerfile string) {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content\n"), 0o644))
	i.uploadTo(t, bucket, dir, name+".tar.gz")
}

const slow = "FROM debian:bookworm-slim\nRUN echo begun; sleep 30\n"

// runs waits until the executor of a build runs, and returns its Job.
func (i *install) runs(t *testing.T, name string) (job string) {
	t.Helper()
	eventually(t, buildLimit, "a running executor of "+name, func() bool {
		out := i.kubectl(t, "-n", "kiln-builds", "get", "pods", "--field-selector=status.phase=Running",
			"-o", `jsonpath={range .items[*]}{.metadata.labels.job-name} {.metadata.annotations.kilnhook\.dev/request}{"\n"}{end}`)
		for line := range strings.Lines(out) {
			if strings.Contains(line, `"`+i.image(name)+`"`) {
				job, _, _ = strings.Cut(line, " ")
			}
		}
		return job != ""
	})
	return job
}

// deleted proves that a build whose Job somebody deletes is cancelled.
func (i *install) deleted(t *testing.T) {
	i.uploadDockerfile(t, "deleted", slow)
	i.kubectl(t, "-n", "kiln-builds", "delete", "job", i.runs(t, "deleted"), "--wait=false")
	i.ends(t, "deleted", events.OutcomeCancelled, events.ClassDeleted, "")
}

// dispatcherKilled proves that a build outlives the dispatcher, and that the next
// one brings it to its end.
func (i *install) dispatcherKilled(t *testing.T) {
	i.uploadDockerfile(t, "orphan", "FROM debian:bookworm-slim\nRUN sleep 8\n")
	i.runs(t, "orphan")
	i.kubectl(t, "-n", "kiln", "delete", "pod", "-l", "app.kubernetes.io/name=kiln-dispatcher", "--grace-period=0", "--force")
	i.succeeds(t, "orphan")
}

// restricted proves that a pod which satisfies the standard "restricted" builds a
// Dockerfile without RUN, and says of one with RUN what it lacks.
func (i *install) restricted(t *testing.T) {
	i.apply(t, "restricted")
	i.kubectl(t, "label", "--overwrite", "namespace", "kiln-builds", "pod-security.kubernetes.io/enforce=restricted")
	i.uploadDockerfile(t, "copies", "FROM debian:bookworm-slim\nCOPY file /srv/\nENV A=b\n")
	i.succeeds(t, "copies")
	i.fails(t, "refused", "FROM debian:bookworm-slim\nRUN true\n", events.OutcomeFailed, events.ClassBuild, "run it as root, or without a seccomp filter")
}

// noImage proves that a build whose executor cannot be pulled ends with the
// reason, and its Job with it.
func (i *install) noImage(t *testing.T) {
	i.kubectl(t, "label", "--overwrite", "namespace", "kiln-builds", "pod-security.kubernetes.io/enforce=baseline")
	i.applySetup(t, setup{config: "base", profile: "default", image: i.Registry() + "/kiln/none:test"})
	i.uploadDockerfile(t, "noimage", "FROM scratch\nCOPY file /\n")
	i.ends(t, "noimage", events.OutcomeError, events.ClassInfraStart, "none:test")
	eventually(t, time.Minute, "no Job that waits", func() bool {
		return !strings.Contains(i.kubectl(t, "-n", "kiln-builds", "get", "pods", "-o", "jsonpath={.items[*].status.phase}"), "Pending")
	})
}

// oneOutcomeEach proves that so many builds ended, that every build has one terminal event id, and that the
// same id always says the same.
func (i *install) oneOutcomeEach(t *testing.T, want int) {
	outcomes := map[string]string{}
	for _, e := range i.sink.all(events.TypeBuildFinished) {
		if e.ID() != events.FinishedID(e.Extensions()[events.ExtBuildID].(string)) {
			t.Errorf("event id %s of build %v", e.ID(), e.Extensions()[events.ExtBuildID])
		}
		if before, ok := outcomes[e.ID()]; ok && before != string(e.Data()) {
			t.Errorf("%s came with two contents:\n%s\n%s", e.ID(), before, e.Data())
		}
		outcomes[e.ID()] = string(e.Data())
	}
	if len(outcomes) != want {
		t.Errorf("%d builds ended, want %d", len(outcomes), want)
	}
}

// equal proves that images are the same but for when they were built.
func (i *install) equal(t *testing.T, refs []string) {
	t.Helper()
	if len(refs) < 2 {
		t.Fatalf("there are %d images to compare", len(refs))
	}
	// All of them stand on this one, which is read once, as is the first.
	base, err := compare.Open(t.Context(), i.Registry()+"/"+debian, compare.OpenOptions{})
	check(t, err)
	var f compare.Flattener
	check(t, f.Learn(t.Context(), base))
	first, err := compare.Open(t.Context(), refs[0], compare.OpenOptions{})
	check(t, err)
	check(t, f.Learn(t.Context(), first))
	for _, ref := range refs[1:] {
		img, err := compare.Open(t.Context(), ref, compare.OpenOptions{})
		check(t, err)
		diffs, err := f.Images(t.Context(), first, img, compare.Options{Layers: true})
		check(t, err)
		for _, d := range diffs {
			t.Errorf("%s | %s: %s", refs[0], ref, d)
		}
	}
}
