package compat

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// counting is the shared registry with its requests counted.
func (k *kit) counting() *faults {
	return newFaults(k.t, k.registry, func(http.ResponseWriter, *http.Request) bool { return false })
}

// warm runs the warmer on the row's cache.
func (k *kit) warm(args ...string) *result {
	k.t.Helper()
	return k.command(k.warmer, append([]string{"--cache-dir=" + k.path("cache"), "--log-format=text"}, args...)...)
}

// blobs are the layers and configs that were asked for.
func (f *faults) blobs() int { return f.count("GET", "/blobs/") }

// warmerRows are about base images that need not be fetched.
func warmerRows() []row {
	return []row{
		{
			kind: flagKind, name: "--cache-dir", kaniko: "`/cache`; with --cache",
			does: "base images that the warmer has fetched, used with --cache; also if their registry cannot be reached", differs: "no registry is needed",
			run: func(t *testing.T, k *kit) {
				f := k.counting()
				k.dockerfile("FROM " + f.host + "/library/base:1\nRUN cat /etc/passwd > /made")
				k.warm("--image=" + f.host + "/library/base:1").ok()
				warmed := f.blobs()
				args := []string{"--cache", "--cache-repo=oci:" + k.path("steps"), "--cache-dir=" + k.path("cache")}
				k.local(args...).ok()
				equal(t, "blobs for a build", f.blobs()-warmed, 0)
				k.local(args[2:]...).ok()
				if f.blobs() == warmed {
					t.Error("without --cache the base was not fetched")
				}
				k.dockerfile("FROM " + nowhere() + "/base:1")
				k.warm("--image="+nowhere()+"/base:1", "--registry-map="+nowhere()+"="+k.registry+"/library").ok()
				k.local(args...).ok().says("warning: the registry cannot be reached")
			},
		},
		{
			kind: commandKind, name: "warmer", kaniko: "fetches base images into a directory",
			does: "fetches base images into a directory in kaniko's form; what is there is not fetched again",
			run: func(t *testing.T, k *kit) {
				f := k.counting()
				k.warm("--image="+f.host+"/library/base:1").ok().says("fetched", "sha256:")
				fetched := f.blobs()
				k.warm("--image=" + f.host + "/library/base:1").ok().says("already there")
				equal(t, "blobs for the second time", f.blobs()-fetched, 0)
				digest, err := k.image.Digest()
				check(t, err)
				contains(t, strings.Join(left(t, k.path("cache")), " "), digest.String())
				k.warm().fails("you must select at least one image to cache")
				k.warm("--image="+f.host+"/library/none", "--image="+f.host+"/library/base:1").ok().says("image is not warmed")
				k.warm("--image=" + f.host + "/library/none").fails("failed to warm any of the given images")
			},
		},
		{
			kind: pathKind, name: "/kaniko/warmer, /cache", kaniko: "the warmer, and where it and the executor keep base images by default",
			does: "the warmer, and where it and the executor keep base images by default",
			run: func(t *testing.T, k *kit) {
				f := k.counting()
				k.dockerfile("FROM " + f.host + "/library/base:1\nRUN echo x > /made")
				k.write("cache/.keep", "")
				c := k.inside()
				c.file("/kaniko/warmer", readFile(t, k.warmer))
				check(t, chmod(c.root+"/kaniko/warmer"))
				c.bind("ctx", "/workspace", true)
				c.bind("cache", "/cache", false)
				c.run("/kaniko/warmer", "--image="+f.host+"/library/base:1").ok()
				warmed := f.blobs()
				c.executor("--no-push", "--cache", "--cache-repo=oci:/kaniko/steps").ok()
				equal(t, "blobs for a build", f.blobs()-warmed, 0)
			},
		},
		{
			kind: warmerKind, name: "--image, -i", kaniko: "none", does: "an image to fetch; repeatable",
			run: func(_ *testing.T, k *kit) {
				k.pushIndex(k.repo+":many", "amd64", "arm64")
				k.warm("--image="+k.base, "-i", k.repo+":many").ok().says("images=2")
			},
		},
		{
			kind: warmerKind, name: "--dockerfile, -d", kaniko: "none", does: "a Dockerfile, by path or URL, all of whose images are fetched",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM BASE AS a\nFROM a\nCOPY --from=" + k.base + " /etc/passwd /")
				k.warm("--dockerfile=ctx/Dockerfile").ok().says("msg=fetched", "images=1 failed=0")
				k.warm("-d", "none").fails("none")
			},
		},
		{
			kind: warmerKind, name: "--build-arg", kaniko: "none", does: "a build argument for the Dockerfile; repeatable",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("ARG A\nARG B\nFROM $A/$B:1")
				k.env["B"] = "base"
				k.warm("-d=ctx/Dockerfile", "--build-arg=A="+k.registry+"/library", "--build-arg=B").ok().says("fetched")
			},
		},
		{
			kind: warmerKind, name: "--cache-dir, -c", kaniko: "`/cache`", does: "where images are kept",
			run: func(t *testing.T, k *kit) {
				k.command(k.warmer, "-i", k.base, "-c", k.path("other")).ok()
				if len(left(t, k.path("other"))) == 0 {
					t.Error("nothing is there")
				}
			},
		},
		{
			kind: warmerKind, name: "--cache-ttl", kaniko: "`336h`", does: "the age at which an image is verified again, and kept or fetched", differs: "what has expired is renewed",
			run: func(t *testing.T, k *kit) {
				f := k.counting()
				k.warm("-i", f.host+"/library/base:1").ok()
				k.warm("-i", f.host+"/library/base:1", "--cache-ttl=1ns").ok().says("expired, verified and kept")
				equal(t, "layers", f.count("GET", "/blobs/"+k.layerOfBase()), 1)
				k.warm("-i=x", "--cache-ttl=6").fails("cache-ttl")
			},
		},
		{
			kind: warmerKind, name: "--force, -f", kaniko: "`false`", does: "fetches images also if they are there",
			run: func(t *testing.T, k *kit) {
				f := k.counting()
				k.warm("-i", f.host+"/library/base:1").ok()
				fetched := f.blobs()
				k.warm("-i", f.host+"/library/base:1", "--force").ok().says("msg=fetched")
				equal(t, "blobs for the second time", f.blobs(), 2*fetched)
			},
		},
		{
			kind: warmerKind, name: "--custom-platform, --customPlatform", kaniko: "this machine's", does: "the platform to fetch for",
			run: func(t *testing.T, k *kit) {
				k.pushIndex(k.repo+":many", "amd64", "s390x")
				k.warm("-i", k.repo+":many", "--custom-platform=linux/s390x").ok().says("platform=linux/s390x")
				k.warm("-i", k.repo+":many", "--customPlatform=linux/mips").fails("no image for the platform linux/mips")
			},
		},
		{
			kind: warmerKind, name: "--insecure-pull", kaniko: "of the forks: `false`", does: "plain HTTP",
			run: func(_ *testing.T, k *kit) {
				_, host := k.named("registry.example.com", forward(k.registry))
				k.warm("-i", host+"/library/base:1").fails(host)
				k.warm("-i", host+"/library/base:1", "--insecure-pull").ok()
			},
		},
		{
			kind: warmerKind, name: "--insecure-registry", kaniko: "of the forks: none", does: "a host to speak plain HTTP to; repeatable",
			run: func(_ *testing.T, k *kit) {
				_, host := k.named("registry.example.com", forward(k.registry))
				k.warm("-i", host+"/library/base:1", "--insecure-registry=other.example.com").fails(host)
				k.warm("-i", host+"/library/base:1", "--insecure-registry=other.example.com", "--insecure-registry="+host).ok()
			},
		},
		{
			kind: warmerKind, name: "--skip-tls-verify-pull, --skip-tls-verify-registry", kaniko: "of the forks: `false`, none", does: "certificates are not verified, of all hosts or of one",
			run: func(t *testing.T, k *kit) {
				host := k.encrypted(k.other.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.warm("-i", host+"/library/base:1").fails("unknown authority")
				k.warm("-i", host+"/library/base:1", "--skip-tls-verify-registry="+host).ok()
				k.warm("-f", "-i", host+"/library/base:1", "--skip-tls-verify-pull").ok()
			},
		},
		{
			kind: warmerKind, name: "--registry-certificate, --registry-client-cert", kaniko: "of the forks: none", does: "`host=file` of an authority to trust, `host=cert,key` to show",
			run: func(t *testing.T, k *kit) {
				host := k.mutual
				id := k.ca.issue(t, soon(), "client")
				trust, show := "--registry-certificate="+host+"="+k.ca.file, "--registry-client-cert="+host+"="+id.cert+","+id.key
				k.scratch()
				k.exec("--context=ctx", "--destination="+host+"/"+k.name(), trust, show).ok()
				k.warm("-i", host+"/"+k.name(), show).fails("unknown authority")
				k.warm("-i", host+"/"+k.name(), trust).fails("asks for a client certificate: give it with --registry-client-cert")
				k.warm("-i", host+"/"+k.name(), trust, show).ok()
			},
		},
		{
			kind: warmerKind, name: "--registry-map, --registry-mirror, --skip-default-registry-fallback", kaniko: "of the forks: none", does: "other places to fetch from first, as for the executor",
			run: func(t *testing.T, k *kit) {
				n := k.hub()
				k.labelled(k.repo+"/one/library/"+k.name(), "one")
				k.warm("-i", k.name(), "--registry-map=docker.io="+k.repo+"/one").ok()
				k.warm("-i", k.name(), "--registry-mirror="+k.repo+"/one", "--force").ok()
				k.warm("-i", k.name(), "--registry-mirror="+k.repo+"/none", "--skip-default-registry-fallback", "--force").fails("not found; tried")
				equal(t, "requests to Docker Hub", len(n.asked("index.docker.io")), 0)
				k.env["KANIKO_REGISTRY_MAP"] = "docker.io=" + k.repo + "/one"
				k.warm("-i", k.name(), "--force").ok()
				delete(k.env, "KANIKO_REGISTRY_MAP")
				k.env["KANIKO_REGISTRY_MIRROR"] = k.repo + "/one"
				k.warm("-i", k.name(), "--force").ok()
			},
		},
		{
			kind: warmerKind, name: "--image-download-retry", kaniko: "not known", does: "how often a fetch that failed is tried again", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				f := newFaults(t, k.registry, first(4, "GET", "/manifests/", status(503, "UNAVAILABLE", "not now")))
				k.warm("-i", f.host+"/library/base:1", "--image-download-retry=2").ok()
			},
		},
		{
			kind: warmerKind, name: "--credential-helpers, --kaniko-dir", kaniko: "of the forks: as for the executor", does: "as for the executor",
			run: func(_ *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.warm("-i", host+"/library/base:1").fails("UNAUTHORIZED")
				k.write("own/.docker/config.json", dockerConfig(host))
				k.warm("-i", host+"/library/base:1", "--kaniko-dir="+k.path("own")).ok()
				k.gitLabJob(host)
				k.warm("-f", "-i", host+"/library/base:1", "--credential-helpers=env").fails("UNAUTHORIZED")
				k.warm("-f", "-i", host+"/library/base:1", "--credential-helpers=gitlab").ok()
			},
		},
		{
			kind: warmerKind, name: "--verbosity, -v, --log-format, --log-timestamp", kaniko: "`info`, `color`, `false`", does: "as for the executor",
			run: func(t *testing.T, k *kit) {
				if r := k.warm("-i", k.base, "-v", "error").ok(); r.stderr != "" {
					t.Errorf("it says %s", r.stderr)
				}
				r := k.warm("-i", k.base, "--verbosity=debug", "--log-format=json").ok()
				var line struct{ Msg string }
				check(t, json.Unmarshal([]byte(strings.SplitN(r.stderr, "\n", 2)[0]), &line))
				k.warm("-i", k.base, "--log-timestamp").ok().says("time=" + time.Now().UTC().Format("2006-01"))
				k.warm("-i", k.base).ok().hushes("time=")
				k.warm("-i", k.base, "-v=loud").fails(`"loud" is not a valid verbosity`)
			},
		},
		{
			kind: defectKind, name: "an expired image of the warmer is never fetched again", kaniko: "expired for a build but there for the warmer", does: "the warmer verifies and renews it",
			run: func(t *testing.T, k *kit) {
				f := k.counting()
				k.dockerfile("FROM " + f.host + "/library/base:1\nRUN echo x > /made")
				k.warm("-i", f.host+"/library/base:1").ok()
				time.Sleep(1100 * time.Millisecond)
				k.warm("-i", f.host+"/library/base:1", "--cache-ttl=1s").ok().says("expired, verified and kept")
				warmed := f.blobs()
				k.local("--cache", "--cache-repo=oci:"+k.path("steps"), "--cache-dir="+k.path("cache"), "--cache-ttl=30s").ok()
				equal(t, "blobs for a build", f.blobs()-warmed, 0)
			},
		},
	}
}
