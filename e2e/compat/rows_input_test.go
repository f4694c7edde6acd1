package compat

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// inputRows are about what is built.
func inputRows() []row {
	return []row{
		{
			kind: flagKind, name: "--context, -c", kaniko: "`/workspace/`",
			does: "a directory, or a URL: see Contexts",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.exec("-c", k.path("ctx"), "--no-push").ok()
				k.exec("--context", "dir://"+k.path("ctx"), "--no-push").ok()
				k.exec("--no-push").fails("/workspace/")
				k.exec("--context=ftp://host/x", "--no-push").fails("unknown build context prefix provided, please use one of the following:", "gs://", "dir://", "tar://", "s3://", "git://", "https://")
			},
		},
		{
			kind: flagKind, name: "--bucket, -b", kaniko: "none",
			does: "`gs://BUCKET/context.tar.gz`; a value with a scheme is the context itself; not together with --context",
			run: func(_ *testing.T, k *kit) {
				k.env["STORAGE_EMULATOR_HOST"] = nowhere()
				k.exec("-b", "some", "--no-push", "--dryrun", "--git=branch").fails("invalid git flag")
				k.exec("--bucket=some", "--context=ctx", "--no-push").fails("--bucket and --context exclude each other")
			},
		},
		{
			kind: flagKind, name: "--context-sub-path", kaniko: "none; ignored for a context without a scheme",
			does: "a directory in the context, of every kind, that cannot leave it", differs: "works for a bare path too, and `..` is an error",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY ctx/f /")
				k.write("ctx/a/b/Dockerfile", "FROM scratch\nCOPY f /\n")
				k.write("ctx/a/b/f", "below")
				k.pushed("--context-sub-path=a/b").holds("f", "below")
				k.exec("--context=dir://"+k.path("ctx"), "--context-sub-path=a/b", "--no-push").ok()
				k.local("--context-sub-path=none").fails("none")
				k.local("--context-sub-path=../home").fails("../home")
			},
		},
		{
			kind: flagKind, name: "--dockerfile, -f", kaniko: "`Dockerfile`",
			does: "a path, looked for in the context and then in the working directory, or a URL; its own `.dockerignore` goes with it", differs: "kaniko looks in the working directory first; if that has another one, a warning says so",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nLABEL from=context", "sub/other", "FROM scratch\nLABEL from=sub\n")
				equal(k.t, "label", k.pushed("-f", "sub/other").config().Config.Labels, map[string]string{"from": "sub"})
				k.write("sub/here", "FROM scratch\nLABEL from=cwd\n")
				equal(k.t, "label", k.pushed("--dockerfile=sub/here").config().Config.Labels, map[string]string{"from": "cwd"})
				k.local("-f", "none").fails("there is no none, neither in the context nor in the working directory: set --dockerfile")
				k.write("ctx/third", "FROM scratch\nCOPY . /\n")
				k.write("ctx/third.dockerignore", "sub\n")
				k.write("ctx/.dockerignore", "third\n")
				k.pushed("-f", "third").holds("third", "FROM scratch\nCOPY . /").lacks("sub/other")
				files := httptest.NewServer(http.FileServer(http.Dir(k.dir)))
				defer files.Close()
				equal(k.t, "label", k.pushed("-f", files.URL+"/sub/here").config().Config.Labels, map[string]string{"from": "cwd"})
				k.local("-f", files.URL+"/none").fails("get Dockerfile", "404 Not Found")
			},
		},
		{
			kind: flagKind, name: "--build-arg", kaniko: "none; values with spaces only with `IFS=''`",
			does: "any value, with spaces, quotes and `=`, repeatable; a name alone takes its value from the environment, and none if it is not there",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("ARG A\nARG B\nARG C\nARG D=kept\nFROM scratch\nARG A\nARG B\nARG C\nARG D\nLABEL a=$A b=$B c=$C d=$D")
				k.env["B"] = "from env"
				// The quotes are of kaniko's own example; they are part of the value there as here.
				got := k.pushed("--build-arg", "A='value with spaces' a=b \"q\"", "--build-arg=B", "--build-arg", "C").config().Config.Labels
				equal(k.t, "labels", got, map[string]string{"a": "'value with spaces' a=b \"q\"", "b": "from env", "c": "", "d": "kept"})
				k.local("--build-arg==x").fails("--build-arg")
			},
		},
		{
			kind: flagKind, name: "--build-context", kaniko: "no such flag",
			does: "a further context for FROM and --from: `name=` directory, image, layout, git or archive", differs: "more than kaniko",
			run: func(_ *testing.T, k *kit) {
				k.write("more/f", "named")
				k.dockerfile("FROM scratch\nCOPY --from=more f /")
				k.pushed("--build-context=more="+k.path("more")).holds("f", "named")
				k.dockerfile("FROM some\nRUN echo x > /made")
				k.pushed("--build-context=some=docker-image://"+k.base).holds("made", "x")
				k.local("--build-context=more").fails("want name=directory or name=URL")
			},
		},
		{
			kind: flagKind, name: "--target", kaniko: "the last stage",
			does: "the stage to build, by name in any case or by number", differs: "kaniko's forks take several; here it is one",
			refused: "only one stage can be built: run the executor once for each",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM scratch AS one\nLABEL s=1\nFROM scratch AS two\nLABEL s=2\nFROM scratch\nCOPY none /")
				equal(k.t, "label", k.pushed("--target=two").config().Config.Labels, map[string]string{"s": "2"})
				equal(k.t, "label", k.pushed("--target=ONE").config().Config.Labels, map[string]string{"s": "1"})
				equal(k.t, "label", k.pushed("--target=1").config().Config.Labels, map[string]string{"s": "2"})
				k.local("--target=nine").fails("nine")
				k.local("--target=one,two").fails("only one stage can be built: run the executor once for each")
				k.local("--target=one", "--target=two").fails("only one stage can be built")
			},
		},
		{
			kind: flagKind, name: "--skip-unused-stages", kaniko: "`false`: stages that nothing needs are built; the forks never do",
			does: "true, always: a stage that the image does not need is not built", differs: "`true` is all there is",
			refused: "--skip-unused-stages=false is not supported",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM scratch AS unused\nCOPY none /\nFROM scratch\nCOPY Dockerfile /")
				k.local().ok()
				k.local("--skip-unused-stages").ok()
				k.local("--skip-unused-stages=false").fails("--skip-unused-stages=false is not supported: stages that the image does not need are never built; build them with --target")
			},
		},
		{
			kind: flagKind, name: "--custom-platform, --customPlatform", kaniko: "this machine's",
			does: "`os/arch[/variant]` that bases are chosen by and the config says; nothing is emulated", differs: "the variant is in the config, and `FROM --platform` is obeyed",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				c := k.pushed("--custom-platform=linux/arm/v7").config()
				equal(k.t, "platform", []string{c.OS, c.Architecture, c.Variant}, []string{"linux", "arm", "v7"})
				c = k.pushed("--customPlatform=linux/riscv64").config()
				equal(k.t, "platform", []string{c.OS, c.Architecture}, []string{"linux", "riscv64"})
				k.local("--custom-platform=nonsense").fails("nonsense")
				k.pushIndex(k.repo+"/both:1", "amd64", "arm64", "s390x")
				k.dockerfile("FROM " + k.repo + "/both:1")
				equal(k.t, "label", k.pushed("--custom-platform=linux/s390x").config().Config.Labels, map[string]string{"arch": "s390x"})
				k.local("--custom-platform=linux/mips").fails("Dockerfile:1", "no image for the platform linux/mips", "linux/arm64")
			},
		},
		{
			kind: flagKind, name: "--label", kaniko: "none",
			does: "`key=value` of a label of the image, over the Dockerfile's, repeatable",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nLABEL a=1 b=2")
				equal(k.t, "labels", k.pushed("--label=b=three = 3", "--label", "c=").config().Config.Labels, map[string]string{"a": "1", "b": "three = 3", "c": ""})
				k.local("--label=novalue").fails("labels must be of the form key=value, got novalue")
			},
		},
		{
			kind: flagKind, name: "--annotation", kaniko: "of the forks: none",
			does: "`key=value` of an annotation of the manifest, repeatable; needs --image-format=oci",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				equal(k.t, "annotations", k.pushed("--annotation=a.b=c=d", "--annotation=e=").manifest().Annotations, map[string]string{"a.b": "c=d", "e": ""})
				k.local("--annotation=x").fails("annotations must be of the form key=value, got x")
				k.local("--annotation=x=y", "--image-format=docker").fails("--annotation needs --image-format=oci")
			},
		},
		{
			kind: flagKind, name: "--git", kaniko: "`branch=,single-branch=false,recurse-submodules=false,insecure-skip-tls=false`; the forks have `depth=0`",
			does: "one `key=value` each: branch (or tag), single-branch, depth, recurse-submodules, insecure-skip-tls", differs: "an unknown key or value is an error; one commit is all that is ever fetched, whatever depth says",
			run: func(t *testing.T, k *kit) {
				r := newRepository(t)
				k.env["GIT_PULL_METHOD"] = "http"
				k.gitBuild(r, "").holds("f", "main")
				k.gitBuild(r, "", "--git=branch=dev").holds("f", "dev")
				k.gitBuild(r, "", "--git=branch=v1").holds("f", "one")
				k.gitBuild(r, "", "--git=branch=dev", "--git=single-branch=true", "--git=depth=1").holds("f", "dev")
				k.gitBuild(r, "").lacks("module/sub")
				k.gitBuild(r, "", "--git=recurse-submodules=true").holds("module/sub", "submodule")
				for flag, want := range map[string]string{
					"depth": `invalid git flag "depth", must be in the key=value format`, "depth=x": "--git depth=x",
					"single-branch=maybe": "--git single-branch=maybe", "colour=red": "unknown key: want branch, single-branch, depth, recurse-submodules or insecure-skip-tls",
					"branch=none": "none",
				} {
					k.exec("--no-push", "--context="+r.url(""), "--git", flag).fails(want)
				}
				// Over TLS, with a certificate that nobody knows.
				tls := r.tls(k.other)
				delete(k.env, "GIT_PULL_METHOD")
				k.exec("--no-push", "--context="+tls).fails("certificate")
				k.exec("--no-push", "--context="+tls, "--git=insecure-skip-tls=true").ok()
			},
		},
		{
			kind: flagKind, name: "--check", kaniko: "no such flag",
			does: "prints what is wrong with the Dockerfile and builds nothing", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("from scratch as One\nCOPY Dockerfile /")
				r := k.exec("--context=ctx", "--check").ok()
				contains(t, r.stdout, "Dockerfile:1: ")
				k.dockerfile("# check=error=true\nfrom scratch as One\nCOPY Dockerfile /")
				k.exec("--context=ctx", "--check").fails("check=error=true")
			},
		},
		{
			kind: flagKind, name: "--dryrun", kaniko: "of the forks: `false`",
			does: "prints the plan, and builds and pushes nothing",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY Dockerfile /copied")
				r := k.build("--dryrun", "--destination="+k.repo, "--digest-file=digest").ok()
				contains(t, strings.ToLower(r.stdout), "copy", "/copied")
				k.absent(k.repo)
				k.missing("digest")
			},
		},
	}
}

// pushIndex pushes an index with an image for each architecture, which has it
// as the label arch.
func (k *kit) pushIndex(ref string, arches ...string) {
	k.t.Helper()
	var adds []v1.Image
	for _, a := range arches {
		adds = append(adds, reconfigure(k.t, k.image, func(c *v1.ConfigFile) {
			c.Architecture = a
			c.Config.Labels = map[string]string{"arch": a}
		}))
	}
	k.index(ref, adds...)
}
