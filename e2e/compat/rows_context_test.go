package compat

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/sshd"
)

// contextRows are about the forms of --context, but for Git and buckets.
func contextRows() []row {
	return []row{
		{
			kind: contextKind, name: "/path, dir:///path", kaniko: "a directory, used in place",
			does: "a directory, used in place and never written to",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nCOPY . /c\nRUN rm -r /c/f && echo x > /c/g", "f", "content", "skip/me", "", ".dockerignore", "skip\n")
				k.remote(k.path("ctx")).holds("c/g", "x").lacks("c/f", "c/skip/me")
				k.remote("dir://"+k.path("ctx"), "--context-sub-path=.").holds("c/g", "x")
				equal(t, "context", left(t, k.path("ctx")), []string{".dockerignore", "Dockerfile", "f", "skip"})
				k.exec("--context="+k.path("none"), "--no-push").fails(k.path("none"))
				k.exec("--context="+k.path("ctx/f"), "--no-push").fails(k.path("ctx/f"))
			},
		},
		{
			kind: contextKind, name: "tar:///path", kaniko: "an archive compressed by gzip",
			does: "an archive, plain or compressed by gzip, zstd, xz or bzip2, known by its first bytes", differs: "not only gzip; what climbs out, is cut off or too large is an error that says so",
			run: func(t *testing.T, k *kit) {
				raw := archive(t, "./Dockerfile", "FROM scratch\nCOPY . /\n", "./f", "content")
				plain := k.write("plain.tar", string(raw))
				k.remote("tar://"+plain).holds("f", "content")
				k.remote("tar://"+k.write("x.tgz", string(gzipped(t, raw)))).holds("f", "content")
				for tool, ext := range map[string]string{"zstd": ".zst", "xz": ".xz", "bzip2": ".bz2"} {
					out, err := exec.CommandContext(t.Context(), tool, "-c", plain).Output()
					check(t, err)
					k.remote("tar://"+k.write("any"+ext, string(out))).holds("f", "content")
				}
				k.exec("--no-push", "--context=tar://"+k.path("none")).fails("none")
				k.exec("--no-push", "--context=tar://"+k.write("empty", "")).fails("empty: 0 bytes")
				k.exec("--no-push", "--context=tar://"+k.write("text", "this is no archive")).fails("not a tar archive")
				k.exec("--no-push", "--context=tar://"+k.write("cut.tgz", string(gzipped(t, raw)[:100]))).fails("truncated")
				k.exec("--no-push", "--context=tar://"+k.write("evil.tar", string(archive(t, "../escaped", "x")))).fails(`"../escaped" is not allowed: references parent directory`)
			},
		},
		{
			kind: contextKind, name: "tar://stdin", kaniko: "an archive compressed by gzip on standard input",
			does: "an archive of any of these forms on standard input", differs: "not only gzip",
			run: func(t *testing.T, k *kit) {
				k.in = bytes.NewReader(contextArchive(t, "piped"))
				k.remote("tar://stdin").holds("f", "piped")
				k.in = bytes.NewReader(archive(t, "Dockerfile", "FROM scratch\nCOPY . /\n", "f", "plain"))
				k.remote("tar://stdin").holds("f", "plain")
				k.in = strings.NewReader("")
				k.exec("--no-push", "--context=tar://stdin").fails("tar://stdin", "empty: 0 bytes")
				k.in = nil // a device, as without docker run -i
				k.exec("--no-push", "--context=tar://stdin").fails("no data found", "'--interactive, -i'")
				k.in = bytes.NewReader(contextArchive(t, "cut")[:60])
				k.exec("--no-push", "--context=tar://stdin").fails("truncated")
			},
		},
		{
			kind: contextKind, name: "https://host/archive", kaniko: "of the forks: an archive compressed by gzip; no retry",
			does: "an archive of any form; a broken download is resumed, a redirect to plain HTTP refused", differs: "not only gzip, and limits of bytes and entries",
			run: func(t *testing.T, k *kit) {
				content := contextArchive(t, "served")
				n := k.online()
				n.host("files.example.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/moved.tgz":
						http.Redirect(w, r, "/c.tgz", http.StatusFound)
					case "/down.tgz":
						http.Redirect(w, r, "http://files.example.com/c.tgz", http.StatusFound)
					case "/c.tgz":
						w.Write(content)
					default:
						http.NotFound(w, r)
					}
				}))
				k.remote("https://files.example.com/c.tgz?token=abc").holds("f", "served")
				k.remote("https://files.example.com/c.tgz", "--context-sub-path=sub").holds("sub", "FROM scratch\nCOPY Dockerfile /sub")
				k.remote("https://files.example.com/moved.tgz").holds("f", "served")
				k.exec("--no-push", "--context=https://files.example.com/down.tgz").fails("refused to follow a redirect to plain http")
				k.exec("--no-push", "--context=https://files.example.com/none.tgz?token=abc").fails("404 Not Found").hushes("abc")
				k.exec("--no-push", "--context=http://files.example.com/c.tgz").fails("http:// is for this machine (localhost) only: use https://")
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(content) }))
				defer server.Close()
				k.remote(server.URL+"/c.tgz").holds("f", "served")
			},
		},
	}
}

// gitRows are about contexts in Git.
func gitRows() []row {
	start := func(t *testing.T, k *kit) *repository {
		k.env["GIT_PULL_METHOD"] = "http"
		return newRepository(t)
	}
	return []row{
		{
			kind: contextKind, name: "git://host/repo.git[#ref][#commit]", kaniko: "the default branch, a branch, a tag, a full ref or a commit, over HTTPS; clones everything; leaves `.git`",
			does: "the same over HTTPS; also `#ref:directory`; the commit is told and stands in the event", differs: "one commit is fetched and not its history; there is no `.git`; all files have the commit's time",
			run: func(t *testing.T, k *kit) {
				r := start(t, k)
				k.gitBuild(r, "").holds("f", "main").lacks(".git/HEAD")
				for after, want := range map[string]string{
					"#refs/heads/dev": "dev", "#dev": "dev", "#refs/tags/v1": "one", "#v1": "one",
					"#refs/pull/7/head": "seven", "#refs/merge-requests/7/head": "seven",
				} {
					k.gitBuild(r, after).holds("f", want)
				}
				commit := r.git("app", "rev-parse", "main~1")
				k.gitBuild(r, "#"+commit).holds("f", "dev")
				k.gitBuild(r, "#refs/heads/main#"+commit).holds("f", "dev")
				k.gitBuild(r, "#main:dir").holds("inner", "inner")
				k.gitBuild(r, "#refs/heads/main", "--context-sub-path=dir").holds("inner", "inner")
				for after, want := range map[string]string{"#none": "none", "#main#abc": "must be a full id of 40 hex digits", "#main:../..": "..", "#" + strings.Repeat("0", 40): strings.Repeat("0", 40)} {
					k.exec("--no-push", "--context="+r.url(after)).fails(want)
				}
			},
		},
		{
			kind: contextKind, name: "https://host/repo.git", kaniko: "not a repository",
			does: "as git://", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				r := start(t, k)
				delete(k.env, "GIT_PULL_METHOD")
				k.env["SSL_CERT_FILE"] = k.ca.file
				git := r.tls(k.ca)
				k.remote(git).holds("f", "main")
				k.remote(strings.Replace(git, "git://", "https://", 1)+"#dev").holds("f", "dev")
			},
		},
		{
			kind: contextKind, name: "ssh://git@host/repo.git, git@host:repo.git", kaniko: "not known",
			does: "a repository over ssh, with the keys of an agent or of `.ssh`; only of servers in known_hosts", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				r, server := newRepository(t), sshd.Start(t)
				where := server.User + "@" + server.Addr + r.dir + "/app.git"
				k.exec("--no-push", "--context=ssh://"+where).fails("is not known: its key is ssh-ed25519 SHA256:", "ssh-keyscan")
				k.write("home/.ssh/known_hosts", readFile(t, server.Dir+"/known_hosts"))
				k.exec("--no-push", "--context=ssh://"+where).fails("not in with no key: there is no agent (SSH_AUTH_SOCK)")
				k.write("home/.ssh/id_ed25519", readFile(t, server.Dir+"/id_ed25519"))
				k.remote("ssh://"+where).holds("f", "main")
				k.remote("ssh://"+where+"#dev").holds("f", "dev")
				k.remote("ssh://"+where+"#main:dir").holds("inner", "inner")
				// The short form has no port: it goes to 22, where nobody is known.
				k.exec("--no-push", "--context=git@127.0.0.1:app.git").fails("ssh")
			},
		},
		{
			kind: envKind, name: "SSH_AUTH_SOCK, SSH_KNOWN_HOSTS", kaniko: "not known",
			does: "an agent's socket, and files that name known servers, for contexts over ssh", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				r, server := newRepository(t), sshd.Start(t)
				k.env["SSH_AUTH_SOCK"], k.env["SSH_KNOWN_HOSTS"] = server.Agent(t), server.Dir+"/known_hosts"
				k.remote("ssh://"+server.User+"@"+server.Addr+r.dir+"/app.git").holds("f", "main")
			},
		},
		{
			kind: envKind, name: "GIT_LFS_SKIP_SMUDGE", kaniko: "files in Git LFS are always their pointers, and nothing is said",
			does: "files in Git LFS are fetched, or the build fails; with this they are their pointers, with a warning", differs: "never pointers in silence",
			run: func(t *testing.T, k *kit) {
				r := start(t, k)
				oid := fmt.Sprintf("%x", sha256.Sum256([]byte("large indeed")))
				pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\nsize 12\n"
				r.write("app/large", pointer)
				r.write("app/.gitattributes", "large filter=lfs diff=lfs merge=lfs -text\n")
				r.commit("lfs")
				r.git("app", "push", "-q", "origin", "HEAD:lfs")
				k.exec("--no-push", "--context="+r.url("#lfs")).fails("are kept in Git LFS and cannot be fetched (set GIT_LFS_SKIP_SMUDGE=1 to build with the pointers to them)")
				k.env["GIT_LFS_SKIP_SMUDGE"] = "1"
				k.gitBuild(r, "#lfs").holds("large", strings.TrimSuffix(pointer, "\n"))
				delete(k.env, "GIT_LFS_SKIP_SMUDGE")
				r.keepLarge(oid, "large indeed")
				k.gitBuild(r, "#lfs").holds("large", "large indeed")
				r.keepLarge(oid, "large forged")
				k.exec("--no-push", "--context="+r.url("#lfs")).fails("large", oid)
			},
		},
		{
			kind: contextKind, name: "git://TOKEN@host/repo.git", kaniko: "the token as the user's name",
			does: "the token as the user's name; it is in no message",
			run: func(t *testing.T, k *kit) {
				r := start(t, k)
				r.only(user)
				k.exec("--no-push", "--context="+r.url("")).fails(r.host, "authentication required")
				with := strings.Replace(r.url(""), "git://", "git://"+password+"@", 1)
				k.remote(with).holds("f", "main")
				with = strings.Replace(r.url("#none"), "git://", "git://"+password+"@", 1)
				k.exec("--no-push", "--log-format=text", "--context="+with).fails("none").hushes(password)
			},
		},
		{
			kind: envKind, name: "GIT_TOKEN", kaniko: "the user's name, without a password",
			does: "the user's name, without a password; not for submodules on other hosts",
			run: func(t *testing.T, k *kit) {
				r := start(t, k)
				r.only(user)
				k.env["GIT_TOKEN"] = password
				k.gitBuild(r, "").holds("f", "main")
				k.env["GIT_TOKEN"] = "wrong-token"
				k.exec("--no-push", "--context="+r.url("")).fails(r.host).hushes("wrong-token")
			},
		},
		{
			kind: envKind, name: "GIT_USERNAME, GIT_PASSWORD", kaniko: "user and password",
			does: "user and password; GIT_TOKEN wins over them, and what stands in the URL over all",
			run: func(t *testing.T, k *kit) {
				r := start(t, k)
				r.only(user)
				k.env["GIT_USERNAME"], k.env["GIT_PASSWORD"] = user, "wrong"
				k.exec("--no-push", "--context="+r.url("")).fails(r.host)
				k.env["GIT_PASSWORD"] = password
				k.gitBuild(r, "").holds("f", "main")
			},
		},
		{
			kind: envKind, name: "GIT_PULL_METHOD", kaniko: "of the forks: `https` or `http`",
			does: "`https` or `http`",
			run: func(t *testing.T, k *kit) {
				r := start(t, k)
				k.gitBuild(r, "").holds("f", "main")
				k.env["GIT_PULL_METHOD"] = "https"
				k.exec("--no-push", "--context="+r.url("")).fails(r.host)
				k.env["GIT_PULL_METHOD"] = "carrier pigeon"
				k.exec("--no-push", "--context="+r.url("")).fails(`git pull method "carrier pigeon" is unknown: use https or http`)
			},
		},
	}
}

// pathRows are about kaniko's paths, in a container like kaniko's.
func pathRows() []row {
	return []row{
		{
			kind: pathKind, name: "/kaniko/executor", kaniko: "the executor, and nothing of it in the image",
			does: "the executor; nothing of /kaniko is in the image, built in place as well",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made\nRUN test ! -e /kaniko/none")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.executor("--destination="+k.repo, "--isolation=inplace").ok()
				for _, h := range k.at(k.repo).entries(1) {
					if strings.Contains(h.Name, "kaniko") || strings.Contains(h.Name, "workspace") {
						t.Errorf("%s is in the image", h.Name)
					}
				}
			},
		},
		{
			kind: pathKind, name: "/workspace", kaniko: "the context by default",
			does: "the context by default",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY f /", "f", "mounted")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.executor("--destination=" + k.repo).ok()
				k.at(k.repo).holds("f", "mounted")
			},
		},
		{
			kind: pathKind, name: "/kaniko/.docker/config.json", kaniko: "registry credentials",
			does: "registry credentials, mounted as a file or with its directory",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				host := k.guardedRegistry()
				k.write("config.json", dockerConfig(host))
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.executor("--destination=" + host + "/" + k.name()).fails("UNAUTHORIZED")
				c.bind("config.json", "/kaniko/.docker/config.json", true)
				c.executor("--destination=" + host + "/" + k.name()).ok()
				k.at(k.repo)
			},
		},
		{
			kind: pathKind, name: "/kaniko/ssl/certs", kaniko: "certificate authorities to trust beside its own",
			does: "certificate authorities to trust",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				host := k.encrypted(k.ca.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.executor("--destination=" + host + "/" + k.name()).fails("unknown authority")
				k.write("certs/extra.crt", readFile(t, k.ca.file))
				c.bind("certs", "/kaniko/ssl/certs", true)
				c.executor("--destination=" + host + "/" + k.name()).ok()
			},
		},
		{
			kind: pathKind, name: "/dev/termination-log", kaniko: "a digest file that Kubernetes reads",
			does: "a file that is mounted is written in place: the digest of what was pushed, and nothing if nothing was",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				k.write("log", "")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.bind("log", "/dev/termination-log", false)
				c.executor("--destination="+k.repo+":v1", "--digest-file=/dev/termination-log").ok()
				equal(t, "digest", k.read("log"), k.at(k.repo+":v1").digest())
				k.write("log", "")
				c.executor("--destination="+nowhere()+"/app", "--digest-file=/dev/termination-log").fails("127.0.0.1:1")
				equal(t, "digest", k.read("log"), "")
			},
		},
		{
			kind: pathKind, name: "/dev/stdin", kaniko: "with `docker run -i`: the context of `tar://stdin`",
			does: "the context of `tar://stdin` in a container",
			run: func(t *testing.T, k *kit) {
				c := k.inside()
				c.stdin = bytes.NewBuffer(contextArchive(t, "piped"))
				c.executor("--destination="+k.repo, "--context=tar://stdin").ok()
				k.at(k.repo).holds("f", "piped")
			},
		},
		{
			kind: pathKind, name: "/secret/kaniko-secret.json", kaniko: "a key of a Google service account, named by GOOGLE_APPLICATION_CREDENTIALS",
			does: "a key of a Google service account, named by GOOGLE_APPLICATION_CREDENTIALS",
			run: func(t *testing.T, k *kit) {
				g := k.google(t)
				k.write("secret/kaniko-secret.json", g.key)
				c := k.inside()
				c.bind("secret", "/secret", true)
				c.bind("ca.pem", "/ca.pem", true)
				c.env = append(c.env, "GOOGLE_APPLICATION_CREDENTIALS=/secret/kaniko-secret.json", "HTTPS_PROXY="+g.n.url, "SSL_CERT_FILE=/ca.pem")
				c.executor("--destination="+k.repo, "--context=gs://contexts/"+k.name()+".tgz").ok()
				k.at(k.repo).holds("f", "google")
			},
		},
	}
}
