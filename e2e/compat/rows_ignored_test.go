package compat

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kilnhook/kiln/e2e/need"
)

// ignoredRows are about variables that change what is told, or nothing.
func ignoredRows() []row {
	return []row{
		{
			kind: envKind, name: "UPSTREAM_CLIENT_TYPE", kaniko: "appended to the user agent", does: "appended to the user agent",
			run: func(t *testing.T, k *kit) {
				var agent atomic.Value
				f := newFaults(t, k.registry, observe(&agent))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				k.env["UPSTREAM_CLIENT_TYPE"] = "my-ci"
				k.local().ok()
				contains(t, agent.Load().(string), "kiln-executor/", ",my-ci")
			},
		},
		{
			kind: envKind, name: "STACKLOG_PATH", kaniko: "a profile of Slow Jam's", does: "gets a CPU profile for `go tool pprof`", differs: "the format is pprof's",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY big /", "big", compressible())
				k.env["STACKLOG_PATH"] = k.path("profile")
				k.local().ok()
				contains(t, k.read("profile")[:2], "\x1f\x8b")
				k.env["STACKLOG_PATH"] = k.path("none/profile")
				k.local().fails("STACKLOG_PATH", "none/profile")
			},
		},
		{
			kind: envKind, name: "KANIKO_PRINT_PLAN", kaniko: "of the forks: the plan is printed before the build", does: "the plan is printed before the build",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				k.env["KANIKO_PRINT_PLAN"] = "true"
				contains(t, k.local().ok().stdout, "COPY Dockerfile /file")
				k.env["KANIKO_PRINT_PLAN"] = "false"
				equal(t, "output", k.local().ok().stdout, "")
				k.env["KANIKO_PRINT_PLAN"] = "perhaps"
				k.local().fails("KANIKO_PRINT_PLAN", "perhaps")
			},
		},
		{
			kind: envKind, name: "FF_KANIKO_*", kaniko: "of the forks: 37 switches, most of them for BuildKit's behaviour", does: "change nothing, and the log says so: there is one behaviour, BuildKit's", differs: "there is nothing to choose",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.env["FF_KANIKO_COPY_AS_ROOT"], k.env["FF_KANIKO_RUN_VIA_TINI"] = "true", "0"
				k.local().ok().says("warning: FF_KANIKO_COPY_AS_ROOT, FF_KANIKO_RUN_VIA_TINI change nothing: there is one behaviour, BuildKit's")
			},
		},
		{
			kind: envKind, name: "KANIKO_IGNORE_ASSERTIONS, SNAPSHOT_TIMEOUT_DURATION", kaniko: "of the forks: assertions that end a build, and the time after which a snapshot does", does: "change nothing, and the log says so", differs: "there is neither",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.env["KANIKO_IGNORE_ASSERTIONS"], k.env["SNAPSHOT_TIMEOUT_DURATION"] = "true", "1s"
				k.local().ok().says("warning: KANIKO_IGNORE_ASSERTIONS changes nothing", "warning: SNAPSHOT_TIMEOUT_DURATION changes nothing")
			},
		},
		{
			kind: envKind, name: "KANIKO_PRE_CLEANUP", kaniko: "of the forks: as --pre-cleanup", does: "as --pre-cleanup, which wins",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.env["KANIKO_PRE_CLEANUP"] = "true"
				k.local().ok().says("--pre-cleanup changes nothing with --isolation=overlay")
				k.local("--pre-cleanup=false").ok().hushes("--pre-cleanup")
				k.env["KANIKO_PRE_CLEANUP"] = "perhaps"
				k.local().fails("KANIKO_PRE_CLEANUP", "perhaps")
			},
		},
		{
			kind: envKind, name: "KANIKO_TELEMETRY_ENDPOINT, KANIKO_TELEMETRY_OMIT_DOCKERFILE, OTEL_EXPORTER_OTLP_ENDPOINT", kaniko: "of the forks: spans of the build, sent by OTLP over HTTP",
			does: "a span for the build and for each of its steps, sent by OTLP over HTTP; without the Dockerfile's text if that is to be omitted; OpenTelemetry's own variables and TRACEPARENT are known", differs: "a collector that cannot be reached is a warning",
			run: func(t *testing.T, k *kit) {
				k.scratch()
				var last atomic.Pointer[string]
				server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					raw, _ := io.ReadAll(r.Body)
					text := r.URL.Path + " " + string(raw)
					last.Store(&text)
				}))
				defer server.Close()
				k.env["KANIKO_TELEMETRY_ENDPOINT"] = server.URL
				k.local().ok().hushes("warning")
				contains(t, *last.Load(), "/v1/traces {", "COPY Dockerfile /file", `"service.name"`)
				k.env["KANIKO_TELEMETRY_OMIT_DOCKERFILE"] = "true"
				k.local().ok()
				if got := *last.Load(); strings.Contains(got, "COPY") {
					t.Errorf("the Dockerfile is in %s", got)
				}
				delete(k.env, "KANIKO_TELEMETRY_ENDPOINT")
				k.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = server.URL + "/base"
				k.env["TRACEPARENT"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
				k.local().ok()
				contains(t, *last.Load(), "/base/v1/traces {", `"traceId":"0af7651916cd43dd8448eb211c80319c"`)
				k.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://" + nowhere()
				k.local().ok().says("warning: send telemetry to 127.0.0.1:1", "connection refused")
			},
		},
		{
			kind: pathKind, name: "/busybox/sh", kaniko: "the shell of the debug image",
			does: "the shell of the debug image; with GitLab's `entrypoint: [\"\"]` a job's script runs in it",
			run: func(t *testing.T, k *kit) {
				k.write("ctx/Dockerfile", readFile(t, "../../infra/images/Dockerfile"))
				for name, from := range map[string]string{"executor": k.executor, "warmer": k.warmer, "busybox/busybox": need.Command(t, "busybox"), "LICENSE": "../../LICENSE", "ca-certificates.crt": k.ca.file} {
					check(t, chmod(k.write("ctx/"+name, readFile(t, from))))
				}
				check(t, os.Symlink("busybox", k.path("ctx/busybox/sh")))
				img := k.pushed("--target=debug")
				c := k.inside()
				c.root = k.unpacked(img)
				c.env = img.config().Config.Env
				k.scratch()
				c.bind("ctx", "/workspace", true)
				r := c.run("/busybox/sh", "-c", "echo in a job; /kaniko/executor --no-push --digest-file=/kaniko/digest --isolation=inplace && busybox cat /kaniko/digest").ok()
				contains(t, r.stdout, "in a job", "sha256:")
			},
		},
	}
}
