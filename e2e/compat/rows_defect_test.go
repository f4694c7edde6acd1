package compat

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// defectRows are the mistakes found in kaniko that concern flags, registries
// and the cache. Those about file systems are cases of the comparison with
// BuildKit.
func defectRows() []row {
	return []row{
		{
			kind: defectKind, name: "the digest file is written before the push", kaniko: "a failed push leaves a digest", does: "a failed push leaves none",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				f := newFaults(t, k.registry, always("PUT", "/manifests/latest", status(500, "UNKNOWN", "no")))
				k.build(k.to(f.host), "--digest-file=digest").fails("push manifest", "as latest")
				k.missing("digest")
			},
		},
		{
			kind: defectKind, name: "the two files of names share a buffer", kaniko: "with both flags one file holds the lines of both", does: "each file holds its own lines",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				d := k.pushed("--image-name-with-digest-file=names", "--image-name-tag-with-digest-file=tags").digest()
				equal(t, "names", k.read("names"), k.repo+"@"+d+"\n")
				equal(t, "tags", k.read("tags"), k.repo+":latest@"+d+"\n")
			},
		},
		{
			kind: defectKind, name: "an archive from S3 stays in the context", kaniko: "`COPY . .` copies context.tar.gz", does: "it is never in the context",
			run: func(t *testing.T, k *kit) {
				url := k.amazon(t)
				k.write("home/.aws/credentials", "[default]\naws_access_key_id="+k.s3.AccessKey+"\naws_secret_access_key="+k.s3.SecretKey+"\n")
				b := k.remote(url).holds("f", "amazon")
				if files := b.files(); len(files) != 3 {
					t.Errorf("the image has %d files", len(files))
				}
			},
		},
		{
			kind: defectKind, name: "an authority for one host is trusted for others", kaniko: "one pool for all hosts", does: "a pool for each",
			run: func(t *testing.T, k *kit) {
				mine := k.encrypted(k.ca.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				theirs := k.encrypted(k.ca.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.dockerfile("FROM " + mine + "/library/base:1\nFROM " + theirs + "/library/base:1")
				k.local("--registry-certificate="+mine+"="+k.ca.file).fails("Dockerfile:2: FROM "+theirs, "unknown authority")
			},
		},
		{
			kind: defectKind, name: "a build argument in FROM is cut at its second `=`", kaniko: "the rest is lost, and an empty value does not replace a default", does: "the whole value, also if it is empty",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("ARG A=default\nARG B=none-such\nFROM BASE${B}\nARG A\nLABEL a=$A")
				equal(t, "label", k.pushed("--build-arg=A=x=y=z", "--build-arg=B=").config().Config.Labels["a"], "x=y=z")
			},
		},
		{
			kind: defectKind, name: "with a cache instructions without files make empty layers", kaniko: "a layer for each", does: "no layer for any",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nENV A=1\nLABEL b=2\nEXPOSE 80\nCMD [\"sh\"]\nRUN echo x > /x\nENV C=3")
				equal(t, "layers", len(k.pushed("--cache").manifest().Layers), 2)
				equal(t, "layers from the cache", len(k.pushed("--cache").manifest().Layers), 2)
			},
		},
		{
			kind: defectKind, name: "proxies are part of cache keys", kaniko: "another HTTP_PROXY misses the cache", does: "the predefined proxy arguments are in no key",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo ran; echo $HTTP_PROXY > /dev/null; echo x > /x")
				repo := "--cache-repo=" + k.repo + "/cache"
				k.local("--cache", repo, "--build-arg=HTTP_PROXY=http://one.example.com").ok().says(" ran\n")
				k.local("--cache", repo, "--build-arg=HTTP_PROXY=http://two.example.com").ok().says("CACHED")
			},
		},
		{
			kind: defectKind, name: "a URL of ADD whose content has changed is taken from the cache", kaniko: "with --cache-copy-layers the old file stays", does: "the new one is fetched",
			run: func(_ *testing.T, k *kit) {
				var content atomic.Value
				content.Store("first")
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, content.Load().(string)) }))
				defer server.Close()
				k.dockerfile("FROM scratch AS one\nADD " + server.URL + "/f /f\nFROM scratch\nCOPY --from=one /f /g")
				k.pushed("--cache", "--cache-copy-layers").holds("g", "first")
				content.Store("second")
				k.pushed("--cache", "--cache-copy-layers").holds("g", "second")
			},
		},
		{
			kind: defectKind, name: "KANIKO_NO_PUSH=false cancels --no-push", kaniko: "the variable wins: it pushes", does: "the flag wins",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.env["KANIKO_NO_PUSH"] = "false"
				k.build("--no-push", "--destination="+k.repo).ok()
				k.absent(k.repo)
			},
		},
		{
			kind: defectKind, name: "whole archives are read to find their type", kaniko: "memory grows with the archive", does: "only its beginning is read: memory does not grow",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nADD big.tar /")
				const size = 256 << 20
				k.large("ctx/big.tar", size)
				r := k.command("/bin/busybox", "time", "-v", k.executor, "--context=ctx", "--no-push", "--isolation=overlay").ok()
				m := regexp.MustCompile(`Maximum resident set size \(kbytes\): (\d+)`).FindStringSubmatch(r.stderr)
				if m == nil {
					t.Fatal(r)
				}
				if peak, err := strconv.Atoi(m[1]); err != nil || peak<<10 > size*3/4 {
					t.Errorf("%d MiB were needed for an archive of %d MiB", peak>>10, size>>20)
				}
			},
		},
		{
			kind: defectKind, name: "a Dockerfile in the working directory hides that of the context", kaniko: "looked for in the working directory first", does: "the context's is read, and a warning names the other; by its full path that is read", differs: "what lies in the working directory by chance is not built in place of what was sent",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nLABEL from=context")
				k.write("Dockerfile", "FROM scratch\nLABEL from=cwd\n")
				equal(t, "label", k.pushed().config().Config.Labels["from"], "context")
				equal(t, "label", k.pushed("--dockerfile=" + k.path("Dockerfile")).config().Config.Labels["from"], "cwd")
				k.build("--no-push").ok().says("warning: Dockerfile is read in the context, not in the working directory, which has one too")
			},
		},
		{
			kind: defectKind, name: "--skip-tls-verify-pull is read by nobody", kaniko: "has no effect", does: "it works: see the flag",
			run: func(t *testing.T, k *kit) {
				host := k.encrypted(k.other.issue(t, soon(), "127.0.0.1"), forward(k.registry))
				k.dockerfile("FROM " + host + "/library/base:1")
				k.local("--skip-tls-verify-pull").ok()
			},
		},
		{
			kind: defectKind, name: "--context-sub-path is ignored for a bare path", kaniko: "the whole directory is the context", does: "it works: see the flag",
			run: func(_ *testing.T, k *kit) {
				k.write("ctx/a/Dockerfile", "FROM scratch\nCOPY . /\n")
				k.pushed("--context-sub-path=a").holds("Dockerfile", "FROM scratch\nCOPY . /")
			},
		},
		{
			kind: defectKind, name: "unknown keys of --git are ignored", kaniko: "nothing is said", does: "an error",
			run: func(_ *testing.T, k *kit) {
				k.exec("--no-push", "--context=git://"+nowhere()+"/x.git", "--git=brunch=main").fails("--git brunch=main: unknown key")
			},
		},
		{
			kind: defectKind, name: "special files of an archive are left out", kaniko: "fifos and devices are dropped and nothing is said", does: "an error that names the file, or the file",
			run: func(t *testing.T, k *kit) {
				k.exec("--no-push", "--log-format=text", "--context=tar://"+k.write("c.tar", string(special(t)))).says("pipe")
			},
		},
		{
			kind: defectKind, name: "hashes of a timeout", kaniko: "a snapshot that takes 90 minutes ends the build (SNAPSHOT_TIMEOUT_DURATION)", does: "there is no such limit: a snapshot does not hash everything",
			run: func(_ *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nRUN echo x > /x")
				k.env["SNAPSHOT_TIMEOUT_DURATION"] = "1ns"
				k.local().ok()
			},
		},
	}
}

// large writes an archive with one file, without holding it.
func (k *kit) large(name string, size int64) {
	k.t.Helper()
	f, err := os.Create(k.path(name))
	check(k.t, err)
	w := tar.NewWriter(f)
	check(k.t, w.WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}))
	block := []byte(strings.Repeat("0123456789abcdef", 1<<12))
	for ; size > 0; size -= int64(len(block)) {
		_, err := w.Write(block)
		check(k.t, err)
	}
	check(k.t, errors.Join(w.Close(), f.Close()))
}

// special is a context with a fifo.
func special(t *testing.T) []byte {
	t.Helper()
	var b strings.Builder
	w := tar.NewWriter(&b)
	check(t, w.WriteHeader(&tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o644}))
	content := "FROM scratch\nCOPY . /\n"
	check(t, w.WriteHeader(&tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}))
	_, err := w.Write([]byte(content))
	check(t, err)
	check(t, w.Close())
	return []byte(b.String())
}
