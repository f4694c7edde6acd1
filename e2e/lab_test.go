package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/buildkit"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/container"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/need"
)

// lab is a registry with base images, and the builders to compare.
type lab struct {
	host     string // of the registry
	executor string // path of the binary
	runc     string
	buildkit *buildkit.Daemon
	trees    compare.Flattener // knows the base images
}

// newLab compiles the executor and starts a registry and BuildKit. All of it
// ends with the test.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := newOracle(t)
	l.executor = filepath.Join(t.TempDir(), "executor")
	compile := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", l.executor, "../executor")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err := process.Run(t.Context(), compile, nil)
	check(t, err)
	return l
}

// newOracle is a lab without the executor.
func newOracle(t *testing.T) *lab {
	t.Helper()
	need.Root(t)
	need.Overlays(t, t.TempDir())
	l := &lab{runc: need.Command(t, "runc")}
	program := need.Command(t, "docker-registry")
	need.Command(t, "mmdebstrap")
	dir, err := cache.Default()
	check(t, err)
	binaries, err := buildkit.Compile(t.Context(), dir, "oracle", os.Stderr)
	check(t, err)

	registry, err := registryd.Start(t.Context(), program, t.TempDir(), nil)
	check(t, err)
	t.Cleanup(func() { check(t, registry.Stop()) })
	l.host = registry.Host
	debian, err := baseimage.Debian(t.Context(), dir, os.Stderr)
	check(t, err)
	odd, err := baseimage.Odd(debian)
	check(t, err)
	_, err = baseimage.Push(t.Context(), debian, l.host+"/library/debian:bookworm-slim")
	check(t, err)
	_, err = baseimage.Push(t.Context(), odd, l.host+"/library/odd:latest")
	check(t, err)

	check(t, l.trees.Learn(t.Context(), debian))
	check(t, l.trees.Learn(t.Context(), odd))

	l.buildkit, err = buildkit.Start(t.Context(), buildkit.Options{
		Binaries: binaries, Dir: t.TempDir(), Runc: l.runc, Registry: l.host,
	})
	check(t, err)
	t.Cleanup(func() { check(t, l.buildkit.Stop()) })
	return l
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// oracle builds with BuildKit and returns the reference of the image.
func (l *lab) oracle(t *testing.T, name string, b build) string {
	t.Helper()
	digest, err := l.buildkit.Build(t.Context(), buildkit.Request{
		Context: b.context, Ref: l.host + "/buildkit/" + name + ":latest",
		Target: b.target, Args: b.args, Labels: b.labels, Secrets: b.secrets, Cached: true,
	})
	check(t, err)
	return l.host + "/buildkit/" + name + "@" + digest
}

// overlay builds with the executor in Overlay mode, as a plain process.
func (l *lab) overlay(t *testing.T, name string, b build) string {
	t.Helper()
	ref := l.host + "/overlay/" + name + ":latest"
	args := append(l.flags(b, b.context, ref), "--isolation=overlay", "--work-dir="+t.TempDir())
	for id, path := range b.secrets {
		args = append(args, "--secret=id="+id+",src="+path)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), l.executor, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	cmd.Dir = t.TempDir()
	if _, err := process.Run(t.Context(), cmd, &stderr); err != nil {
		t.Fatalf("executor --isolation=overlay: %v\n%s", err, &stderr)
	}
	return ref
}

// inPlace builds with the executor in InPlace mode, in a container whose root
// holds the executor and nothing else.
func (l *lab) inPlace(t *testing.T, name string, b build) string {
	t.Helper()
	ref := l.host + "/inplace/" + name + ":latest"
	root := t.TempDir()
	check(t, os.Mkdir(filepath.Join(root, "kaniko"), 0o755))
	program, err := os.ReadFile(l.executor)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(root, "kaniko", "executor"), program, 0o755))
	args := append(append([]string{"/kaniko/executor"}, l.flags(b, "/workspace", ref)...), "--isolation=inplace", "--force")
	binds := []container.Bind{{Source: b.context, Target: "/workspace", ReadOnly: true}}
	for id, path := range b.secrets {
		args = append(args, "--secret=id="+id+",src=/kaniko/secrets/"+id)
		binds = append(binds, container.Bind{Source: path, Target: "/kaniko/secrets/" + id, ReadOnly: true})
	}
	var out bytes.Buffer
	status, err := container.Run(t.Context(), container.Spec{
		Runc: l.runc, Root: root, Scratch: t.TempDir(), Dir: "/workspace",
		Args: args,
		Env: []string{
			"HOME=/root", "USER=root", "PATH=/usr/local/bin:/kaniko", "DOCKER_CONFIG=/kaniko/.docker/",
			"SSL_CERT_DIR=/kaniko/ssl/certs",
		},
		Binds:  binds,
		Stdout: &out, Stderr: &out,
	})
	if err != nil || status != 0 {
		t.Fatalf("executor --isolation=inplace: status %d, %v\n%s", status, err, &out)
	}
	return ref
}

// flags are what both modes have in common.
func (l *lab) flags(b build, contextDir, ref string) []string {
	flags := []string{
		"--context=dir://" + contextDir, "--dockerfile=Dockerfile", "--destination=" + ref,
		"--registry-map=index.docker.io=" + l.host, "--insecure-registry=" + l.host, "--progress=plain",
	}
	if b.target != "" {
		flags = append(flags, "--target="+b.target)
	}
	for k, v := range b.args {
		flags = append(flags, "--build-arg="+k+"="+v)
	}
	for k, v := range b.labels {
		flags = append(flags, "--label="+k+"="+v)
	}
	return flags
}

// mode is a way to build with the executor. It returns the image's reference.
type mode func(t *testing.T, name string, b build) string

// matchBuildKit builds with BuildKit and in both modes of the executor and
// fails the test for every difference that the build does not allow.
func (l *lab) matchBuildKit(t *testing.T, name string, b build) {
	t.Helper()
	want := l.oracle(t, name, b)
	t.Run("overlay", func(t *testing.T) { l.match(t, want, name, b, l.overlay) })
	t.Run("inplace", func(t *testing.T) { l.match(t, want, name, b, l.inPlace) })
}

// match builds in one mode and compares with BuildKit's image.
func (l *lab) match(t *testing.T, want, name string, b build, m mode) {
	t.Helper()
	before := hostState(t)
	got := m(t, name, b)
	if after := hostState(t); !slices.Equal(before, after) {
		t.Errorf("the build changed the host's root or mounts:\nbefore %q\nafter  %q", before, after)
	}
	x, err := compare.Open(t.Context(), want, compare.OpenOptions{})
	check(t, err)
	y, err := compare.Open(t.Context(), got, compare.OpenOptions{})
	check(t, err)
	diffs, err := l.trees.Images(t.Context(), x, y, compare.Options{Layers: true})
	check(t, err)
	rest, _, err := compare.Excuse(diffs, b.allow)
	check(t, err)
	for _, d := range rest {
		t.Errorf("BuildKit | ours: %s", d)
	}
}

// hostState is what a build that leaves its own root alone cannot change: the
// names in the host's root, and the mounts below this test's directories.
func hostState(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/")
	check(t, err)
	var state []string
	for _, e := range entries {
		state = append(state, e.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	own := filepath.Dir(t.TempDir())
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, own) {
			state = append(state, line)
		}
	}
	return state
}
