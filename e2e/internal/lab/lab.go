// Package lab builds the same Dockerfile with BuildKit and with the executor in
// both of its modes, and compares the images: a registry with base images, one
// BuildKit, and containers in which the executor may build in place.
package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/buildkit"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/internal/tools"
	"github.com/kilnhook/kiln/e2e/need"
)

// Lab is a registry with base images, and the builders to compare. Its methods
// may be called concurrently.
//
// The registry stands in for docker.io and has library/debian:bookworm-slim,
// library/odd:latest, which has what layers rarely hold, and
// library/busybox:latest, which is small.
type Lab struct {
	Host     string // of the registry
	Executor string // path of the binary
	Busybox  string // digest of the index library/busybox:latest
	Runc     string // path of the program

	container string // root of the containers to build in: the executor and nothing else
	buildkit  *buildkit.Daemon
	trees     compare.Flattener // knows the base images
}

// New compiles the executor of the module in directory module and starts a
// registry and BuildKit. All of it ends with the test, which is skipped or fails
// where something is missing.
func New(t testing.TB, module string) *Lab {
	t.Helper()
	need.Root(t)
	need.Overlays(t, t.TempDir())
	need.Command(t, "mmdebstrap")
	busybox, program := need.Command(t, "busybox"), need.Command(t, "docker-registry")
	l := &Lab{Runc: need.Command(t, "runc")}
	dir, err := cache.Default()
	check(t, err)
	binaries, err := buildkit.Compile(t.Context(), dir, filepath.Join(module, "e2e", "oracle"), os.Stderr)
	check(t, err)
	quick := quickDir(t)
	registry, err := registryd.Start(t.Context(), program, quick("registry"), nil)
	check(t, err)
	t.Cleanup(func() { check(t, registry.Stop()) })
	l.Host = registry.Host
	check(t, l.pushBases(t.Context(), dir, busybox))
	l.buildkit, err = buildkit.Start(t.Context(), buildkit.Options{
		Binaries: binaries, Dir: quick("buildkit"), Runc: l.Runc, Registry: l.Host,
	})
	check(t, err)
	t.Cleanup(func() { check(t, l.buildkit.Stop()) })
	l.container = t.TempDir() // the root of the containers it runs in
	l.Executor = filepath.Join(l.container, "kaniko", "executor")
	check(t, tools.Build(t.Context(), l.Executor, "./executor"))
	return l
}

// roomNeeded is how much the registry and BuildKit may come to keep, in bytes.
const roomNeeded = 4 << 30

// quickDir returns what makes directories for servers that wait for the disk at
// every turn: in memory, where there is room. The executor always works on the
// disk, as it does elsewhere.
func quickDir(t testing.TB) func(name string) string {
	t.Helper()
	const memory = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(memory, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Bavail*uint64(fs.Bsize) < roomNeeded {
		return func(string) string { return t.TempDir() }
	}
	dir, err := os.MkdirTemp(memory, "kiln-") //nolint:usetesting // where t.TempDir is not
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return func(name string) string {
		sub := filepath.Join(dir, name)
		check(t, os.Mkdir(sub, 0o755))
		return sub
	}
}

// pushBases makes the base images, pushes them and learns their trees.
func (l *Lab) pushBases(ctx context.Context, dir cache.Dir, program string) error {
	debian, err := baseimage.Debian(ctx, dir, os.Stderr)
	if err != nil {
		return err
	}
	busybox, boxes, err := baseimage.Busybox(ctx, program)
	if err != nil {
		return err
	}
	odd, err := baseimage.Odd(boxes[0])
	if err != nil {
		return err
	}
	if _, err := baseimage.Push(ctx, debian, l.Host+"/library/debian:bookworm-slim"); err != nil {
		return err
	}
	if _, err := baseimage.Push(ctx, odd, l.Host+"/library/odd:latest"); err != nil {
		return err
	}
	if err := baseimage.PushIndex(ctx, busybox, l.Host+"/library/busybox:latest"); err != nil {
		return err
	}
	digest, err := busybox.Digest()
	if err != nil {
		return err
	}
	l.Busybox = digest.String()
	for _, img := range append([]v1.Image{debian, odd}, boxes...) {
		if err := l.trees.Learn(ctx, img); err != nil {
			return err
		}
	}
	return nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Image opens an image of the registry.
func (l *Lab) Image(ctx context.Context, ref, platform string) (v1.Image, error) {
	var o compare.OpenOptions
	if platform != "" {
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			return nil, fmt.Errorf("open image %s: %w", ref, err)
		}
		o.Platform = *p
	}
	return compare.Open(ctx, ref, o)
}

// Tree flattens an image.
func (l *Lab) Tree(ctx context.Context, img v1.Image) (*compare.Tree, error) {
	return l.trees.Flatten(ctx, img)
}

// HostState is what a build that leaves its own root alone cannot change: the
// names in the host's root, and the mounts below a directory.
func HostState(own string) ([]string, error) {
	entries, err := os.ReadDir("/")
	if err != nil {
		return nil, err
	}
	var state []string
	for _, e := range entries {
		state = append(state, e.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, own) {
			state = append(state, line)
		}
	}
	return state, nil
}
