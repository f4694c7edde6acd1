package compat

import (
	"net/http"
	"strings"
	"testing"
)

// transferRows are about layers on their way.
func transferRows() []row {
	return []row{
		{
			kind: failureKind, name: "pull: connection cut in a layer", kaniko: "an error, or all layers again with --image-fs-extract-retry", does: "the rest of the layer is asked for, or all of it where the registry gives no parts, and it says so; in the end where it broke off",
			run: func(t *testing.T, k *kit) {
				f := newFaults(t, k.registry, first(2, "GET", "/blobs/"+k.layerOfBase(), cutPart(k.registry, 50000)))
				k.dockerfile("FROM " + f.host + "/library/base:1\nRUN echo x > /made")
				k.local().ok().says("layer broke off and is resumed at=50000", "layer broke off and is resumed at=100000")
				equal(t, "requests for parts", f.parts(), []string{"bytes=50000-", "bytes=100000-"})
				f = newFaults(t, k.registry, always("GET", "/blobs/"+k.layerOfBase(), cutDownload(k.registry, 1000)))
				k.dockerfile("FROM " + f.host + "/library/base:1\nRUN echo x > /made")
				k.local().fails("read layer " + k.layerOfBase() + ": broke off after ")
			},
		},
		{
			kind: failureKind, name: "pull: wrong bytes in a layer", kaniko: "an error", does: "an error with both digests; nothing of it is used",
			run: func(t *testing.T, k *kit) {
				f := newFaults(t, k.registry, always("GET", "/blobs/"+k.layerOfBase(), func(w http.ResponseWriter, r *http.Request) {
					w.Write([]byte(strings.Repeat("x", 1000)))
				}))
				k.dockerfile("FROM " + f.host + "/library/base:1\nRUN echo x > /made")
				k.local().fails(strings.TrimPrefix(k.layerOfBase(), "sha256:"))
			},
		},
		{
			kind: failureKind, name: "push: connection cut in a layer, upload resumed", kaniko: "an error without --push-retry", does: "goes on where the registry says, in parts; the other layers are not sent again",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY big /\nCOPY Dockerfile /", "big", compressible())
				f := newFaults(t, k.registry, first(1, "PATCH", "/blobs/uploads/", cutUpload(20000)))
				k.build(k.to(f.host)).ok()
				k.at(k.repo).holds("big", compressible())
				// One more than the layers that were sent as streams: small ones need none.
				if n := f.count("PATCH", "/blobs/uploads/"); n < 2 || n > 3 {
					t.Errorf("%d streams and parts", n)
				}
				f = newFaults(t, k.registry, func(w http.ResponseWriter, r *http.Request) bool {
					hit := (r.Method == http.MethodPatch || r.Method == http.MethodPut) && strings.Contains(r.URL.Path, "/blobs/uploads/")
					if hit {
						cutUpload(20000)(w, r)
					}
					return hit
				})
				k.build(k.to(f.host)+"/again").fails("push layer", f.host+"/"+k.name()+"/again")
				k.absent(k.repo + "/again")
			},
		},
		{
			kind: failureKind, name: "push: upload forgotten by the registry", kaniko: "an error without --push-retry", does: "begun anew",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY big /", "big", compressible())
				f := newFaults(t, k.registry, first(1, "PATCH", "/blobs/uploads/", status(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")))
				k.build(k.to(f.host)).ok()
				k.at(k.repo).holds("big", compressible())
			},
		},
		{
			kind: failureKind, name: "push: mount of a base's layer", kaniko: "of the forks: with a switch", does: "a layer that the registry has in another repository is mounted, not sent",
			run: func(t *testing.T, k *kit) {
				f := newFaults(t, k.registry, func(http.ResponseWriter, *http.Request) bool { return false })
				k.dockerfile("FROM " + f.host + "/library/base:1\nLABEL a=b")
				k.build(k.to(f.host)).ok()
				equal(t, "mounts", f.count("POST", "mount="+strings.Replace(k.layerOfBase(), ":", "%3A", 1)), 1)
				equal(t, "reads of the layer", f.count("GET", "/blobs/"+k.layerOfBase()), 0)
				k.at(k.repo).holds("etc/passwd", "root:x:0:0::/root:/bin/sh")
			},
		},
		{
			kind: failureKind, name: "push: mount refused", kaniko: "of the forks: sent", does: "the layer is read from the base and sent",
			run: func(t *testing.T, k *kit) {
				for _, code := range []int{401, 403, 202} {
					f := newFaults(t, k.registry, func(w http.ResponseWriter, r *http.Request) bool {
						if r.Method != http.MethodPost || r.URL.Query().Get("mount") == "" {
							return false
						}
						if code == 202 { // as registries that do not know mounts answer
							r.URL.RawQuery = ""
							return false
						}
						status(code, "DENIED", "you may not read there")(w, r)
						return true
					})
					k.dockerfile("FROM " + f.host + "/library/base:1\nLABEL a=b")
					k.build(k.to(f.host)).ok()
					k.at(k.repo).holds("etc/passwd", "root:x:0:0::/root:/bin/sh")
				}
			},
		},
		{
			kind: failureKind, name: "redirect to another host", kaniko: "credentials are dropped by Go's client", does: "followed for layers, without the credentials, which no other host gets",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				next := guarded(user, password, forward(k.registry))
				n.host("blobs.example.com", forward(k.registry))
				n.host("registry.example.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
						http.Redirect(w, r, "https://blobs.example.com"+r.URL.RequestURI(), http.StatusTemporaryRedirect)
						return
					}
					next.ServeHTTP(w, r)
				}))
				k.login("registry.example.com")
				k.dockerfile("FROM registry.example.com/library/base:1\nRUN echo x > /made")
				k.exec("--context=ctx", "--destination=registry.example.com/"+k.name()).ok()
				k.at(k.repo).holds("made", "x")
				seen := n.asked("blobs.example.com")
				if len(seen) == 0 {
					t.Error("the other host was not asked")
				}
				for _, r := range seen {
					if r.authorization != "" {
						t.Errorf("%s %s had credentials", r.method, r.path)
					}
				}
			},
		},
		{
			kind: failureKind, name: "upload to another host", kaniko: "credentials are sent", does: "a layer that is to be sent to another host is sent there without the credentials",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				n.host("uploads.example.com", forward(k.registry))
				next := guarded(user, password, forward(k.registry))
				n.host("registry.example.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/blobs/uploads/") {
						w = &elsewhere{w}
					}
					next.ServeHTTP(w, r)
				}))
				k.login("registry.example.com")
				k.scratch()
				k.exec("--context=ctx", "--destination=registry.example.com/"+k.name()).ok()
				k.at(k.repo)
				seen := n.asked("uploads.example.com")
				if len(seen) == 0 {
					t.Error("the other host was not asked")
				}
				for _, r := range seen {
					if r.authorization != "" {
						t.Errorf("%s %s had credentials", r.method, r.path)
					}
				}
			},
		},
		{
			kind: failureKind, name: "context: redirect to another host", kaniko: "credentials are dropped by Go's client", does: "followed; what stands in the URL before the host goes to that host only",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				n.host("mirror.example.com", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(contextArchive(t, "moved")) }))
				n.host("files.example.com", guarded(user, password, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					http.Redirect(w, r, "https://mirror.example.com/c.tgz", http.StatusFound)
				})))
				k.remote("https://"+user+":"+password+"@files.example.com/c.tgz").holds("f", "moved")
				equal(t, "authorization", n.asked("mirror.example.com")[0].authorization, "")
			},
		},
	}
}

// elsewhere changes the Location of an answer to another host.
type elsewhere struct{ http.ResponseWriter }

func (e *elsewhere) WriteHeader(code int) {
	if l := e.Header().Get("Location"); l != "" {
		e.Header().Set("Location", strings.Replace(l, "registry.example.com", "uploads.example.com", 1))
	}
	e.ResponseWriter.WriteHeader(code)
}
