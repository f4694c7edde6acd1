package scenario

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
)

// archive is a context with a Dockerfile alone.
func archive(t *testing.T, dockerfile string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	a := tar.NewWriter(z)
	check(t, a.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(dockerfile)), ModTime: time.Unix(1795400000, 0)}))
	_, err := a.Write([]byte(dockerfile))
	check(t, err)
	check(t, a.Close())
	check(t, z.Close())
	return out.Bytes()
}

// upload uploads a context of the story.
func (s *story) upload(t *testing.T, bucket, dockerfile string) {
	t.Helper()
	s.Upload(t, bucket, s.name+".tar.gz", archive(t, dockerfile))
}

// builds asks the API for the builds of the story's image.
func (s *story) builds(t *testing.T) []string {
	t.Helper()
	var answer struct{ Builds []struct{ ID string } }
	s.ask(t, http.MethodGet, "builds?image="+s.Image(s.name), "", &answer)
	var ids []string
	for _, b := range answer.Builds {
		ids = append(ids, b.ID)
	}
	return ids
}

// emptyFirst proves that the empty object which some clients make before they upload
// is not built.
func emptyFirst(t *testing.T, s *story) {
	s.Upload(t, "contexts", s.name+".tar.gz", nil)
	s.upload(t, "contexts", "FROM scratch\nCOPY Dockerfile /\n")
	if data := s.end(t, 1); data.Outcome != events.OutcomeSuccess || s.tagged(t) != data.Image.Digest {
		t.Errorf("%+v", data)
	}
	if ids := s.builds(t); len(ids) != 1 {
		t.Errorf("the builds are %v", ids)
	}
}

// replaced proves that each content of an object is built, and that its tag follows.
func replaced(t *testing.T, s *story) {
	var ids, digests, generations []string
	for n := range 2 {
		s.upload(t, "contexts", fmt.Sprintf("FROM scratch\nCOPY Dockerfile /\nENV N=%d\n", n))
		data := s.end(t, n+1)
		if data.Outcome != events.OutcomeSuccess || s.tagged(t) != data.Image.Digest {
			t.Fatalf("content %d: %+v", n, data)
		}
		ids, digests, generations = append(ids, data.Build.ID), append(digests, data.Image.Digest), append(generations, data.Source.Generation)
	}
	if ids[0] == ids[1] || digests[0] == digests[1] || generations[0] == generations[1] {
		t.Errorf("builds %v, generations %v, digests %v", ids, generations, digests)
	}
}

// platforms proves that a build for two platforms is one build, whose event and whose
// index have both, though its RUN works on one of them only: it is in a stage that
// cross-compiles.
func platforms(t *testing.T, s *story) {
	s.upload(t, "platforms", "FROM --platform=$BUILDPLATFORM "+s.base+" AS compile\nARG TARGETARCH\nRUN echo for $TARGETARCH >/program\n"+
		"FROM scratch\nCOPY --from=compile /program /\n")
	data := s.end(t, 1)
	if data.Outcome != events.OutcomeSuccess {
		t.Fatalf("%+v", data)
	}
	told := map[string]string{}
	for _, p := range data.Image.Platforms {
		told[p.String()] = p.Digest
	}
	ref, err := name.ParseReference(s.Image(s.name)+"@"+data.Image.Digest, name.Insecure)
	check(t, err)
	index, err := remote.Index(ref)
	check(t, err)
	m, err := index.IndexManifest()
	check(t, err)
	if len(m.Manifests) != 2 || len(told) != 2 || s.tagged(t) != data.Image.Digest {
		t.Fatalf("the index has %d images, the event %v; the tag is at %s, the digest told is %s", len(m.Manifests), told, s.tagged(t), data.Image.Digest)
	}
	for _, d := range m.Manifests {
		platform := d.Platform.OS + "/" + d.Platform.Architecture
		if told[platform] != d.Digest.String() || !strings.HasPrefix(platform, "linux/a") {
			t.Errorf("%s: the index has %s, the event %s", platform, d.Digest, told[platform])
		}
		image, err := index.Image(d.Digest)
		check(t, err)
		cfg, err := image.ConfigFile()
		check(t, err)
		if cfg.Architecture != d.Platform.Architecture {
			t.Errorf("the image for %s is for %s", platform, cfg.Architecture)
		}
	}
	if ids := s.builds(t); len(ids) != 1 || ids[0] != data.Build.ID {
		t.Errorf("the builds are %v", ids)
	}
}

// failing proves that a command which fails is told with its status and what it said.
func failing(t *testing.T, s *story) {
	s.upload(t, "contexts", "FROM "+s.base+"\nRUN echo what went wrong >&2; exit 7\n")
	data := s.end(t, 1)
	if data.Outcome != events.OutcomeFailed || data.Class != events.ClassBuild || data.Build.ExitCode != 7 || !strings.Contains(data.Message, "what went wrong") {
		t.Errorf("%+v", data)
	}
	if d, err := s.tag(); err == nil {
		t.Errorf("there is a tag, at %s", d.Digest)
	}
}

// tooLong proves that a build is ended when its time is over.
func tooLong(t *testing.T, s *story) {
	s.upload(t, "hasty", "FROM "+s.base+"\nRUN sleep 90\n")
	began := time.Now()
	if data := s.end(t, 1); data.Outcome != events.OutcomeFailed || data.Class != events.ClassTimeout || !strings.Contains(data.Message, "run.timeout") {
		t.Errorf("%+v", data)
	}
	if took := time.Since(began); took < hastyTime/2 {
		t.Errorf("it was ended after %s", took)
	}
}

// away proves that nothing is lost while the subscriber refuses everything: what ends
// then, and what comes then, is told once it is back.
func away(t *testing.T, s *story) {
	ids := s.commits(t, "RUN echo a", "RUN echo b")
	a := s.must(t, none, ids[0], 1)
	s.Deaf(true)
	defer s.Deaf(false)
	for deadline := time.Now().Add(s.Limit); ; time.Sleep(100 * time.Millisecond) {
		if _, err := s.tag(); err == nil {
			break // it has ended, and is to be told now
		}
		if time.Now().After(deadline) {
			t.Fatal("the build has no tag")
		}
	}
	type answer struct {
		dispatch.Decision
		err error
	}
	second := make(chan answer, 1)
	go func() {
		d, err := s.deliver(ids[0], ids[1], 2)
		second <- answer{d, err}
	}()
	time.Sleep(3 * time.Second)
	if all := s.ended(t); len(all) != 0 {
		t.Errorf("a subscriber that is away was told %v", all)
	}
	s.Deaf(false)
	b := <-second
	check(t, b.err)
	s.succeeds(t, a.BuildID)
	if digest := s.succeeds(t, b.BuildID); s.tagged(t) != digest {
		t.Errorf("the tag is at %s, not at %s", s.tagged(t), digest)
	}
}

// killed proves that of builds which run, are about to and are being handed in when
// the dispatcher is killed each ends once, with its image.
func killed(t *testing.T, s *story) {
	ids := s.commits(t, "RUN echo a", "RUN sleep 6", "RUN echo c")
	refs := []string{"main", "running", "coming"}
	s.succeeds(t, s.must(t, none, ids[0], 1).BuildID)
	running, err := s.deliverRef(refs[1], none, ids[1], 2)
	check(t, err)
	time.Sleep(2 * time.Second)
	first, err := s.deliverRef(refs[2], none, ids[2], 3)
	check(t, err)
	s.Restart(t)
	again, err := s.deliverRef(refs[2], none, ids[2], 3)
	check(t, err)
	if again.BuildID != first.BuildID || again.Status != dispatch.StatusDuplicate {
		t.Errorf("before it was killed %+v, afterwards %+v", first, again)
	}
	s.succeeds(t, running.BuildID)
	s.succeeds(t, first.BuildID)
}
