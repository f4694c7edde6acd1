package compat

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/kilnhook/kiln/e2e/internal/container"
	"github.com/kilnhook/kiln/e2e/need"
)

// inside is a container like kaniko's: the executor as /kaniko/executor, a
// busybox as /kaniko/sh, and nothing else.
type inside struct {
	k     *kit
	root  string
	binds []container.Bind
	env   []string
	stdin *bytes.Buffer
}

func (k *kit) inside() *inside {
	k.t.Helper()
	need.Command(k.t, "runc")
	c := &inside{k: k, root: k.t.TempDir(), env: []string{
		"HOME=/root", "USER=root", "PATH=/usr/local/bin:/kaniko", "DOCKER_CONFIG=/kaniko/.docker/", "SSL_CERT_DIR=/kaniko/ssl/certs",
	}}
	check(k.t, os.MkdirAll(c.root+"/kaniko", 0o755))
	for to, from := range map[string]string{"executor": k.executor, "busybox": need.Command(k.t, "busybox")} {
		raw, err := os.ReadFile(from)
		check(k.t, err)
		check(k.t, os.WriteFile(c.root+"/kaniko/"+to, raw, 0o755))
	}
	return c
}

// file puts a file into the container.
func (c *inside) file(path, content string) {
	c.k.t.Helper()
	check(c.k.t, os.MkdirAll(c.root+path[:strings.LastIndexByte(path, '/')], 0o755))
	check(c.k.t, os.WriteFile(c.root+path, []byte(content), 0o644))
}

// bind makes a file or directory of the row visible in the container.
func (c *inside) bind(name, target string, readOnly bool) {
	c.binds = append(c.binds, container.Bind{Source: c.k.path(name), Target: target, ReadOnly: readOnly})
}

// run runs a command in a new container.
func (c *inside) run(args ...string) *result {
	c.k.t.Helper()
	var out, errs bytes.Buffer
	spec := container.Spec{
		Runc: need.Command(c.k.t, "runc"), Root: c.root, Scratch: c.k.t.TempDir(), Dir: "/workspace",
		Args: args, Env: c.env, Binds: c.binds, Stdout: &out, Stderr: &errs,
	}
	if c.stdin != nil {
		spec.Stdin = c.stdin
	}
	check(c.k.t, os.MkdirAll(c.root+"/workspace", 0o755))
	status, err := container.Run(c.k.t.Context(), spec)
	check(c.k.t, err)
	return &result{t: c.k.t, args: args, status: status, stdout: out.String(), stderr: errs.String()}
}

// executor runs the executor in a new container.
func (c *inside) executor(args ...string) *result {
	c.k.t.Helper()
	return c.run(append([]string{"/kaniko/executor", "--log-format=text", "--insecure-registry=" + c.k.registry}, args...)...)
}

// shell runs a script of busybox in a new container.
func (c *inside) shell(script string) *result {
	c.k.t.Helper()
	return c.run("/kaniko/busybox", "sh", "-c", script)
}

// howRows are about how it is built.
func howRows() []row {
	return []row{
		{
			kind: flagKind, name: "--isolation", kaniko: "no such flag: always in the container's own root",
			does: "`overlay` builds in a directory of its own, `inplace` in the container's root, `auto` in the first where it can", differs: "the container's own files are left alone where the kernel allows it",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made")
				k.local().ok().says("isolation: overlay")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.executor("--no-push").ok().says("isolation: inplace, because")
				c.executor("--no-push", "--isolation=inplace").ok().says("isolation: inplace")
				c.executor("--no-push", "--isolation=overlay").fails("overlay")
				k.local("--isolation=docker").fails(`isolation "docker": want auto, overlay or inplace`)
			},
		},
		{
			kind: flagKind, name: "--force", kaniko: "`false`: outside of a container it refuses to build",
			does: "builds in place outside of what looks like a container too", differs: "only building in place is refused there, since nothing else touches the machine's files",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made")
				// A directory that is no overlay, entered by chroot, has no mark of a container.
				c := k.inside()
				bare := k.path("bare")
				for _, d := range []string{"/tmp", "/proc"} {
					check(t, os.MkdirAll(bare+d, 0o755))
				}
				check(t, os.WriteFile(bare+"/executor", []byte(readFile(t, k.executor)), 0o755))
				k.write("bare/ctx/Dockerfile", "FROM scratch\nCOPY Dockerfile /copied\n")
				c.bind("bare", "/bare", false)
				build := "/kaniko/busybox chroot /bare /executor --no-push --isolation=inplace --context=/ctx --work-dir=/tmp"
				c.shell(build).fails("building in place should only be done inside of a container", "run with the --force flag if you are sure you want to continue")
				// It has no /proc either, which is as far as it gets.
				c.shell(build+" --force").fails("isolation: inplace", "/proc/self/mountinfo")
				c.bind("ctx", "/workspace", true)
				c.executor("--no-push").ok().says("isolation: inplace")
			},
		},
		{
			kind: flagKind, name: "--work-dir", kaniko: "no such flag: `/kaniko`",
			does: "the directory for everything a build keeps on disk, empty again afterwards", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made")
				k.local("--work-dir=work/deep").ok()
				equal(t, "what is left", len(left(t, k.path("work/deep"))), 0)
				k.write("file", "")
				k.local("--work-dir=file/x").fails("make work directory")
			},
		},
		{
			kind: flagKind, name: "--store-dir", kaniko: "no such flag",
			does: "keeps the indexes of layers and extracted images for other builds on this machine", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				f := k.counting()
				k.dockerfile("FROM " + f.host + "/library/base:1\nRUN echo x > /made")
				for range 2 {
					k.local("--store-dir=" + k.path("store")).ok()
				}
				equal(t, "requests for the layer", f.count("GET", "/blobs/"+k.layerOfBase()), 1)
				k.local().ok()
				equal(t, "requests for the layer without it", f.count("GET", "/blobs/"+k.layerOfBase()), 2)
			},
		},
		{
			kind: flagKind, name: "--store-size", kaniko: "no such flag",
			does: "how much may stay in --store-dir after a build", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made")
				k.local("--store-dir="+k.path("store"), "--store-size=1GiB").ok()
				kept := len(left(t, k.path("store/images")))
				k.local("--store-dir="+k.path("store"), "--store-size=1").ok()
				if now := len(left(t, k.path("store/images"))); kept == 0 || now >= kept {
					t.Errorf("of %d files %d stayed", kept, now)
				}
				k.local("--store-size=much").fails("is no size")
			},
		},
		{
			kind: flagKind, name: "--ignore-path", kaniko: "none",
			does: "a path that is in no layer, and that a build in place leaves alone; repeatable",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN mkdir /skip /too && echo 1 > /skip/a && echo 2 > /too/b && echo 3 > /kept")
				k.pushed("--ignore-path=/skip", "--ignore-path=/too").holds("kept", "3").lacks("skip/a", "too/b")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.file("/skip/mine", "the container's\n")
				k.dockerfile("FROM BASE\nRUN cat /skip/mine > /seen && echo x > /skip/made")
				c.executor("--destination="+k.repo, "--isolation=inplace", "--ignore-path=/skip").ok()
				k.at(k.repo).holds("seen", "the container's").lacks("skip/mine", "skip/made")
			},
		},
		{
			kind: flagKind, name: "--ignore-var-run, --whitelist-var-run", kaniko: "`true`: /var/run is in no layer",
			does: "true: /var/run is in no layer", differs: "`false` by default: what an image has there is its own",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN mkdir -p /var/run && echo 1 > /var/run/pid && echo 2 > /kept")
				k.pushed().holds("var/run/pid", "1")
				k.pushed("--ignore-var-run").holds("kept", "2").lacks("var/run/pid")
				k.pushed("--whitelist-var-run=true").lacks("var/run/pid")
				k.pushed("--ignore-var-run=false").holds("var/run/pid", "1")
			},
		},
		{
			kind: flagKind, name: "--snapshot-mode, --snapshotMode", kaniko: "`full`; `redo` and `time` miss changes",
			does: "`full`, `redo` or `time`: all find every change", differs: "no mode misses a change that keeps size and times",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo one > /f && touch -d 2020-01-01 /f\nRUN echo two > /f && touch -d 2020-01-01 /f")
				for _, mode := range []string{"--snapshot-mode=full", "--snapshot-mode=redo", "--snapshotMode=time"} {
					k.pushed(mode).holds("f", "two")
				}
				k.local("--snapshot-mode=quick").fails("quick is not a valid snapshot mode: want full, redo or time")
			},
		},
		{
			kind: flagKind, name: "--use-new-run", kaniko: "`false`; loses deletions and changes of mode with a cache",
			does: "changes nothing: what a RUN adds, changes and removes is found the same way, quickly", differs: "there is nothing to choose",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo 1 > /a && echo 2 > /b && echo 3 > /c\nRUN rm /a && chmod 600 /b && echo 4 > /c")
				b := k.pushed("--use-new-run", "--reproducible")
				b.holds("c", "4").holds("b", "2").lacks("a")
				equal(t, "digest", k.pushed("--reproducible").digest(), b.digest())
			},
		},
		{
			kind: flagKind, name: "--cleanup", kaniko: "`false`: removes the filesystem in the end",
			does: "removes what a build in place made, so that the container can build again; outputs stay", differs: "the container's own files stay",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				list := "; /kaniko/busybox ls -1 /"
				build := "/kaniko/executor --no-push --isolation=inplace --reproducible --tar-path=/image.tar --digest-file=/kaniko/"
				r := c.shell(build + "one --cleanup" + list + "; echo again; " + build + "two --cleanup; /kaniko/busybox cmp /kaniko/one /kaniko/two && echo same").ok()
				before, after, _ := strings.Cut(r.stdout, "again")
				contains(t, before, "kaniko", "image.tar")
				if strings.Contains(before, "made") || strings.Contains(before, "bin") {
					t.Errorf("left behind: %s", before)
				}
				contains(t, after, "same")
			},
		},
		{
			kind: flagKind, name: "--pre-cleanup", kaniko: "of the forks: `false`",
			does: "empties the container's root before a build in place; with a root of its own it changes nothing, and says so",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN ls / > /seen")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.file("/leftover/of", "an earlier build\n")
				c.executor("--destination="+k.repo, "--isolation=inplace").ok()
				contains(t, k.at(k.repo).files()["seen"], "leftover")
				c.executor("--destination="+k.repo, "--isolation=inplace", "--pre-cleanup").ok()
				if seen := k.at(k.repo).files()["seen"]; strings.Contains(seen, "leftover") {
					t.Errorf("the RUN saw %s", seen)
				}
				k.local("--pre-cleanup").ok().says("--pre-cleanup changes nothing with --isolation=overlay")
			},
		},
		{
			kind: flagKind, name: "--materialize", kaniko: "of the forks: `false`",
			does: "leaves the files of the image in the container's root, also if the cache had every step; only in place",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made")
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				build := "/kaniko/executor --no-push --isolation=inplace --log-format=text --insecure-registry=" + k.registry + " --cache --cache-repo=" + k.repo + "/cache "
				c.shell(build).ok()
				r := c.shell(build + "; /kaniko/busybox ls -1 /; echo then; " + build + "--materialize; /kaniko/busybox ls -1 /").ok().says("CACHED")
				before, after, _ := strings.Cut(r.stdout, "then")
				if strings.Contains(before, "made") {
					t.Errorf("without the flag there is %s", before)
				}
				contains(t, after, "made")
				k.local("--materialize").fails("--materialize")
				k.local("--materialize", "--cleanup").fails("--materialize and --cleanup exclude each other")
			},
		},
		{
			kind: flagKind, name: "--force-build-metadata", kaniko: "`false`: instructions without files get layers with a cache",
			does: "changes nothing, and says so: instructions that change no files have no layers", differs: "there is nothing to choose",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nENV A=b\nRUN echo x > /made")
				equal(t, "digest", k.pushed("--reproducible", "--force-build-metadata").digest(), k.pushed("--reproducible").digest())
				k.local("--force-build-metadata").ok().says("--force-build-metadata changes nothing")
			},
		},
		{
			kind: flagKind, name: "--preserve-context", kaniko: "of the forks: `false`: puts the container's files back after the build",
			does: "fails rather than build in place, which replaces the container's files", differs: "nothing has to be put back: nothing is replaced",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /made")
				k.local("--preserve-context").ok()
				c := k.inside()
				c.bind("ctx", "/workspace", true)
				c.executor("--no-push", "--preserve-context").fails("--preserve-context: building in place would replace the container's files")
			},
		},
		{
			kind: flagKind, name: "--kaniko-dir", kaniko: "of the forks: `/kaniko`",
			does: "the directory of the executor's own files, credentials among them; `$KANIKO_DIR` by default",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				host := k.guardedRegistry()
				k.write("own/.docker/config.json", dockerConfig(host))
				args := []string{"--context=ctx", "--destination=" + host + "/" + k.name(), "--log-format=text"}
				k.exec(args...).fails("UNAUTHORIZED")
				k.exec(append(args, "--kaniko-dir="+k.path("own"))...).ok()
			},
		},
	}
}

// logRows are about what is said.
func logRows() []row {
	return []row{
		{
			kind: flagKind, name: "--verbosity, -v", kaniko: "`info`",
			does: "panic, fatal, error: only failures; warn: warnings too; info; debug, trace: more",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY Dockerfile /f")
				k.local("-v=info").ok().says("COPY Dockerfile /f")
				for _, level := range []string{"panic", "fatal", "error"} {
					k.local("--verbosity="+level).ok().hushes("COPY", "note")
				}
				k.local("-v", "warn").ok().hushes("COPY")
				for _, level := range []string{"debug", "trace"} {
					k.local("--verbosity=" + level).ok().says("COPY")
				}
				k.local("-v=loud").fails(`"loud" is not a valid verbosity`)
				k.dockerfile("FROM scratch\nCOPY none /")
				k.local("-v=panic").fails("COPY none")
			},
		},
		{
			kind: flagKind, name: "--log-format", kaniko: "`color`",
			does: "`text`: lines; `json`: a JSON object each; `color`: for a terminal, lines where there is none",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo said")
				for line := range strings.Lines(k.local("--log-format=json").ok().stderr) {
					var v struct{ Time, Kind string }
					if err := json.Unmarshal([]byte(line), &v); err != nil || v.Time == "" || v.Kind == "" {
						t.Errorf("%q: %v", line, err)
					}
				}
				k.local("--log-format=text").ok().says("said").hushes("\x1b[")
				k.local("--log-format=color").ok().says("said").hushes("\x1b[")
				k.local("--log-format=xml").fails("xml is not a valid log format: want text, color or json")
			},
		},
		{
			kind: flagKind, name: "--log-timestamp", kaniko: "`false`",
			does: "the time before every line of text and color, in place of the seconds since the build began", differs: "in RFC 3339, UTC",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				for line := range strings.Lines(k.local("--log-timestamp").ok().stderr) {
					if len(line) < 21 || line[10] != 'T' || line[19] != 'Z' {
						t.Errorf("no time before %q", line)
					}
				}
				k.local("--log-timestamp=false").ok().hushes("Z #1")
			},
		},
		{
			kind: flagKind, name: "--progress", kaniko: "no such flag",
			does: "`auto`, `tty`, `plain` or `json`, in place of --log-format", differs: "more than kaniko",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.local("--progress=json").ok().says(`"kind":"result"`)
				k.local("--progress=plain", "--log-format=json").ok().says("#1 ").hushes(`"kind"`)
				k.local("--progress=none").fails("none")
			},
		},
	}
}

// mountRows are about what RUN --mount is given.
func mountRows() []row {
	return []row{
		{
			kind: flagKind, name: "--secret", kaniko: "of the forks: `id=ID[,src=FILE][,env=NAME][,type=file\\|env]`",
			does: "`id=ID[,src=FILE\\|,env=NAME]` for RUN --mount=type=secret, repeatable; in no layer and no key",
			run: func(_ *testing.T, k *kit) {
				k.write("token", "s3cret")
				k.env["OTHER"] = "hidden"
				k.dockerfile("FROM BASE\nRUN --mount=type=secret,id=a --mount=type=secret,id=b,env=B cat /run/secrets/a | wc -c > /n && echo ${#B} > /m")
				b := k.pushed("--secret=id=a,src="+k.path("token"), "--secret", "id=b,env=OTHER")
				b.holds("n", "6").holds("m", "6").lacks("run/secrets/a")
				b = k.pushed("--secret=id=a,type=file,src="+k.path("token"), "--secret", "id=b,type=env,env=OTHER")
				b.holds("m", "6")
				k.local("--secret=id=a,src=none").fails("--secret id=a", "none")
				k.local("--secret=src=x").fails("it has no id")
				k.local("--secret=id=a,colour=red").fails(`unknown key "colour"`)
				k.dockerfile("FROM BASE\nRUN --mount=type=secret,id=c,required=true true")
				k.local().fails("Dockerfile:2", "c")
			},
		},
		{
			kind: flagKind, name: "--ssh", kaniko: "no such flag",
			does: "`default` or `ID=SOCKET` of an agent for RUN --mount=type=ssh", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				dir := t.TempDir()
				l, err := net.Listen("unix", dir+"/sock")
				check(t, err)
				defer l.Close()
				k.dockerfile("FROM BASE\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo yes > /there")
				k.pushed("--ssh=default="+dir+"/sock").holds("there", "yes")
				k.env["SSH_AUTH_SOCK"] = dir + "/sock"
				k.pushed("--ssh=default").holds("there", "yes")
				k.local("--ssh=x=none").fails("--ssh x=none")
			},
		},
		{
			kind: flagKind, name: "--cache-mount-dir", kaniko: "no such flag",
			does: "keeps what RUN --mount=type=cache mounts for the next build", differs: "more than kaniko",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nARG N\nRUN --mount=type=cache,target=/c cat /c/old > /old 2>/dev/null; echo $N > /c/old")
				k.pushed("--cache-mount-dir="+k.path("caches"), "--build-arg=N=1")
				k.pushed("--cache-mount-dir="+k.path("caches"), "--build-arg=N=2").holds("old", "1")
				k.pushed("--build-arg=N=3").holds("old", "")
			},
		},
	}
}

// guardedRegistry is the shared registry behind the user's password.
func (k *kit) guardedRegistry() string {
	k.t.Helper()
	f := newFaults(k.t, k.registry, func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, ok := r.BasicAuth(); ok && u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="kiln"`)
		status(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")(w, r)
		return true
	})
	return f.host
}

// unpacked is the root of an image in a directory.
func (k *kit) unpacked(img built) string {
	k.t.Helper()
	root := k.t.TempDir()
	files := mutate.Extract(img.Image)
	defer files.Close()
	tar := exec.CommandContext(k.t.Context(), "tar", "-x", "-C", root, "-f", "-")
	tar.Stdin = files
	if out, err := tar.CombinedOutput(); err != nil {
		k.t.Fatalf("unpack %s: %v\n%s", img.ref, err, out)
	}
	return root
}
