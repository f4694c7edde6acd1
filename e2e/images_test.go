package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/e2e/internal/container"
	"github.com/kilnhook/kiln/e2e/internal/lab"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/tools"
	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/infra/local/example"
)

// ownImage is one of Kiln's images, unpacked, and how it says to be run.
type ownImage struct {
	root   string
	config v1.Config
}

// buildImages runs infra/images/build and unpacks what it makes.
func buildImages(t *testing.T, executor string) map[string]ownImage {
	t.Helper()
	need.Command(t, "busybox")
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "../infra/images/build", out)
	cmd.Env = append(os.Environ(), "EXECUTOR="+executor, "VERSION=v0.0.0-test")
	var text bytes.Buffer
	if _, err := process.Run(t.Context(), cmd, &text); err != nil {
		t.Fatalf("infra/images/build: %v\n%s", err, &text)
	}
	images := map[string]ownImage{}
	for _, target := range []string{"executor", "warmer", "debug"} {
		images[target] = unpack(t, filepath.Join(out, runtime.GOARCH, target))
	}
	return images
}

func unpack(t *testing.T, dir string) ownImage {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	check(t, err)
	m, err := index.IndexManifest()
	check(t, err)
	img, err := index.Image(m.Manifests[0].Digest)
	check(t, err)
	cf, err := img.ConfigFile()
	check(t, err)
	o := ownImage{root: t.TempDir(), config: cf.Config}
	files := mutate.Extract(img)
	defer files.Close()
	cmd := exec.CommandContext(t.Context(), "tar", "-x", "-C", o.root, "-f", "-")
	cmd.Stdin = files
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", dir, err, text)
	}
	return o
}

// run runs the image as Docker would, with its default capabilities and no
// others. Without a command of its own it runs what the image says.
func (o ownImage) run(t *testing.T, l *lab.Lab, command, args []string, binds ...container.Bind) (int, string) {
	t.Helper()
	if command == nil {
		command = o.config.Entrypoint
	}
	// A volume of the image is a directory of its own, filled from the image.
	for volume := range o.config.Volumes {
		dir := t.TempDir()
		if text, err := exec.CommandContext(t.Context(), "cp", "-a", o.root+volume+"/.", dir).CombinedOutput(); err != nil {
			t.Fatalf("fill volume %s: %v\n%s", volume, err, text)
		}
		binds = append(binds, container.Bind{Source: dir, Target: volume})
	}
	var out bytes.Buffer
	status, err := container.Run(t.Context(), container.Spec{
		Runc: l.Runc, Root: o.root, Scratch: t.TempDir(), Dir: o.config.WorkingDir, Env: o.config.Env,
		Args: append(append([]string{}, command...), args...), Binds: binds, Stdout: &out, Stderr: &out,
	})
	check(t, err)
	return status, out.String()
}

// Kiln's images run with Docker's default capabilities: the executor's builds
// the example in place, and nothing of the executor is in the result; with the
// debug image's shell a CI system can do the same; the warmer's fills a volume
// from which the executor's builds without a registry.
func TestImages(t *testing.T) {
	l := lab.New(t, "..")
	images := buildImages(t, l.Executor)
	context := t.TempDir()
	check(t, example.Write(context))
	check(t, lab.Settle(context))
	b := lab.Build{Context: context}
	workspace := container.Bind{Source: context, Target: "/workspace", ReadOnly: true}

	t.Run("executor", func(t *testing.T) {
		want, err := l.BuildKit(t.Context(), "images", b)
		check(t, err)
		l.MatchMode(t, want.Ref, "images", b, func(_ testing.TB, name string, b lab.Build) (lab.Outcome, error) {
			out := lab.Outcome{Ref: l.Host + "/images/" + name + ":latest"}
			out.Status, out.Log = images["executor"].run(t, l, nil, append(l.Flags(b, "/workspace", out.Ref), "--isolation=inplace"), workspace)
			if out.Status != 0 {
				return out, fmt.Errorf("status %d\n%s", out.Status, out.Log)
			}
			return out, nil
		})
		noTrace(t, l.Host+"/images/images:latest")
		status, text := images["executor"].run(t, l, nil, []string{"doctor", "--context=/workspace", "--destination=" + l.Host + "/images/d", "--registry-map=docker.io=" + l.Host, "--insecure-registry=" + l.Host, "--isolation=inplace"}, workspace)
		if status != 0 || !strings.Contains(text, "the container's own root") {
			t.Errorf("doctor: status %d\n%s", status, text)
		}
	})
	t.Run("debug", func(t *testing.T) {
		ref := l.Host + "/images/debug:latest"
		// As GitLab does with entrypoint: [""]: a script in the image's shell.
		script := "set -e\nid -u\n/kaniko/executor " + strings.Join(append(l.Flags(b, "/workspace", ref), "--isolation=inplace"), " ") +
			"\necho after: $(ls /busybox | wc -l) $(which sh)\n"
		status, text := images["debug"].run(t, l, []string{"sh", "-c"}, []string{script}, workspace)
		if status != 0 || !strings.Contains(text, "after: ") || !strings.Contains(text, "/busybox/sh\n") {
			t.Errorf("status %d\n%s", status, text)
		}
		noTrace(t, ref)
		if got := images["debug"].config.Entrypoint; len(got) != 1 || got[0] != "/kaniko/executor" {
			t.Errorf("entrypoint %q", got)
		}
		if status, text := images["debug"].run(t, l, []string{"/busybox/sh", "-c"}, []string{"/kaniko/executor version && ls /kaniko/ssl/certs"}); status != 0 || !strings.Contains(text, "v0.0.0-test") || !strings.Contains(text, "ca-certificates.crt") {
			t.Errorf("status %d\n%s", status, text)
		}
	})
	t.Run("warmer", func(t *testing.T) {
		cache := container.Bind{Source: t.TempDir(), Target: "/cache"}
		status, text := images["warmer"].run(t, l, nil, []string{"--dockerfile=/workspace/Dockerfile", "--registry-map=docker.io=" + l.Host, "--insecure-registry=" + l.Host}, workspace, cache)
		if status != 0 || !strings.Contains(text, "msg=fetched") {
			t.Fatalf("status %d\n%s", status, text)
		}
		cache.ReadOnly = true
		// Nothing listens there: what is not in the volume is not to be had.
		flags := []string{
			"--context=/workspace", "--isolation=inplace", "--no-push", "--tar-path=/kaniko/image.tar", "--cache", "--cache-repo=oci:/kaniko/steps",
			"--registry-map=docker.io=127.0.0.1:1", "--skip-default-registry-fallback", "--insecure-registry=127.0.0.1:1", "--progress=plain",
		}
		if status, text = images["executor"].run(t, l, nil, flags, workspace, cache); status != 0 || !strings.Contains(text, "the registry cannot be reached: ") {
			t.Errorf("status %d\n%s", status, text)
		}
		if status, text = images["executor"].run(t, l, nil, append(flags, "--cache-dir="), workspace, cache); status == 0 {
			t.Errorf("it built without the volume\n%s", text)
		}
	})
}

// The same commit gives the same images, byte for byte.
func TestImagesAreReproducible(t *testing.T) {
	need.Root(t)
	need.Command(t, "busybox")
	executor := filepath.Join(t.TempDir(), "executor")
	check(t, tools.Build(t.Context(), executor, "./executor"))
	var indexes [2]string
	for i := range indexes {
		out := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "../infra/images/build", out)
		cmd.Env = append(os.Environ(), "EXECUTOR="+executor, "VERSION=v0.0.0-test")
		_, err := process.Run(t.Context(), cmd, nil)
		check(t, err)
		for _, target := range []string{"executor", "warmer", "debug"} {
			raw, err := os.ReadFile(filepath.Join(out, runtime.GOARCH, target, "index.json"))
			check(t, err)
			var index v1.IndexManifest
			check(t, json.Unmarshal(raw, &index))
			indexes[i] += target + " " + index.Manifests[0].Digest.String() + "\n"
		}
	}
	if indexes[0] != indexes[1] {
		t.Errorf("built twice:\n%s\n%s", indexes[0], indexes[1])
	}
}

// noTrace fails if a layer of an image has something of the container that it
// was built in.
func noTrace(t *testing.T, ref string) {
	t.Helper()
	r, err := name.ParseReference(ref, name.Insecure)
	check(t, err)
	img, err := remote.Image(r)
	check(t, err)
	layers, err := img.Layers()
	check(t, err)
	seen := 0
	for i, l := range layers {
		rc, err := l.Uncompressed()
		check(t, err)
		tr := tar.NewReader(rc)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			check(t, err)
			seen++
			top, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(h.Name, "./"), "/"), "/")
			switch strings.TrimPrefix(top, ".wh.") {
			case "kaniko", "workspace", "busybox", "cache", "secret":
				t.Errorf("layer %d has %s", i, h.Name)
			}
			if base := filepath.Base(h.Name); base == "ca-certificates.crt" && i > 0 || base == "executor" || base == "warmer" {
				t.Errorf("layer %d has %s", i, h.Name)
			}
		}
		check(t, rc.Close())
	}
	if seen == 0 {
		t.Error("the image is empty")
	}
}

// The script that starts the executor in Docker gives it what it needs.
func TestRunInDocker(t *testing.T) {
	bin, home, context := t.TempDir(), t.TempDir(), t.TempDir()
	check(t, os.WriteFile(filepath.Join(bin, "docker"), []byte("#!/bin/sh\nprintf '%s\\n' \"$@\"\n"), 0o755))
	check(t, os.MkdirAll(filepath.Join(home, ".config", "gcloud"), 0o755))
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "../infra/images/run_in_docker.sh", args...)
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + home}
		out, err := cmd.Output()
		return string(out), err
	}
	got, err := run("sub/Dockerfile", context, "reg.example/app:1", "true")
	check(t, err)
	want := "run\n--rm\n-v\n" + context + ":/workspace\n-v\n" + home + "/.config/gcloud:/root/.config/gcloud:ro\nkiln/executor\n" +
		"--dockerfile\nsub/Dockerfile\n--destination\nreg.example/app:1\n--context\ndir:///workspace/\n--cache=true\n"
	if got != want {
		t.Errorf("docker got\n%swant\n%s", got, want)
	}
	if _, err := run("Dockerfile", context); err == nil {
		t.Error("it ran without a destination")
	}
}
