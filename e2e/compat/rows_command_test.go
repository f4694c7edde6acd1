package compat

import (
	"encoding/json"
	"strings"
	"testing"
)

// commandRows are about programs and subcommands.
func commandRows() []row {
	return []row{
		{
			kind: commandKind, name: "executor version", kaniko: "prints the version",
			does: "prints the version",
			run:  func(t *testing.T, k *kit) { contains(t, k.exec("version").ok().stdout, "kiln executor ") },
		},
		{
			kind: commandKind, name: "executor --help, executor -h", kaniko: "lists the flags",
			does: "lists the flags",
			run: func(_ *testing.T, k *kit) {
				k.exec("--help").ok().says("--context", "--destination")
				k.exec("-h").ok().says("--context")
				k.exec("--no-such-flag").fails("unknown flag: --no-such-flag")
				k.scratch()
				k.local("surplus").fails(`unexpected argument "surplus"`)
			},
		},
		{
			kind: commandKind, name: "executor push", kaniko: "of the forks: pushes an archive or a layout",
			does: "pushes an archive or a layout as it is",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				k.local("--oci-layout-path=layout", "--tar-path=image.tar", "--digest-file=want").ok()
				r := k.exec("push", "layout", "-d", k.repo+":layout", "--destination="+k.repo+":two").ok()
				contains(t, r.stdout, k.repo+"@"+k.read("want"))
				k.exec("push", "image.tar", "-d", k.repo+":tar").ok()
				for _, tag := range []string{"layout", "two", "tar"} {
					equal(t, tag, k.at(k.repo+":"+tag).digest(), k.read("want"))
				}
				k.exec("push", "ctx", "-d", k.repo).fails("not an OCI image layout")
				k.exec("push").fails("executor push needs one argument")
			},
		},
		{
			kind: commandKind, name: "executor login", kaniko: "of the forks: keeps a password",
			does: "checks a password with the registry and keeps it where builds find it",
			run: func(t *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.in = strings.NewReader("wrong")
				k.exec("login", host, "-u", user, "--password-stdin").fails("log in to "+host+" as ann", "UNAUTHORIZED")
				k.missing("home/.docker/config.json")
				k.in = strings.NewReader(password + "\n")
				k.exec("login", host, "-u", user, "--password-stdin").ok()
				if strings.Contains(k.read("home/.docker/config.json"), password) {
					t.Error("the password is kept as it is")
				}
				k.scratch()
				k.exec("--context=ctx", "--destination="+host+"/"+k.name()).ok()
			},
		},
		{
			kind: commandKind, name: "executor doctor", kaniko: "no such command",
			does: "takes the flags of a build and says what it would find: context, images, permission to push and by which credentials, isolation, disk", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.dockerfile("FROM BASE")
				k.login(host)
				r := k.exec("doctor", "--context=ctx", "--isolation=overlay", k.to(host)).ok()
				contains(t, r.stdout, "STATE", "isolation", "disk", "allowed, with the credentials for "+host+" in "+k.path("home/.docker/config.json"))
				k.absent(k.repo)
				k.write("home/.docker/config.json", "{}")
				r = k.exec("doctor", "--context=ctx", "--isolation=overlay", k.to(host)).fails("the build would fail: 1 of")
				contains(t, r.stdout, "UNAUTHORIZED")
			},
		},
		{
			kind: doctorKind, name: "--json", kaniko: "no such command", does: "prints JSON", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM " + k.repo + ":none")
				var out struct {
					OK       bool
					Findings []struct{ Check, State, Detail string }
				}
				r := k.exec("doctor", "--json", "--context=ctx", "--no-push", "--isolation=overlay").fails()
				check(t, json.Unmarshal([]byte(r.stdout), &out))
				failed := ""
				for _, f := range out.Findings {
					if f.State == "failed" {
						failed += f.Check + ": " + f.Detail + "\n"
					}
				}
				contains(t, failed, "base image: ", "not found")
			},
		},
		{
			kind: pushKind, name: "--destination, -d", kaniko: "none", does: "a reference to push to; repeatable",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.local("--tar-path=image.tar").ok()
				k.exec("push", "image.tar").fails("you must provide --destination")
				k.exec("push", "image.tar", "-d", k.repo+":a", "--destination", k.repo+":b").ok()
				k.at(k.repo + ":a")
				k.at(k.repo + ":b")
			},
		},
		{
			kind: pushKind, name: "--digest-file", kaniko: "none", does: "gets the digest, after the push",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				k.local("--tar-path=image.tar").ok()
				k.exec("push", "image.tar", "-d", k.repo, "--digest-file=digest").ok()
				equal(t, "digest", k.read("digest"), k.at(k.repo).digest())
				f := newFaults(t, k.registry, always("PUT", "/manifests/", status(403, "DENIED", "no manifests today")))
				k.exec("push", "image.tar", "-d", f.host+"/"+k.name(), "--digest-file=claimed").fails("no manifests today")
				k.missing("claimed")
			},
		},
		{
			kind: loginKind, name: "--username, -u, --password, -p", kaniko: "none", does: "who logs in, and the password, which others can see in the list of processes",
			run: func(_ *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.exec("login", host, "--username="+user, "--password="+password).ok()
				k.exec("login", host, "-u", user, "-p", "wrong").fails("UNAUTHORIZED")
				k.exec("login", host, "-u", user).fails("a user and a password are needed")
			},
		},
		{
			kind: loginKind, name: "--password-stdin", kaniko: "`false`", does: "reads the password from standard input",
			run: func(_ *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.in = strings.NewReader(password)
				k.exec("login", host, "-u", user, "--password-stdin").ok()
				k.exec("login", host, "-u", user, "-p", "x", "--password-stdin").fails("--password and --password-stdin exclude each other")
			},
		},
	}
}
