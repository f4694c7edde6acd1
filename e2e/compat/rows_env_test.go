package compat

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// dockerConfig is a Docker config with the user's password for hosts.
func dockerConfig(hosts ...string) string {
	auths := map[string]map[string]string{}
	for _, h := range hosts {
		auths[h] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
	}
	raw, _ := json.Marshal(map[string]any{"auths": auths})
	return string(raw)
}

// login keeps the user's password for hosts in the home directory.
func (k *kit) login(hosts ...string) { k.write("home/.docker/config.json", dockerConfig(hosts...)) }

func readFile(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	check(t, err)
	return string(raw)
}

// envRows are about the environment, but for that of clouds and registries.
func envRows() []row {
	return []row{
		{
			kind: envKind, name: "KANIKO_NO_PUSH", kaniko: "wins over --no-push, even as `false`",
			does: "`true` is --no-push; the flag wins; a value that is no truth value is an error", differs: "`false` does not cancel the flag",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.env["KANIKO_NO_PUSH"] = "true"
				k.build("--destination=" + k.repo).ok()
				k.absent(k.repo)
				k.env["KANIKO_NO_PUSH"] = "false"
				k.build("--no-push", "--destination="+k.repo).ok()
				k.absent(k.repo)
				k.build("--destination=" + k.repo).ok()
				k.at(k.repo)
				k.env["KANIKO_NO_PUSH"] = "perhaps"
				k.build("--destination="+k.repo).fails("KANIKO_NO_PUSH", "perhaps")
			},
		},
		{
			kind: envKind, name: "KANIKO_DIR", kaniko: "of the forks: `/kaniko`",
			does: "as --kaniko-dir, which wins",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				host := k.guardedRegistry()
				k.write("own/.docker/config.json", dockerConfig(host))
				k.env["KANIKO_DIR"] = k.path("own")
				k.exec("--context=ctx", "--destination="+host+"/"+k.name()).ok()
				k.exec("--context=ctx", "--destination="+host+"/"+k.name(), "--kaniko-dir="+k.path("none")).fails("UNAUTHORIZED")
			},
		},
		{
			kind: envKind, name: "KANIKO_CLEANUP", kaniko: "of the forks: as --cleanup",
			does: "as --cleanup, which wins",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				build := "/kaniko/executor --no-push --isolation=inplace"
				r := c.shell("KANIKO_CLEANUP=true " + build + "; /kaniko/busybox ls -1 /; echo and; KANIKO_CLEANUP=true " + build + " --cleanup=false; /kaniko/busybox ls -1 /").ok()
				before, after, _ := strings.Cut(r.stdout, "and\n")
				if strings.Contains(before, "made") {
					t.Errorf("left behind: %s", before)
				}
				contains(t, after, "made")
				k.env["KANIKO_CLEANUP"] = "perhaps"
				k.local().fails("KANIKO_CLEANUP", "perhaps")
			},
		},
		{
			kind: envKind, name: "KANIKO_PRESERVE_CONTEXT", kaniko: "of the forks: as --preserve-context",
			does: "as --preserve-context, which wins",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.env = append(c.env, "KANIKO_PRESERVE_CONTEXT=true")
				c.executor("--no-push", "--isolation=inplace").fails("--preserve-context: building in place would replace the container's files")
				c.executor("--no-push", "--isolation=inplace", "--preserve-context=false").ok()
			},
		},
		{
			kind: envKind, name: "BUILDER_OUTPUT", kaniko: "of the forks: a directory whose `images` gets a JSON line for each destination",
			does: "a directory whose `images` gets a JSON line for each destination, after the push",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				k.env["BUILDER_OUTPUT"] = k.path("out")
				k.local("--destination=" + k.repo).ok()
				k.missing("out")
				d := k.pushed("--destination=" + k.repo + ":v2").digest()
				equal(t, "images", k.read("out/images"), fmt.Sprintf("{\"name\":%q,\"digest\":%q}\n{\"name\":%q,\"digest\":%q}\n", k.repo+":latest", d, k.repo+":v2", d))
			},
		},
		{
			kind: envKind, name: "SOURCE_DATE_EPOCH", kaniko: "not known",
			does: "as --build-arg: seconds since 1970 that every time in the image is", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nCOPY Dockerfile /f")
				b := k.pushed("--build-arg=SOURCE_DATE_EPOCH=1700000000")
				equal(t, "created", b.config().Created.Unix(), 1700000000)
				if at := b.entries(1)[0].ModTime; at.After(time.Unix(1700000000, 0)) {
					t.Errorf("a file is of %v", at)
				}
				k.local("--build-arg=SOURCE_DATE_EPOCH=soon").fails("SOURCE_DATE_EPOCH")
			},
		},
		{
			kind: envKind, name: "K_SINK", kaniko: "not known", does: "as --event-sink, which wins", differs: "more than kaniko",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.env["K_SINK"] = "http://" + nowhere() + "/"
				k.local().fails("send event to http://127.0.0.1:1/")
			},
		},
		{
			kind: envKind, name: "IFS", kaniko: "must be empty in the shell for --build-arg with spaces",
			does: "does not matter: the executor is started with words, not with a line",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nARG A\nLABEL a=$A")
				for _, ifs := range []string{"", " \t\n"} {
					k.env["IFS"] = ifs
					equal(t, "label", k.pushed("--build-arg", "A=with  two spaces").config().Config.Labels["a"], "with  two spaces")
				}
			},
		},
	}
}

// credentialRows are about where passwords come from.
func credentialRows() []row {
	push := func(k *kit, host string) *result {
		return k.exec("--context=ctx", "--destination="+host+"/"+k.name(), "--log-format=text", "--registry-certificate="+host+"="+k.ca.file)
	}
	return []row{
		{
			kind: envKind, name: "DOCKER_CONFIG", kaniko: "`/kaniko/.docker/` in its image",
			does: "the directory of config.json, looked into first",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				host := k.private
				k.write("home/.docker/config.json", dockerConfig("other.example.com"))
				k.write("own/config.json", dockerConfig(host))
				push(k, host).fails("UNAUTHORIZED", "without credentials: none for "+host+" in "+k.path("home/.docker/config.json"))
				k.env["DOCKER_CONFIG"] = k.path("own") + "/"
				push(k, host).ok()
				k.write("own/config.json", "{")
				push(k, host).fails(k.path("own/config.json"), "not valid JSON")
			},
		},
		{
			kind: envKind, name: "DOCKER_AUTH_CONFIG", kaniko: "of the forks: a Docker config as JSON, in place of the file",
			does: "a Docker config as JSON, asked first; what it does not have, the files may", differs: "it does not hide the files",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				host := k.private
				k.env["DOCKER_AUTH_CONFIG"] = dockerConfig(host)
				push(k, host).ok()
				k.env["DOCKER_AUTH_CONFIG"] = dockerConfig("other.example.com")
				push(k, host).fails("UNAUTHORIZED")
				k.login(host)
				push(k, host).ok()
				k.env["DOCKER_AUTH_CONFIG"] = "sesame"
				push(k, host).fails("DOCKER_AUTH_CONFIG are not valid JSON").hushes("sesame")
			},
		},
		{
			kind: envKind, name: "REGISTRY_AUTH_FILE", kaniko: "of the forks: Podman's file",
			does: "a file like config.json, Podman's, asked last",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				host := k.private
				k.env["REGISTRY_AUTH_FILE"] = k.write("auth.json", dockerConfig(host))
				push(k, host).ok()
			},
		},
		{
			kind: pathKind, name: "$HOME/.docker/config.json", kaniko: "registry credentials",
			does: "registry credentials, after those of $DOCKER_CONFIG and /kaniko/.docker",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				host := k.private
				push(k, host).fails("checking push permissions", "UNAUTHORIZED", "without credentials: there is no Docker config with any for "+host)
				k.login(host)
				push(k, host).ok()
			},
		},
		{
			kind: authKind, name: "any registry with a password (JFrog, Harbor, GitLab …)", kaniko: "`auths` by host",
			does: "`auths` by host, as host, URL, with /v1/ or /v2/; by path, of which the longest wins; `auth` or `username` and `password`",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				host := k.private
				for _, key := range []string{host, "https://" + host, "https://" + host + "/v1/", host + "/v2/", host + "/" + k.name()} {
					k.login(key)
					push(k, host).ok()
				}
				k.write("home/.docker/config.json", fmt.Sprintf(`{"auths":{%q:{"username":"ann","password":"sesame"}}}`, host))
				push(k, host).ok()
				k.write("home/.docker/config.json", fmt.Sprintf(`{"auths":{%q:{"auth":"d3Jvbmc6d3Jvbmc="},%q:{"username":"ann","password":"sesame"}}}`, host, host+"/"+k.name()))
				push(k, host).ok()
				k.login(host + "/elsewhere")
				push(k, host).fails("UNAUTHORIZED")
			},
		},
		{
			kind: authKind, name: "credential helpers", kaniko: "`credHelpers` by host, `credsStore` for all hosts",
			does: "`credHelpers` by host, `credsStore` for all hosts: docker-credential-NAME in $PATH",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				host := k.private
				k.write("bin/docker-credential-kiln", "#!/bin/sh\nread -r host\necho $1 $host >> "+k.path("asked")+"\n"+`echo '{"ServerURL":"","Username":"ann","Secret":"sesame"}'`+"\n")
				check(t, os.Chmod(k.path("bin/docker-credential-kiln"), 0o755))
				k.env["PATH"] = k.path("bin") + ":" + k.env["PATH"]
				k.write("home/.docker/config.json", fmt.Sprintf(`{"credHelpers":{%q:"kiln"}}`, host))
				push(k, host).ok()
				contains(t, k.read("asked"), "get "+host)
				k.write("home/.docker/config.json", `{"credsStore":"kiln"}`)
				push(k, host).ok()
				k.write("home/.docker/config.json", `{"credsStore":"absent"}`)
				push(k, host).fails("UNAUTHORIZED", "docker-credential-absent failed")
				k.write("bin/docker-credential-kiln", "#!/bin/sh\necho no luck\nexit 1\n")
				k.write("home/.docker/config.json", `{"credsStore":"kiln"}`)
				push(k, host).fails("docker-credential-kiln failed: ", "no luck")
			},
		},
		{
			kind: authKind, name: "registries that give tokens", kaniko: "the token service of the challenge is asked",
			does: "the token service of the challenge is asked, with the password; the registry sees the token only",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				n.host("tokens.example.com", guarded(user, password, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !strings.Contains(r.URL.RawQuery, "pull") || r.URL.Query().Get("service") != "kiln" {
						http.Error(w, r.URL.RawQuery, http.StatusBadRequest)
						return
					}
					fmt.Fprint(w, `{"token":"a-token"}`)
				})))
				next := forward(k.registry)
				n.host("registry.example.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Authorization") != "Bearer a-token" {
						w.Header().Set("WWW-Authenticate", `Bearer realm="https://tokens.example.com/token",service="kiln"`)
						status(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")(w, r)
						return
					}
					next.ServeHTTP(w, r)
				}))
				k.login("registry.example.com")
				k.scratch()
				k.exec("--context=ctx", "--destination=registry.example.com/"+k.name()).ok()
				k.at(k.repo)
				for _, r := range n.asked("registry.example.com") {
					if strings.HasPrefix(r.authorization, "Basic") {
						t.Errorf("%s %s had the password", r.method, r.path)
					}
				}
			},
		},
	}
}
