package compat

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// to is a destination at a host, for this row.
func (k *kit) to(host string) string { return "--destination=" + host + "/" + k.name() }

// failureRows are about what registries refuse and what is said then.
func failureRows() []row {
	return []row{
		{
			kind: failureKind, name: "pull: 401, no credentials", kaniko: "the status", does: "the line, the image, the registry's words, and that there were no credentials and where they were looked for",
			run: func(_ *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.dockerfile("FROM scratch\nCOPY Dockerfile /\nFROM " + host + "/library/base:1")
				k.local().fails("Dockerfile:3: FROM "+host+"/library/base:1", "UNAUTHORIZED", "without credentials: there is no Docker config with any for "+host)
			},
		},
		{
			kind: failureKind, name: "pull: 401, wrong credentials", kaniko: "the status", does: "which credentials were used, and not what they are",
			run: func(_ *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.write("home/.docker/config.json", fmt.Sprintf(`{"auths":{%q:{"username":"bob","password":"hunter2"}}}`, host))
				k.dockerfile("FROM " + host + "/library/base:1")
				k.local().fails("UNAUTHORIZED", "with the credentials for "+host+" in "+k.path("home/.docker/config.json")).hushes("hunter2")
			},
		},
		{
			kind: failureKind, name: "pull: 403", kaniko: "the status", does: "the registry's words, and which credentials were used",
			run: func(t *testing.T, k *kit) {
				f := newFaults(t, k.registry, always("GET", "/manifests/", status(403, "DENIED", "requested access to the resource is denied")))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				k.local().fails("Dockerfile:1: FROM "+f.host, "DENIED: requested access to the resource is denied", "without credentials")
			},
		},
		{
			kind: failureKind, name: "pull: 404", kaniko: "the status", does: "that the image is not there, and every place that was tried",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM " + k.repo + ":none")
				k.local().fails("Dockerfile:1: FROM "+k.repo+":none", "image "+k.repo+":none not found: GET ", "UNKNOWN")
			},
		},
		{
			kind: failureKind, name: "pull: 429 with Retry-After", kaniko: "an error", does: "waits as long as it is asked to, says so, and goes on",
			run: func(t *testing.T, k *kit) {
				f := newFaults(t, k.registry, first(1, "GET", "/manifests/", status(429, "TOOMANYREQUESTS", "slow down", "Retry-After", "2")))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				if r := k.local().ok().says("registry asks to wait", "status=429 wait=2s"); r.took < 2*time.Second {
					t.Errorf("it took %v only", r.took)
				}
				now := time.Now().UTC()
				f = newFaults(t, k.registry, first(1, "GET", "/manifests/", status(429, "TOOMANYREQUESTS", "slow down", "Date", now.Format(http.TimeFormat), "Retry-After", now.Add(time.Second).Format(http.TimeFormat))))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				k.local().ok().says("registry asks to wait", "status=429 wait=1s")
				f = newFaults(t, k.registry, always("GET", "/manifests/", status(429, "TOOMANYREQUESTS", "pull rate limit reached")))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				k.local().fails("pull rate limit reached")
			},
		},
		{
			kind: failureKind, name: "pull: 5xx", kaniko: "tried again a few times", does: "each request is tried three times; then the registry's words",
			run: func(t *testing.T, k *kit) {
				f := newFaults(t, k.registry, first(2, "GET", "/manifests/", status(502, "UNAVAILABLE", "bad gateway today")))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				k.local().ok()
				f = newFaults(t, k.registry, always("GET", "/manifests/", status(500, "UNKNOWN", "the disk is on fire")))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				k.local().fails("Dockerfile:1", "the disk is on fire")
				equal(t, "requests", f.count("GET", "/manifests/"), 3)
			},
		},
		{
			kind: failureKind, name: "pull: nobody listens", kaniko: "the dial error", does: "the line, the image and the address",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM " + nowhere() + "/app:1")
				k.local().fails("Dockerfile:1: FROM 127.0.0.1:1/app:1", "connection refused")
			},
		},
		{
			kind: failureKind, name: "pull: wrong authority", kaniko: "the TLS error", does: "the host and that its certificate is of an unknown authority",
			run: func(t *testing.T, k *kit) {
				host := k.encrypted(k.other.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.dockerfile("FROM " + host + "/library/base:1")
				k.local("--registry-certificate="+host+"="+k.ca.file).fails("Dockerfile:1: FROM "+host, "certificate signed by unknown authority")
			},
		},
		{
			kind: failureKind, name: "pull: expired certificate", kaniko: "the TLS error", does: "the host and that its certificate has expired",
			run: func(_ *testing.T, k *kit) {
				host := k.encrypted(k.expired, forward(k.registry))
				k.dockerfile("FROM " + host + "/library/base:1")
				k.local("--registry-certificate="+host+"="+k.ca.file).fails("Dockerfile:1: FROM "+host, "certificate has expired or is not yet valid")
			},
		},
		{
			kind: failureKind, name: "pull: certificate for another host", kaniko: "the TLS error", does: "the host and whom the certificate is for",
			run: func(t *testing.T, k *kit) {
				host := k.encrypted(k.ca.issue(t, soon(), "registry.example.com"), forward(k.registry))
				k.dockerfile("FROM " + host + "/library/base:1")
				k.local("--registry-certificate="+host+"="+k.ca.file).fails(host, "cannot validate certificate for 127.0.0.1")
			},
		},
		{
			kind: failureKind, name: "push: 401", kaniko: "`error checking push permissions`", does: "before the build: the destination, the registry's words and which credentials were used",
			run: func(_ *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.dockerfile("FROM scratch\nCOPY none /")
				k.build(k.to(host)).fails("checking push permissions: check push permission for "+host+"/"+k.name()+":", "UNAUTHORIZED", "without credentials").hushes("COPY none")
			},
		},
		{
			kind: failureKind, name: "push: permission check refused", kaniko: "`error checking push permissions`", does: "before the build: the destination and the registry's words",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY none /")
				f := newFaults(t, k.registry, always("POST", "/blobs/uploads/", status(403, "DENIED", "not allowed to push here")))
				k.build(k.to(f.host)).fails("checking push permissions: check push permission for "+f.host, "DENIED: not allowed to push here").hushes("COPY none")
				f = newFaults(t, k.registry, always("POST", "/blobs/uploads/", status(404, "NAME_UNKNOWN", "create the repository first")))
				k.build(k.to(f.host)).fails("checking push permissions", "create the repository first")
			},
		},
		{
			kind: failureKind, name: "push: 403 of the manifest", kaniko: "`error pushing image`; the digest file is there", does: "the reference and the registry's words; no digest file, and the result file says so",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				f := newFaults(t, k.registry, always("PUT", "/manifests/", status(403, "DENIED", "no manifests today")))
				k.build(k.to(f.host), "--digest-file=digest", "--image-name-with-digest-file=names", "--result-file=result").fails("push manifest "+f.host+"/"+k.name()+"@sha256:", "no manifests today")
				k.missing("digest", "names")
				contains(t, k.read("result"), `"outcome":"failed"`, `"class":"push"`)
			},
		},
		{
			kind: failureKind, name: "push: 404 of the repository", kaniko: "the status", does: "the reference and the registry's words",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				f := newFaults(t, k.registry, always("PUT", "/manifests/", status(404, "NAME_UNKNOWN", "repository name not known to registry")))
				k.build(k.to(f.host)).fails("push manifest "+f.host, "repository name not known to registry")
			},
		},
		{
			kind: failureKind, name: "push: 429 with Retry-After", kaniko: "an error", does: "waits as long as it is asked to, says so, and goes on",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				f := newFaults(t, k.registry, first(1, "PUT", "/manifests/", status(429, "TOOMANYREQUESTS", "slow down", "Retry-After", "2")))
				if r := k.build(k.to(f.host)).ok().says("registry asks to wait", "status=429 wait=2s"); r.took < 2*time.Second {
					t.Errorf("it took %v only", r.took)
				}
				k.at(k.repo)
			},
		},
		{
			kind: failureKind, name: "push: 5xx", kaniko: "an error without --push-retry", does: "each request is tried three times; then the registry's words",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				f := newFaults(t, k.registry, first(2, "PUT", "/manifests/", status(503, "UNAVAILABLE", "not now")))
				k.build(k.to(f.host)).ok()
				k.at(k.repo)
				f = newFaults(t, k.registry, always("PUT", "/manifests/", status(500, "UNKNOWN", "the disk is full")))
				k.build(k.to(f.host)).fails("push manifest", "the disk is full")
				f = newFaults(t, k.registry, always("POST", "/blobs/uploads/", status(500, "UNKNOWN", "no more uploads")))
				k.build(k.to(f.host), "--skip-push-permission-check").fails("push layer", "no more uploads")
			},
		},
		{
			kind: failureKind, name: "push: wrong authority", kaniko: "the TLS error", does: "before the build: the destination, and that its certificate is of an unknown authority",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				host := k.encrypted(k.other.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.build(k.to(host)).fails("checking push permissions", host, "certificate signed by unknown authority")
			},
		},
		{
			kind: failureKind, name: "push: expired certificate", kaniko: "the TLS error", does: "before the build: the destination, and that its certificate has expired",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				host := k.encrypted(k.expired, forward(k.registry))
				k.build(k.to(host), "--registry-certificate="+host+"="+k.ca.file).fails("checking push permissions", host, "certificate has expired")
			},
		},
		{
			kind: failureKind, name: "push: no client certificate", kaniko: "the TLS error", does: "before the build: that one is required",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				host := k.mutual
				k.build(k.to(host), "--registry-certificate="+host+"="+k.ca.file).fails("checking push permissions", "asks for a client certificate: give it with --registry-client-cert "+host+"=CERT,KEY")
				id := k.other.issue(t, soon(), "client")
				k.build(k.to(host), "--registry-certificate="+host+"="+k.ca.file, "--registry-client-cert="+host+"="+id.cert+","+id.key).fails("checking push permissions", host+" asks for a client certificate and did not take that of --registry-client-cert")
			},
		},
		{
			kind: failureKind, name: "push: immutable tag", kaniko: "an error without --push-ignore-immutable-tag-errors", does: "the tag and the registry's words; a tag that is where it should be is a success",
			run: func(t *testing.T, k *kit) {
				const text = "cannot be overwritten because the tag is immutable"
				k.scratch()
				k.push(t, k.image, k.repo+":v1")
				f := newFaults(t, k.registry, always("PUT", "/manifests/v1", status(400, "TAG_INVALID", text)))
				k.build(k.to(f.host)+":v1", "--digest-file=digest").fails("push tag "+f.host+"/"+k.name()+":v1", text)
				k.missing("digest")
				k.build("--destination="+k.repo+":v1", "--reproducible").ok()
				k.build(k.to(f.host)+":v1", "--reproducible", "--digest-file=digest").ok()
				equal(t, "digest", k.read("digest"), k.at(k.repo+":v1").digest())
			},
		},
		{
			kind: failureKind, name: "cache: expired entry", kaniko: "built again", does: "built again, and it says how old the entry was",
			run: func(_ *testing.T, k *kit) {
				k.cached()
				k.local("--cache", "--cache-repo="+k.repo+"/cache").ok()
				k.local("--cache", "--cache-repo="+k.repo+"/cache", "--cache-ttl=1ns").ok().matches(`expired: made \d+s ago, entries are good for 1ns`)
			},
		},
		{
			kind: failureKind, name: "cache: refused or broken", kaniko: "a warning", does: "a warning, and the build goes on without it",
			run: func(t *testing.T, k *kit) {
				k.cached()
				f := newFaults(t, k.registry, func(w http.ResponseWriter, r *http.Request) bool {
					if strings.Contains(r.URL.Path, "/cache/") {
						status(403, "DENIED", "no cache for you")(w, r)
						return true
					}
					return false
				})
				k.build(k.to(f.host), "--cache").ok().says("no cache for you", " ran\n")
				k.at(k.repo).holds("made", "content")
				k.local("--cache", "--cache-repo="+nowhere()+"/cache").ok().says("connection refused")
			},
		},
		{
			kind: failureKind, name: "RUN: exit status", kaniko: "of the forks: the RUN's own", does: "the RUN's own, the line, and what it printed last",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo about to fail; exit 42")
				equal(t, "status", k.local().fails("Dockerfile:2: RUN echo about to fail; exit 42", "about to fail").status, 42)
				k.dockerfile("FROM BASE\nRUN sh -c 'kill -9 $$'; exit $?")
				equal(t, "status", k.local().fails("Dockerfile:2: RUN sh -c").status, 137)
				k.dockerfile("FROM scratch\nCOPY none /")
				equal(t, "status", k.local().fails("Dockerfile:2: COPY none /: none is not in the build context").status, 1)
			},
		},
		{
			kind: failureKind, name: "context: 429 and 5xx", kaniko: "an error", does: "waits as long as it is asked to and tries again, four times; then the status",
			run: func(t *testing.T, k *kit) {
				content := contextArchive(t, "at last")
				var tries atomic.Int32
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					switch tries.Add(1) {
					case 1:
						w.Header().Set("Retry-After", "2")
						w.WriteHeader(http.StatusTooManyRequests)
					case 2:
						w.WriteHeader(http.StatusBadGateway)
					default:
						w.Write(content)
					}
				}))
				defer server.Close()
				k.remote(server.URL+"/c.tgz").holds("f", "at last")
			},
		},
		{
			kind: failureKind, name: "context: broken download", kaniko: "an error", does: "resumed where it broke off, if the server can; otherwise where that was",
			run: func(t *testing.T, k *kit) {
				k.write("files/c.tar", string(archive(t, "Dockerfile", "FROM scratch\nCOPY f /\n", "f", compressible())))
				files := http.FileServer(http.Dir(k.path("files")))
				var mu sync.Mutex
				var ranges []string
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					ranges = append(ranges, r.Header.Get("Range"))
					begins := len(ranges) == 1
					mu.Unlock()
					if begins {
						w.Header().Set("Content-Length", fmt.Sprint(len(readFile(t, k.path("files/c.tar")))))
						w.Header().Set("Last-Modified", modified(t, k.path("files/c.tar")))
						_, _ = io.WriteString(w, readFile(t, k.path("files/c.tar"))[:40000])
						panic(http.ErrAbortHandler)
					}
					files.ServeHTTP(w, r)
				}))
				defer server.Close()
				k.remote(server.URL+"/c.tar").holds("f", compressible())
				mu.Lock()
				defer mu.Unlock()
				if len(ranges) != 2 || !strings.HasPrefix(ranges[1], "bytes=3") {
					t.Errorf("it asked for the ranges %q", ranges)
				}
			},
		},
	}
}

func modified(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	check(t, err)
	return info.ModTime().UTC().Format(http.TimeFormat)
}
