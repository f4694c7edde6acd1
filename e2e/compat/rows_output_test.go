package compat

import (
	"archive/tar"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// outputRows are about where the image goes and who is told.
func outputRows() []row {
	return []row{
		{
			kind: flagKind, name: "--destination, -d", kaniko: "none; needed without --no-push",
			does: "a reference to push to, `latest` without a tag, repeatable: all get the same digest",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				k.build("-d", k.repo, "--destination", k.repo+"/b:v1", "-d="+k.repo+":v2").ok()
				want := k.at(k.repo + ":latest").digest()
				for _, ref := range []string{k.repo + "/b:v1", k.repo + ":v2"} {
					equal(t, ref, k.at(ref).digest(), want)
				}
				// Registries that differ in everything, from one build.
				host := k.private
				k.login(host)
				k.build(k.to(host), "-d="+k.repo+":v3", "--registry-certificate="+host+"="+k.ca.file, "--digest-file=digest").ok()
				equal(t, "digest", k.read("digest"), k.at(k.repo+":v3").digest())
				k.dockerfile("FROM " + host + "/" + k.name() + "@" + k.read("digest"))
				k.local("--registry-certificate=" + host + "=" + k.ca.file).ok()
				k.build().fails("you must provide --destination, or use --no-push")
				k.build("-d=UPPER/case:x").fails(`destination "UPPER/case:x" is not valid`)
			},
		},
		{
			kind: flagKind, name: "--no-push", kaniko: "`false`",
			does: "pushes no image and asks no destination for permission; cached layers are pushed all the same",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /x")
				f := newFaults(t, k.registry, func(http.ResponseWriter, *http.Request) bool { return false })
				k.build("--no-push", "--insecure-registry="+f.host, "--destination="+f.host+"/app", "--cache", "--cache-repo="+k.repo+"/cache").ok()
				equal(t, "requests for the destination", f.count("GET", "/")+f.count("POST", "/")+f.count("PUT", "/"), 0)
				equal(t, "steps in the cache", k.steps(k.repo+"/cache"), 1)
				k.local("--cache").fails("if using cache with --no-push, specify cache repo with --cache-repo")
			},
		},
		{
			kind: flagKind, name: "--push-by-digest", kaniko: "no such flag",
			does: "pushes the manifest and moves no tag", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				k.build("--destination="+k.repo, "--push-by-digest", "--digest-file=digest").ok()
				k.at(k.repo + "@" + k.read("digest"))
				k.absent(k.repo + ":latest")
				k.local("--push-by-digest").fails("--push-by-digest and --no-push exclude each other")
			},
		},
		{
			kind: flagKind, name: "--tar-path, --tarPath", kaniko: "none; needs a destination; the forks refuse it with OCI media types",
			does: "an archive as `docker load` reads it, tagged with the destinations", differs: "any image can be written, whatever its format, and no destination is needed",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				k.local("--tar-path=out/image.tar", "--destination=example.com/app:v1", "--destination=example.com/b").ok()
				tag, err := name.NewTag("example.com/app:v1")
				check(t, err)
				img, err := tarball.ImageFromPath(k.path("out/image.tar"), &tag)
				check(t, err)
				built{t, "image.tar", img}.holds("file", strings.TrimSuffix(k.read("ctx/Dockerfile"), "\n"))
				tag, err = name.NewTag("example.com/b:latest")
				check(t, err)
				_, err = tarball.ImageFromPath(k.path("out/image.tar"), &tag)
				check(t, err)
				k.local("--tarPath=none.tar").ok()
				contains(t, archived(t, k.path("none.tar"), "manifest.json"), "unset-repo/unset-image-name")
			},
		},
		{
			kind: flagKind, name: "--oci-layout-path", kaniko: "none; media types are the base's",
			does: "a directory in the form of an OCI layout, whose digest is that of the digest file", differs: "media types are those of --image-format",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				k.local("--oci-layout-path=out/layout", "--digest-file=digest").ok()
				index, err := layout.ImageIndexFromPath(k.path("out/layout"))
				check(t, err)
				m, err := index.IndexManifest()
				check(t, err)
				equal(t, "digests", []string{m.Manifests[0].Digest.String()}, []string{k.read("digest")})
				img, err := index.Image(m.Manifests[0].Digest)
				check(t, err)
				built{t, "layout", img}.holds("file", strings.TrimSuffix(k.read("ctx/Dockerfile"), "\n"))
			},
		},
		{
			kind: flagKind, name: "--digest-file", kaniko: "none; written before the push",
			does: "gets `sha256:…` without a newline, mode 0644, its directory is made; a URL gets it by PUT", differs: "written after the push has succeeded, never before",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				want := k.pushed("--digest-file=new/digest").digest()
				equal(t, "digest", k.read("new/digest"), want)
				info, err := os.Stat(k.path("new/digest"))
				check(t, err)
				equal(t, "mode", info.Mode().String(), "-rw-r--r--")
				sent := ""
				server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					raw, _ := io.ReadAll(r.Body)
					sent = r.Method + " " + r.URL.Path + " " + string(raw)
				}))
				defer server.Close()
				want = k.pushed("--digest-file=" + server.URL + "/digest").digest()
				equal(t, "request", sent, "PUT /digest "+want)
			},
		},
		{
			kind: flagKind, name: "--image-name-with-digest-file", kaniko: "none",
			does: "gets `registry/repository@digest`, a line for each destination",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				d := k.pushed("--image-name-with-digest-file=names", "--destination="+k.repo+"/b:v1").digest()
				equal(t, "names", k.read("names"), k.repo+"@"+d+"\n"+k.repo+"/b@"+d+"\n")
				k.local("--image-name-with-digest-file=names").fails("need a --destination")
				// Docker Hub's names are written in full.
				k.local("--image-name-with-digest-file=names", "--image-name-tag-with-digest-file=tags", "--destination=ann/app:v2", "--destination=one").ok()
				contains(t, k.read("names"), "index.docker.io/ann/app@sha256:", "index.docker.io/library/one@sha256:")
				contains(t, k.read("tags"), "index.docker.io/ann/app:v2@sha256:", "index.docker.io/library/one:latest@sha256:")
			},
		},
		{
			kind: flagKind, name: "--image-name-tag-with-digest-file", kaniko: "none",
			does: "gets `registry/repository:tag@digest`, a line for each destination",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				d := k.pushed("--image-name-tag-with-digest-file=names", "--destination="+k.repo+"/b:v1").digest()
				equal(t, "names", k.read("names"), k.repo+":latest@"+d+"\n"+k.repo+"/b:v1@"+d+"\n")
			},
		},
		{
			kind: flagKind, name: "--result-file", kaniko: "no such flag",
			does: "gets what became of the build as JSON, also if it failed", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				d := k.pushed("--result-file=result").digest()
				var got struct{ Outcome, Digest, Class string }
				check(t, json.Unmarshal([]byte(k.read("result")), &got))
				equal(t, "result", got.Outcome+" "+got.Digest, "success "+d)
				k.dockerfile("FROM scratch\nCOPY none /")
				k.local("--result-file=result").fails()
				check(t, json.Unmarshal([]byte(k.read("result")), &got))
				equal(t, "result", got.Outcome+" "+got.Class, "failed build")
			},
		},
		{
			kind: flagKind, name: "--termination-file", kaniko: "no such flag: the digest file does it",
			does: "gets what became of the build, in short, also if it failed", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				d := k.pushed("--termination-file=" + k.write("log", "")).digest()
				contains(t, k.read("log"), d)
				k.dockerfile("FROM scratch\nCOPY none /")
				k.local("--termination-file=" + k.write("log", "")).fails()
				contains(t, k.read("log"), "failed")
			},
		},
		{
			kind: flagKind, name: "--request-file", kaniko: "no such flag",
			does: "builds what the request of a dispatcher asks for; one that cannot be read is an error", differs: "more than kaniko",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.exec("--request-file=none.json").fails("read request", "none.json")
				k.local("--request-file=none.json").fails("--request-file and --context exclude each other")
			},
		},
		{
			kind: flagKind, name: "--event-sink", kaniko: "no such flag",
			does: "gets a build.finished CloudEvent with the digest; `$K_SINK` by default", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				events := make(chan http.Header, 2)
				sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { events <- r.Header }))
				defer sink.Close()
				d := k.pushed("--event-sink=" + sink.URL).digest()
				equal(t, "event", (<-events).Get("Ce-Imagedigest"), d)
				k.env["K_SINK"] = sink.URL
				k.dockerfile("FROM scratch\nCOPY none /")
				k.local().fails()
				equal(t, "event", (<-events).Get("Ce-Outcome"), "failed")
			},
		},
		{
			kind: flagKind, name: "--image-format", kaniko: "of the forks: the base's",
			does: "`oci` or `docker`: the media types of manifest, config and layers", differs: "`oci` by default, whatever the base has",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nCOPY Dockerfile /f")
				m := k.pushed().manifest()
				equal(t, "types", []string{string(m.MediaType), string(m.Config.MediaType), string(m.Layers[1].MediaType)}, []string{
					"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"})
				m = k.pushed("--image-format=docker").manifest()
				equal(t, "types", []string{string(m.MediaType), string(m.Config.MediaType), string(m.Layers[1].MediaType)}, []string{
					"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"})
				k.local("--image-format=tar").fails(`"tar" is not a valid image format: want oci or docker`)
			},
		},
		{
			kind: flagKind, name: "--compression", kaniko: "of the forks: `gzip`",
			does: "`gzip` or `zstd` for the layers that are made; those of the base stay as they are",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nCOPY Dockerfile /f")
				b := k.pushed("--compression=zstd")
				var types []string
				for _, l := range b.manifest().Layers {
					types = append(types, string(l.MediaType))
				}
				equal(t, "types", types, []string{"application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd"})
				b.holds("f", strings.TrimSuffix(k.read("ctx/Dockerfile"), "\n"))
				// It is a base like any other.
				k.dockerfile("FROM " + k.repo + "\nRUN cat /f > /g")
				k.local().ok()
				k.local("--compression=lzma").fails(`"lzma" is not a valid compression: want gzip or zstd`)
				k.local("--compression=zstd", "--image-format=docker").fails("--compression=zstd needs --image-format=oci")
			},
		},
		{
			kind: flagKind, name: "--compression-level", kaniko: "of the forks: `-1`",
			does: "1 to 9 for gzip, 1 to 22 for zstd, -1 for the default: a higher one gives a smaller layer",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY big /", "big", compressible())
				small := k.pushed("--compression-level=9").manifest().Layers[0].Size
				if large := k.pushed("--compression-level=1").manifest().Layers[0].Size; large <= small {
					t.Errorf("level 1 makes %d bytes and level 9 %d", large, small)
				}
				k.local("--compression-level=10").fails("want 1 to 9 for gzip")
				k.local("--compression-level=0").fails("want 1 to 9 for gzip")
				k.local("--compression=zstd", "--compression-level=22").ok()
			},
		},
		{
			kind: flagKind, name: "--reproducible", kaniko: "`false`; layers of the base are written anew",
			does: "takes 1970, or SOURCE_DATE_EPOCH, for every time: two builds have the same digest", differs: "layers of the base stay as they are",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nCOPY Dockerfile /f\nRUN echo x > /x")
				a := k.pushed("--reproducible")
				old := k.read("ctx/Dockerfile")
				check(t, os.Remove(k.path("ctx/Dockerfile")))
				k.write("ctx/Dockerfile", old)
				b := k.pushed("--reproducible")
				equal(t, "digest", b.digest(), a.digest())
				equal(t, "created", b.config().Created.Unix(), 0)
				equal(t, "base layer", b.manifest().Layers[0].Digest, k.at(k.base).manifest().Layers[0].Digest)
				if k.pushed().digest() == a.digest() {
					t.Error("a build without the flag has the same digest")
				}
			},
		},
		{
			kind: flagKind, name: "--single-snapshot", kaniko: "`false`",
			does: "one layer on top of the base",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo 1 > /a\nCOPY Dockerfile /b\nRUN rm /a && echo 3 > /c")
				b := k.pushed("--single-snapshot")
				equal(t, "layers", len(b.manifest().Layers), 2)
				b.holds("c", "3").lacks("a")
				equal(t, "layers without", len(k.pushed().manifest().Layers), 4)
			},
		},
	}
}

// compressible is text that a better compression makes smaller.
func compressible() string {
	var b strings.Builder
	words := []string{"build", "layer", "image", "cache", "push", "pull", "stage", "file", "tag", "digest", "blob"}
	for i, x := 0, uint32(1); i < 60000; i++ {
		x = x*1664525 + 1013904223
		b.WriteString(words[int(x>>16)%len(words)])
		b.WriteByte(' ')
	}
	return b.String()
}

// archived is a file in an archive.
func archived(t *testing.T, archive, file string) string {
	t.Helper()
	f, err := os.Open(archive)
	check(t, err)
	defer f.Close()
	var names []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s is not in %s, which has %q", file, archive, names)
		}
		names = append(names, h.Name)
		if h.Name == file {
			raw, err := io.ReadAll(r)
			check(t, err)
			return string(raw)
		}
	}
}
