package stack

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/need"
)

// twoPlatforms compiles nothing, but in the way of what does: a stage on this
// machine's platform makes what stands on each platform's own base.
const twoPlatforms = `FROM --platform=$BUILDPLATFORM debian:bookworm-slim AS compile
ARG TARGETPLATFORM
RUN echo "made for $TARGETPLATFORM" > /program
FROM REGISTRY/library/busybox:two
COPY --from=compile /program /program
`

// startPlatforms starts a stack whose uploads are built for two platforms and
// pushed to a registry that has a base image for both.
func startPlatforms(t *testing.T) (s *server, registry string) {
	t.Helper()
	daemon, err := registryd.Start(t.Context(), need.Command(t, "docker-registry"), t.TempDir(), nil)
	check(t, err)
	t.Cleanup(func() { check(t, daemon.Stop()) })
	index, _, err := baseimage.Busybox(t.Context(), need.Command(t, "busybox"))
	check(t, err)
	check(t, baseimage.PushIndex(t.Context(), index, daemon.Host+"/library/busybox:two"))
	triggers := filepath.Join(t.TempDir(), "kiln.yaml")
	check(t, os.WriteFile(triggers, []byte("name: app\non: {object: {bucket: 'kiln://contexts'}}\n"+
		"build: {platforms: [linux/amd64, linux/arm64]}\npush: {image: "+daemon.Host+"/app, tags: ['{{ .Object.Stem }}']}\n"), 0o600))
	return start(t, "--triggers", triggers, "--executor-arg=--insecure-registry="+daemon.Host), daemon.Host
}

// An upload becomes an index with an image for each of two platforms, on each
// one's base, and one event with both digests.
func TestTwoPlatforms(t *testing.T) {
	s, registry := startPlatforms(t)
	sub := s.subscribe(t)
	dir := app(t, strings.ReplaceAll(twoPlatforms, "REGISTRY", registry))
	content, err := os.ReadFile(archive(t, dir))
	check(t, err)
	if status, body := s.upload(t, "two.tar.gz", content); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	e := sub.wait(t, 1)
	if e.Outcome != "success" || !slices.Equal(e.Data.Image.TagsMoved, []string{"two"}) || len(e.Data.Image.Platforms) != 2 {
		t.Fatalf("the event says %+v", e)
	}
	ref, err := name.ParseReference(registry+"/app:two", name.Insecure)
	check(t, err)
	index, err := remote.Index(ref)
	check(t, err)
	check(t, validate.Index(index))
	if d, err := index.Digest(); err != nil || d.String() != e.ImageDigest {
		t.Errorf("the tag is %s, %v; the event says %s", d, err, e.ImageDigest)
	}
	manifest, err := index.IndexManifest()
	check(t, err)
	for i, arch := range []string{"amd64", "arm64"} {
		d := manifest.Manifests[i]
		if !d.Platform.Equals(v1.Platform{OS: "linux", Architecture: arch}) || e.Data.Image.Platforms[i].Arch != arch || e.Data.Image.Platforms[i].Digest != d.Digest.String() {
			t.Errorf("manifest %d is %+v, the event says %+v", i, d, e.Data.Image.Platforms[i])
		}
		img, err := index.Image(d.Digest)
		check(t, err)
		config, err := img.ConfigFile()
		check(t, err)
		if config.Architecture != arch {
			t.Errorf("the image for %s says %s", arch, config.Architecture)
		}
		if got := fileIn(t, img, "program"); got != "made for linux/"+arch+"\n" {
			t.Errorf("%s: program is %q", arch, got)
		}
		if got := fileIn(t, img, "etc/arch"); got != arch+"\n" {
			t.Errorf("%s stands on the base for %q", arch, got)
		}
	}
	resp, err := http.Get(s.URL + "/builds/" + e.Data.Build.ID)
	check(t, err)
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	check(t, err)
	for _, want := range []string{"for linux/amd64, linux/arm64", "<div>linux/arm64 <code class=\"soft\">" + e.Data.Image.Platforms[1].Digest, "[linux/arm64 compile"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page has no %q:\n%s", want, page)
		}
	}
	log, err := s.command(t, "logs", e.Data.Build.ID)
	if err != nil || !strings.Contains(log, "[linux/amd64 ") || !strings.Contains(log, "[linux/arm64 ") {
		t.Errorf("%v: the log does not keep the platforms apart:\n%s", err, log)
	}
}

// A RUN of a program for another processor fails the build with the line, the
// platform, and what to do.
func TestForeignRun(t *testing.T) {
	s, registry := startPlatforms(t)
	sub := s.subscribe(t)
	foreign, here := elf.EM_AARCH64, "arm64"
	if runtime.GOARCH == here {
		foreign, here = elf.EM_X86_64, "amd64"
	}
	program, err := os.ReadFile(need.Command(t, "busybox"))
	check(t, err)
	program[18] = byte(foreign)
	dir := app(t, "FROM "+registry+"/library/busybox:two\nARG TARGETARCH\nCOPY "+here+" /bin/tool-"+here+"\nRUN [\"/bin/tool-"+here+"\"]\n")
	check(t, os.WriteFile(filepath.Join(dir, here), program, 0o755))
	content, err := os.ReadFile(archive(t, dir))
	check(t, err)
	if status, body := s.upload(t, "foreign.tar.gz", content); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	e := sub.wait(t, 1)
	if e.Outcome != "failed" || e.Data.Class != "build" || !strings.HasPrefix(e.Data.Message, "linux/") || !strings.Contains(e.Data.Message, "Dockerfile:4") ||
		!strings.Contains(e.Data.Message, "it is a program for "+here) || !strings.Contains(e.Data.Message, "FROM --platform=$BUILDPLATFORM") {
		t.Errorf("the event says %+v", e)
	}
}

// fileIn is the content of a file of an image.
func fileIn(t *testing.T, img v1.Image, path string) string {
	t.Helper()
	flat := mutate.Extract(img)
	defer flat.Close()
	r := tar.NewReader(flat)
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s is not in the image: %v", path, err)
		}
		if h.Name == path {
			var buf bytes.Buffer
			_, err := io.Copy(&buf, r)
			check(t, err)
			return buf.String()
		}
	}
}
