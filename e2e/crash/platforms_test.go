package crash

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// platformPoints are the steps that a build for two platforms has besides those of
// any build.
func platformPoints(first, second string) []string {
	return []string{
		"after create builds/" + first + "/request.json", "before launch " + first, "after launch " + first,
		"before launch " + second, "after launch " + second, "before publish dev.kilnhook.build.started.v1 *",
		"before create builds/" + first + "/result.json", "after create builds/" + first + "/result.json",
		"before create builds/" + second + "/result.json", "after create builds/" + second + "/result.json",
	}
}

// Killed at any step of a build for two platforms: one index of both, which the
// tag names, told once; what a platform came to is not built again.
func TestPlatformsKilled(t *testing.T) {
	whole := buildID(1, "0", "a")
	amd64, arm64 := events.PartID(whole, "linux/amd64"), events.PartID(whole, "linux/arm64")
	points := append(platformPoints(amd64, arm64), "before index", "after index",
		"before create builds/"+whole+"/result.json", "after create builds/"+whole+"/result.json", "before tags", "after tags",
		"before publish dev.kilnhook.build.finished.v1 *", "after publish dev.kilnhook.build.finished.v1 *", "after delete open/*/*")
	for _, at := range points {
		t.Run(strings.NewReplacer(" ", "_", "/", ".", "*", "x").Replace(at), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, "FROM x")
			l.platforms = []string{"linux/amd64", "linux/arm64"}
			first := l.start(at)
			first.push(t, "0", "a")
			first.died(t, at)
			built := map[string]string{}
			for _, part := range []string{amd64, arm64} {
				if data, err := os.ReadFile(l.path(record.ResultKey(part))); err == nil {
					built[part] = digestOf(t, data)
				}
			}
			second := l.start("")
			l.await(at, whole)
			second.kill()
			l.check(at, whole)
			l.checkIndex(t, whole)
			for part, digest := range built {
				if got := l.outcome(part).Digest; got != digest {
					t.Errorf("%s was built again: %s, %s before", part, got, digest)
				}
			}
		})
	}
}

func digestOf(t *testing.T, data []byte) string {
	t.Helper()
	var c record.Claim
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	return c.Digest
}

// checkIndex looks whether the build's image is the index of what its platforms
// came to.
func (l *lab) checkIndex(t *testing.T, whole string) {
	t.Helper()
	ref, err := name.ParseReference(l.registry + "/app:main")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, d := range manifest.Manifests {
		got = append(got, d.Platform.String()+" "+d.Digest.String())
		if _, err := index.Image(d.Digest); err != nil {
			t.Errorf("the image for %s: %v", d.Platform, err)
		}
	}
	for _, p := range l.platforms {
		want = append(want, p+" "+l.outcome(events.PartID(whole, p)).Digest)
	}
	if !slices.Equal(got, want) {
		t.Errorf("index %q, want %q", got, want)
	}
}

// Killed at any step of a build one of whose platforms fails: it ends once, as
// failed, with the platform's name, and nothing runs on.
func TestPlatformFailsKilled(t *testing.T) {
	whole := buildID(1, "0", "a")
	arm64 := events.PartID(whole, "linux/arm64")
	for _, at := range []string{
		"", "before create builds/" + arm64 + "/result.json", "after create builds/" + arm64 + "/result.json",
		"before create builds/" + whole + "/result.json", "after create builds/" + whole + "/result.json",
		"before stop", "after stop", "before publish dev.kilnhook.build.finished.v1 *", "after publish dev.kilnhook.build.finished.v1 *", "after delete open/*/*",
	} {
		t.Run(strings.NewReplacer(" ", "_", "/", ".", "*", "x").Replace(at), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, "# on linux/arm64 fail")
			l.platforms = []string{"linux/amd64", "linux/arm64", "linux/s390x"}
			s := l.start(at)
			s.push(t, "0", "a")
			if at != "" {
				s.died(t, at)
				s = l.start("")
			}
			l.await(at, whole)
			if status := s.push(t, "0", "a"); status != http.StatusAccepted {
				t.Errorf("redelivery: %d", status)
			}
			got := l.outcome(whole)
			if got.Outcome != events.OutcomeFailed || got.Class != events.ClassBuild || !strings.HasPrefix(got.Message, "linux/arm64: Dockerfile:2") {
				t.Errorf("%+v", got)
			}
			s.kill()
			if told := l.told(t); len(told) != 1 || told[events.FinishedID(whole)] != 1 {
				t.Errorf("told %v", told)
			}
		})
	}
}
