package compat

import (
	"os"
	"testing"
)

// ignoredRows are about variables that change what is told, or nothing.
func ignoredRows() []row {
	return []row{
		{
			kind: envKind, name: "UPSTREAM_CLIENT_TYPE", kaniko: "appended to the user agent", does: "appended to the user agent",
			run: func(t *testing.T, k *kit) {
				agent := ""
				f := newFaults(t, k.registry, observe(&agent))
				k.dockerfile("FROM " + f.host + "/library/base:1")
				k.env["UPSTREAM_CLIENT_TYPE"] = "my-ci"
				k.local().ok()
				contains(t, agent, "kiln-executor/", ",my-ci")
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
			does: "change nothing yet, and the log says so", differs: "no spans; `--log-format=json` and `--result-file` have the times of every step",
			run: func(_ *testing.T, k *kit) {
				k.scratch()
				k.env["KANIKO_TELEMETRY_ENDPOINT"], k.env["KANIKO_TELEMETRY_OMIT_DOCKERFILE"], k.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://x", "true", "http://x"
				k.local().ok().says("warning: KANIKO_TELEMETRY_ENDPOINT changes nothing", "warning: OTEL_EXPORTER_OTLP_ENDPOINT changes nothing")
			},
		},
		{
			kind: pathKind, name: "/busybox/sh", kaniko: "the shell of the debug image",
			does: "the shell of the debug image", refused: "there is no debug image yet",
			run: func(t *testing.T, _ *kit) {
				if _, err := os.Stat("../../infra/images/debug.Dockerfile"); err == nil {
					t.Error("there is one now: this row has to use it")
				}
			},
		},
	}
}
