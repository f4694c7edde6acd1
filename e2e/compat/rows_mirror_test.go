package compat

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// hub puts an image on Docker Hub, as this row's executor sees it.
func (k *kit) hub() *internet {
	n := k.online()
	n.host("index.docker.io", forward(k.registry))
	return n
}

// labelled pushes the base with a label from=value.
func (k *kit) labelled(ref, value string) {
	k.push(k.t, reconfigure(k.t, k.image, func(c *v1.ConfigFile) { c.Config.Labels = map[string]string{"from": value} }), ref)
}

// from is the label from of an image.
func (b built) from() string { return b.config().Config.Labels["from"] }

// mirrorRows are about other places to pull from.
func mirrorRows() []row {
	return []row{
		{
			kind: flagKind, name: "--registry-map", kaniko: "none",
			does: "`host=other[;host2=other2]`, repeatable: images of host are pulled from the others first, in this order, then from host; a path after other goes before the repository",
			run: func(t *testing.T, k *kit) {
				k.hub()
				k.labelled(k.registry+"/library/"+k.name(), "hub")
				k.labelled(k.repo+"/deep/library/"+k.name(), "deep")
				k.dockerfile("FROM " + k.name())
				// The first mirror does not listen, the second does not have it.
				equal(t, "from", k.pushed("--registry-map=index.docker.io="+nowhere()+";index.docker.io="+k.repo+"/none;quay.io=x").from(), "hub")
				equal(t, "from", k.pushed("--registry-map=index.docker.io="+k.repo+"/none", "--registry-map=docker.io="+k.repo+"/deep").from(), "deep")
				k.local("--registry-map=nonsense").fails("want host=other")
				k.local("--registry-map=a.io=https://b.io").fails("write a host, without a scheme")
				// Other hosts' images are not looked for there.
				k.dockerfile("FROM BASE")
				k.local("--registry-map=quay.io=" + nowhere()).ok()
			},
		},
		{
			kind: flagKind, name: "--registry-mirror", kaniko: "none",
			does: "a host, with a path if need be, to pull Docker Hub's images from first; repeatable",
			run: func(t *testing.T, k *kit) {
				n := k.hub()
				k.labelled(k.registry+"/library/"+k.name(), "hub")
				k.labelled(k.repo+"/deep/library/"+k.name(), "deep")
				k.dockerfile("FROM " + k.name())
				equal(t, "from", k.pushed("--registry-mirror="+k.repo+"/none", "--registry-mirror="+k.repo+"/deep").from(), "deep")
				equal(t, "requests to Docker Hub", len(n.asked("index.docker.io")), 0)
				equal(t, "from", k.pushed("--registry-mirror="+k.repo+"/none").from(), "hub")
				k.local("--registry-mirror=http://mirror.example.com").fails("write a host, without a scheme")
			},
		},
		{
			kind: flagKind, name: "--skip-default-registry-fallback", kaniko: "`false`",
			does: "if no mirror or map has the image, the build fails; without either it changes nothing",
			run: func(t *testing.T, k *kit) {
				n := k.hub()
				k.labelled(k.registry+"/library/"+k.name(), "hub")
				k.dockerfile("FROM " + k.name())
				k.local("--registry-mirror="+k.repo+"/none", "--skip-default-registry-fallback").fails("Dockerfile:1: FROM "+k.name(), "not found; tried "+k.repo+"/none/library/"+k.name())
				equal(t, "requests to Docker Hub", len(n.asked("index.docker.io")), 0)
				k.local("--skip-default-registry-fallback").ok()
			},
		},
		{
			kind: envKind, name: "KANIKO_REGISTRY_MAP", kaniko: "as --registry-map",
			does: "as --registry-map, which wins",
			run: func(t *testing.T, k *kit) {
				k.hub()
				k.labelled(k.repo+"/one/library/"+k.name(), "one")
				k.labelled(k.repo+"/two/library/"+k.name(), "two")
				k.dockerfile("FROM " + k.name())
				k.env["KANIKO_REGISTRY_MAP"] = "quay.io=x.example.com;index.docker.io=" + k.repo + "/one"
				equal(t, "from", k.pushed().from(), "one")
				equal(t, "from", k.pushed("--registry-map=index.docker.io="+k.repo+"/two").from(), "two")
			},
		},
		{
			kind: envKind, name: "KANIKO_REGISTRY_MIRROR", kaniko: "as --registry-mirror, one value",
			does: "as --registry-mirror, which wins, one value",
			run: func(t *testing.T, k *kit) {
				k.hub()
				k.labelled(k.repo+"/one/library/"+k.name(), "one")
				k.dockerfile("FROM " + k.name())
				k.env["KANIKO_REGISTRY_MIRROR"] = k.repo + "/one"
				equal(t, "from", k.pushed().from(), "one")
			},
		},
		{
			kind: envKind, name: "HTTP_PROXY, HTTPS_PROXY, NO_PROXY", kaniko: "the proxy of the executor's requests",
			does: "the proxy of the executor's requests, as Go reads them",
			run: func(t *testing.T, k *kit) {
				n := k.hub()
				k.labelled(k.registry+"/library/"+k.name(), "hub")
				k.dockerfile("FROM " + k.name())
				k.local().ok()
				if len(n.asked("index.docker.io")) == 0 {
					t.Error("nothing went through HTTPS_PROXY")
				}
				n.plain = true
				n.host("plain.example.com", forward(k.registry))
				k.env["HTTP_PROXY"] = n.url
				k.scratch()
				k.exec("--context=ctx", "--insecure", "--destination=plain.example.com/"+k.name()).ok()
				k.env["NO_PROXY"] = "plain.example.com"
				k.exec("--context=ctx", "--insecure", "--destination=plain.example.com/"+k.name()).fails("plain.example.com")
			},
		},
		{
			kind: envKind, name: "SSL_CERT_FILE, SSL_CERT_DIR", kaniko: "`SSL_CERT_DIR=/kaniko/ssl/certs` in its image",
			does: "the system's authorities, as Go reads them; what registries show is verified by them",
			run: func(t *testing.T, k *kit) {
				host := k.encrypted(k.ca.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.scratch()
				k.exec("--context=ctx", "--destination="+host+"/"+k.name()).fails("unknown authority")
				k.env["SSL_CERT_FILE"] = k.ca.file
				k.exec("--context=ctx", "--destination="+host+"/"+k.name()).ok()
				delete(k.env, "SSL_CERT_FILE")
				k.env["SSL_CERT_DIR"] = k.path("certs")
				k.write("certs/some.crt", readFile(t, k.ca.file))
				k.exec("--context=ctx", "--destination="+host+"/"+k.name()).ok()
			},
		},
		{
			kind: authKind, name: "Docker Hub", kaniko: "`docker.io` is `index.docker.io`; credentials under `https://index.docker.io/v1/`",
			does: "the same; a name without a host is Docker Hub's, one without a slash is in `library/`",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				n.host("index.docker.io", guarded(user, password, forward(k.registry)))
				k.labelled(k.registry+"/library/"+k.name(), "hub")
				k.login("https://index.docker.io/v1/")
				for _, from := range []string{k.name(), "docker.io/" + k.name(), "index.docker.io/library/" + k.name(), "docker.io/library/" + k.name()} {
					k.dockerfile("FROM " + from)
					equal(t, from, k.pushed().from(), "hub")
				}
				k.exec("--context=ctx", "--destination=ann/"+k.name()).ok()
				k.at(k.registry + "/ann/" + k.name())
				k.write("home/.docker/config.json", "{}")
				k.local().fails("UNAUTHORIZED", "without credentials: none for index.docker.io")
			},
		},
	}
}
