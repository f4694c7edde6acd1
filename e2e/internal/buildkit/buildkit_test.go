package buildkit

import (
	"os"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/need"
)

// start runs a registry that has debian:bookworm-slim, and BuildKit on it.
func start(t *testing.T) (*Daemon, string) {
	t.Helper()
	need.Root(t)
	need.Overlays(t, t.TempDir())
	program, runc := need.Command(t, "docker-registry"), need.Command(t, "runc")
	need.Command(t, "mmdebstrap")
	dir, err := cache.Default()
	if err != nil {
		t.Fatal(err)
	}
	binaries, err := Compile(t.Context(), dir, "../../oracle", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	debian, err := baseimage.Debian(t.Context(), dir, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := registryd.Start(t.Context(), program, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := registry.Stop(); err != nil {
			t.Error(err)
		}
	})
	if _, err := baseimage.Push(t.Context(), debian, registry.Host+"/library/debian:bookworm-slim"); err != nil {
		t.Fatal(err)
	}
	daemon, err := Start(t.Context(), Options{Binaries: binaries, Dir: t.TempDir(), Runc: runc, Registry: registry.Host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.Stop(); err != nil {
			t.Error(err)
		}
	})
	return daemon, registry.Host
}

// TestBuild proves that BuildKit builds from our registry and pushes to it,
// that two builds of one Dockerfile compare equal and builds with another
// argument do not, that a failing RUN says so, and that no mount is left.
func TestBuild(t *testing.T) {
	daemon, host := start(t)
	build := func(tag, who string) string {
		t.Helper()
		ref := host + "/app:" + tag
		built, err := daemon.Build(t.Context(), Request{Context: "testdata/context", Ref: ref, Args: map[string]string{"WHO": who}})
		if err != nil {
			t.Fatal(err)
		}
		return host + "/app@" + built.Digest
	}
	one, two, other := build("one", "me"), build("two", "me"), build("other", "you")
	if diffs := difference(t, one, two); len(diffs) != 0 {
		t.Errorf("two builds differ: %v", diffs)
	}
	const want = `config config.Env[1]: "WHO=me" | "WHO=you"`
	if diffs := difference(t, one, other); len(diffs) != 3 || diffs[0].String() != want {
		t.Errorf("got %v, want %s and two lines of history", diffs, want)
	}
	broken := t.TempDir()
	if err := os.WriteFile(broken+"/Dockerfile", []byte("FROM debian:bookworm-slim\nRUN echo words; exit 3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := daemon.Build(t.Context(), Request{Context: broken, Ref: host + "/app:broken"})
	if err == nil || !strings.Contains(err.Error(), "exit code: 3") {
		t.Errorf("failing RUN: %v", err)
	}
	if err := os.WriteFile(broken+"/Dockerfile", []byte("FROM scratch\nMAINTAINER me\nENV A=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	built, err := daemon.Build(t.Context(), Request{Context: broken, Ref: host + "/app:dated"})
	if err != nil || len(built.Warnings) != 1 || !strings.HasPrefix(built.Warnings[0], "Dockerfile:2: MaintainerDeprecated: ") {
		t.Errorf("warnings of MAINTAINER: %q, %v", built.Warnings, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), daemon.options.Dir) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}

func difference(t *testing.T, a, b string) []compare.Difference {
	t.Helper()
	x, err := compare.Open(t.Context(), a, compare.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	y, err := compare.Open(t.Context(), b, compare.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	diffs, err := compare.Images(t.Context(), x, y, compare.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return diffs
}
