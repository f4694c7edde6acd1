package compat

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// encrypted serves a registry of plain HTTP over TLS, with an identity, and
// returns its host.
func (k *kit) encrypted(id identity, h http.Handler) string {
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that do not trust it
	server.TLS = &tls.Config{Certificates: []tls.Certificate{id.tls}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	k.t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "https://")
}

// name is the row's repository without the registry.
func (k *kit) name() string { return strings.TrimPrefix(k.repo, k.registry+"/") }

// registryRows are about how registries are spoken to.
func registryRows() []row {
	return []row{
		{
			kind: flagKind, name: "--insecure", kaniko: "`false`",
			does: "plain HTTP for the destinations and the cache; bases are still pulled over TLS",
			run: func(_ *testing.T, k *kit) {
				// Plain HTTP goes to a port of this machine without being asked for:
				// this registry listens elsewhere, as far as its name tells.
				n, host := k.named("registry.example.com", forward(k.registry))
				k.scratch()
				k.exec("--context=ctx", "--destination="+host+"/"+k.name()).fails("registry.example.com")
				k.exec("--context=ctx", "--destination="+host+"/"+k.name(), "--insecure").ok()
				k.at(k.repo)
				before := len(n.asked("registry.example.com"))
				k.dockerfile("FROM " + host + "/library/base:1")
				k.exec("--context=ctx", "--no-push", "--insecure").fails("Dockerfile:1: FROM registry.example.com/library/base:1")
				if after := len(n.asked("registry.example.com")); after != before {
					k.t.Errorf("the base was asked for %d times by plain HTTP", after-before)
				}
			},
		},
		{
			kind: flagKind, name: "--insecure-pull", kaniko: "`false`",
			does: "plain HTTP for base images",
			run: func(_ *testing.T, k *kit) {
				_, host := k.named("registry.example.com", forward(k.registry))
				k.dockerfile("FROM " + host + "/library/base:1")
				k.exec("--context=ctx", "--no-push").fails("registry.example.com")
				k.exec("--context=ctx", "--no-push", "--insecure-pull").ok()
				k.exec("--context=ctx", "--destination="+host+"/"+k.name(), "--insecure-pull").fails("checking push permissions")
			},
		},
		{
			kind: flagKind, name: "--insecure-registry", kaniko: "none",
			does: "a host, with its port, to speak plain HTTP to, pulling and pushing; repeatable",
			run: func(_ *testing.T, k *kit) {
				n, host := k.named("registry.example.com", forward(k.registry))
				n.host("other.example.com", forward(k.registry))
				k.dockerfile("FROM " + host + "/library/base:1")
				k.exec("--context=ctx", "--destination="+host+"/"+k.name(), "--insecure-registry=registry.example.com").ok()
				k.exec("--context=ctx", "--destination=other.example.com/"+k.name(), "--insecure-registry=registry.example.com").fails("other.example.com")
				k.exec("--context=ctx", "--destination=other.example.com/"+k.name(), "--insecure-registry=registry.example.com", "--insecure-registry=other.example.com").ok()
			},
		},
		{
			kind: flagKind, name: "--skip-tls-verify", kaniko: "`false`; for pushes, and in effect for everything",
			does: "no certificate is verified",
			run: func(t *testing.T, k *kit) {
				host := k.encrypted(k.other.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.scratch()
				k.exec("--context=ctx", "--destination="+host+"/"+k.name()).fails("certificate signed by unknown authority")
				k.exec("--context=ctx", "--destination="+host+"/"+k.name(), "--skip-tls-verify").ok()
				k.at(k.repo)
			},
		},
		{
			kind: flagKind, name: "--skip-tls-verify-pull", kaniko: "`false`; never looked at",
			does: "certificates are not verified when bases are pulled", differs: "it works",
			run: func(t *testing.T, k *kit) {
				host := k.encrypted(k.other.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.dockerfile("FROM " + host + "/library/base:1")
				k.exec("--context=ctx", "--no-push").fails("certificate signed by unknown authority")
				k.exec("--context=ctx", "--no-push", "--skip-tls-verify-pull").ok()
				k.exec("--context=ctx", "--destination="+host+"/"+k.name(), "--skip-tls-verify-pull").fails("checking push permissions", "certificate signed by unknown authority")
			},
		},
		{
			kind: flagKind, name: "--skip-tls-verify-registry", kaniko: "none",
			does: "a host whose certificate is not verified, pulling and pushing; repeatable",
			run: func(t *testing.T, k *kit) {
				one := k.encrypted(k.other.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				two := k.encrypted(k.other.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.dockerfile("FROM " + one + "/library/base:1")
				k.exec("--context=ctx", "--destination="+two+"/"+k.name(), "--skip-tls-verify-registry="+two).fails(one, "unknown authority")
				k.exec("--context=ctx", "--destination="+two+"/"+k.name(), "--skip-tls-verify-registry="+one).fails(two, "unknown authority")
				k.exec("--context=ctx", "--destination="+two+"/"+k.name(), "--skip-tls-verify-registry="+one, "--skip-tls-verify-registry="+two).ok()
			},
		},
		{
			kind: flagKind, name: "--registry-certificate", kaniko: "none; a host's authority is trusted for the hosts after it",
			does: "`host=file` of an authority to trust for this host, beside the system's; repeatable", differs: "it is trusted for this host only",
			run: func(t *testing.T, k *kit) {
				one := k.encrypted(k.ca.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				two := k.encrypted(k.ca.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.dockerfile("FROM " + one + "/library/base:1")
				k.exec("--context=ctx", "--no-push", "--registry-certificate="+one+"="+k.ca.file).ok()
				k.exec("--context=ctx", "--no-push", "--registry-certificate="+two+"="+k.ca.file).fails("unknown authority")
				k.exec("--context=ctx", "--destination="+two+"/"+k.name(), "--registry-certificate="+one+"="+k.ca.file).fails(two, "unknown authority")
				k.exec("--context=ctx", "--destination="+two+"/"+k.name(), "--registry-certificate="+one+"="+k.ca.file, "--registry-certificate="+two+"="+k.ca.file).ok()
				k.exec("--context=ctx", "--no-push", "--registry-certificate="+one+"=none.pem").fails("registry certificate for "+one, "none.pem")
				k.write("empty.pem", "nothing")
				k.exec("--context=ctx", "--no-push", "--registry-certificate="+one+"=empty.pem").fails("holds no PEM certificate")
			},
		},
		{
			kind: flagKind, name: "--registry-client-cert", kaniko: "none",
			does: "`host=cert,key` to show to this host; repeatable",
			run: func(t *testing.T, k *kit) {
				host := k.mutual
				id := k.ca.issue(t, soon(), "client")
				k.scratch()
				trust := "--registry-certificate=" + host + "=" + k.ca.file
				k.exec("--context=ctx", "--destination="+host+"/"+k.name(), trust).fails("checking push permissions", "asks for a client certificate: give it with --registry-client-cert")
				k.exec("--context=ctx", "--destination="+host+"/"+k.name(), trust, "--registry-client-cert="+host+"="+id.cert+","+id.key, "--digest-file=digest").ok()
				k.dockerfile("FROM " + host + "/" + k.name() + "@" + k.read("digest"))
				k.exec("--context=ctx", "--no-push", trust, "--registry-client-cert="+host+"="+id.cert+","+id.key).ok()
				k.local("--registry-client-cert=" + host + "=" + id.cert).fails("want host=/path/to/cert,/path/to/key")
			},
		},
		{
			kind: flagKind, name: "--push-retry", kaniko: "`0`",
			does: "how often a push that failed is tried again, after 1 s, 2 s, 4 s …",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				// Every request is tried three times as it is.
				f := newFaults(t, k.registry, first(4, "PUT", "/manifests/", status(500, "UNKNOWN", "not now")))
				k.exec("--context=ctx", "--destination="+f.host+"/"+k.name(), "--push-retry=2").ok()
				k.at(k.repo)
				f = newFaults(t, k.registry, always("PUT", "/manifests/", status(500, "UNKNOWN", "not now")))
				k.exec("--context=ctx", "--destination="+f.host+"/"+k.name()).fails("push manifest", "not now")
			},
		},
		{
			kind: flagKind, name: "--push-ignore-immutable-tag-errors", kaniko: "`false`",
			does: "a registry's refusal to move a tag, as Artifact Registry and ECR word it, is a success",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				for _, text := range []string{"The repository has enabled tag immutability. Cannot change tag.", "tag invalid: The image tag 'v1' already exists and cannot be overwritten because the tag is immutable."} {
					k.push(t, k.image, k.repo+":v1")
					f := newFaults(t, k.registry, always("PUT", "/manifests/v1", status(400, "TAG_INVALID", text)))
					args := []string{"--context=ctx", "--destination=" + f.host + "/" + k.name() + ":v1", "--log-format=text"}
					k.exec(args...).fails("push tag", text)
					k.exec(append(args, "--push-ignore-immutable-tag-errors")...).ok().says("tag is immutable and was not moved")
				}
			},
		},
		{
			kind: flagKind, name: "--skip-push-permission-check", kaniko: "`false`",
			does: "nothing is asked of the destination before the build",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY none /")
				f := newFaults(t, k.registry, func(http.ResponseWriter, *http.Request) bool { return false })
				k.exec("--context=ctx", "--destination="+f.host+"/"+k.name()).fails("COPY none")
				if f.count("POST", "/blobs/uploads/") != 1 {
					t.Error("the permission was not checked")
				}
				f = newFaults(t, k.registry, func(http.ResponseWriter, *http.Request) bool { return false })
				k.exec("--context=ctx", "--destination="+f.host+"/"+k.name(), "--skip-push-permission-check").fails("COPY none")
				equal(t, "requests before the build failed", f.count("GET", "")+f.count("POST", ""), 0)
			},
		},
		{
			kind: flagKind, name: "--image-download-retry", kaniko: "`0`",
			does: "how often a pull that failed is tried again, after 1 s, 2 s, 4 s …",
			run: func(t *testing.T, k *kit) {
				f := newFaults(t, k.registry, first(4, "GET", "/manifests/", status(503, "UNAVAILABLE", "not now")))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				k.exec("--context=ctx", "--no-push", "--image-download-retry=2").ok()
				f = newFaults(t, k.registry, always("GET", "/manifests/", status(503, "UNAVAILABLE", "not now")))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				k.exec("--context=ctx", "--no-push").fails("Dockerfile:1: FROM "+f.host+"/library/base:1", "UNAVAILABLE: not now")
			},
		},
		{
			kind: flagKind, name: "--image-fs-extract-retry", kaniko: "`0`",
			does: "how often the extraction of a layer that failed is tried again",
			run: func(t *testing.T, k *kit) {
				k.local("--image-fs-extract-retry=-1").fails("--image-fs-extract-retry must not be negative")
				// Connections that end in the middle are taken up again three times as it is.
				f := newFaults(t, k.registry, first(5, "GET", "/blobs/"+k.layerOfBase(), cutDownload(k.registry, 1000)))
				k.dockerfile("FROM " + f.host + "/library/base:1\nRUN true")
				k.local("--insecure-registry="+f.host, "--image-fs-extract-retry=2").ok()
				f = newFaults(t, k.registry, first(5, "GET", "/blobs/"+k.layerOfBase(), cutDownload(k.registry, 1000)))
				k.dockerfile("FROM " + f.host + "/library/base:1\nRUN true")
				k.local("--insecure-registry=" + f.host).fails("broke off after ")
			},
		},
	}
}

// layerOfBase is the digest of the base's layer.
func (k *kit) layerOfBase() string {
	k.t.Helper()
	layers, err := k.image.Layers()
	check(k.t, err)
	d, err := layers[0].Digest()
	check(k.t, err)
	return d.String()
}

// named makes a host of the internet, reached by plain HTTP and TLS alike, that
// the executor of this row can reach.
func (k *kit) named(host string, h http.Handler) (*internet, string) {
	k.t.Helper()
	n := newInternet(k.t, k.ca)
	n.plain = true
	n.host(host, h)
	k.env["HTTP_PROXY"], k.env["HTTPS_PROXY"] = n.url, n.url
	return n, host
}

// online makes an internet whose certificates the executor of this row trusts.
func (k *kit) online() *internet {
	k.t.Helper()
	n := newInternet(k.t, k.ca)
	k.env["HTTPS_PROXY"], k.env["SSL_CERT_FILE"] = n.url, k.ca.file
	return n
}

// index pushes an index of images.
func (k *kit) index(ref string, images ...v1.Image) {
	k.t.Helper()
	var index v1.ImageIndex = empty.Index
	for _, img := range images {
		c, err := img.ConfigFile()
		check(k.t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant},
		}})
	}
	to, err := name.ParseReference(ref, name.Insecure)
	check(k.t, err)
	check(k.t, remote.WriteIndex(to, index, remote.WithContext(k.t.Context())))
}
