package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/filelayer"
	"github.com/kilnhook/kiln/e2e/internal/process"
)

// Programs are the files that a node is made of.
type Programs struct {
	KubeDir  string // of etcd, Kubernetes' programs and kubectl, all one file
	CRIDir   string // of containerd and runc, where they were compiled
	Pause    string // archive of the image of pods' sandboxes
	Registry string // docker-registry
}

// Kube is the path of etcd, of one of Kubernetes' programs or of kube-dns.
func (p Programs) Kube(name string) string { return filepath.Join(p.KubeDir, name) }

// Runtime is the path of a program of a container runtime.
func (p Programs) Runtime(rt Runtime, name string) string {
	if rt == Built {
		return filepath.Join(p.CRIDir, name)
	}
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin"} {
		if path := filepath.Join(dir, name); isFile(path) {
			return path
		}
	}
	return name
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// kubeNames are the names that the one program is called by.
func kubeNames() []string {
	return []string{
		"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "kube-dns",
	}
}

// Compile returns a node's programs. The first call compiles them, ten minutes
// of processor time or, with the runtime Built, thirteen, and keeps them in the
// cache. module is the directory e2e/cluster; log, which may be nil, is told.
func Compile(ctx context.Context, dir cache.Dir, module string, rt Runtime, log io.Writer) (Programs, error) {
	registry, err := exec.LookPath("docker-registry")
	if err != nil {
		return Programs{}, fmt.Errorf("compile the node: %w; install Debian's docker-registry", err)
	}
	p := Programs{Registry: registry}
	if p.KubeDir, err = compileKube(ctx, dir, filepath.Join(module, "kube"), log); err != nil {
		return Programs{}, fmt.Errorf("compile Kubernetes: %w", err)
	}
	if rt == Built {
		if p.CRIDir, err = compileCRI(ctx, dir, module, log); err != nil {
			return Programs{}, fmt.Errorf("compile containerd: %w", err)
		}
	}
	if p.Pause, err = makePause(ctx, dir, filepath.Join(module, "pause")); err != nil {
		return Programs{}, fmt.Errorf("make the sandbox image: %w", err)
	}
	return p, nil
}

var kubeVersion = regexp.MustCompile(`k8s\.io/kubernetes v(1\.(\d+)\.\d+)`)

func compileKube(ctx context.Context, dir cache.Dir, module string, log io.Writer) (string, error) {
	key, err := sourceKey(module, "go.mod", "go.sum", "main.go", "dns.go")
	if err != nil {
		return "", err
	}
	return dir.Get(ctx, "kube", key, func(ctx context.Context, out string) error {
		tell(log, "compiling Kubernetes, on which Kiln is tested (once, some ten minutes)")
		raw, err := os.ReadFile(filepath.Join(module, "go.mod"))
		if err != nil {
			return err
		}
		v := kubeVersion.FindStringSubmatch(string(raw))
		if v == nil {
			return errors.New("go.mod requires no k8s.io/kubernetes")
		}
		const pkg = "k8s.io/component-base/version"
		flags := fmt.Sprintf("-s -w -X %s.gitVersion=v%s -X %s.gitMajor=1 -X %s.gitMinor=%s", pkg, v[1], pkg, pkg, v[2])
		if err := goBuild(ctx, module, log, false, "-ldflags="+flags, "-o", filepath.Join(out, "kube"), "."); err != nil {
			return err
		}
		for _, name := range kubeNames() {
			if err := os.Symlink("kube", filepath.Join(out, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

func compileCRI(ctx context.Context, dir cache.Dir, module string, log io.Writer) (string, error) {
	key, err := sourceKey(module, "cri/go.mod", "cri/go.sum", "runc/go.mod", "runc/go.sum")
	if err != nil {
		return "", err
	}
	return dir.Get(ctx, "cri", key, func(ctx context.Context, out string) error {
		tell(log, "compiling containerd and runc (once, some three minutes)")
		const containerd = "github.com/containerd/containerd/v2/cmd/"
		return errors.Join(
			goBuild(ctx, filepath.Join(module, "cri"), log, false, "-ldflags=-s -w", "-tags=no_btrfs no_devmapper no_zfs no_aufs no_tracing", "-o", out+"/",
				containerd+"containerd", containerd+"containerd-shim-runc-v2", containerd+"ctr"),
			goBuild(ctx, filepath.Join(module, "runc"), log, true, "-ldflags=-s -w", "-tags=seccomp urfave_cli_no_docs", "-o", out+"/", "github.com/opencontainers/runc"))
	})
}

// makePause makes an archive of the image of pods' sandboxes.
func makePause(ctx context.Context, dir cache.Dir, module string) (string, error) {
	key, err := sourceKey(module, "main.go")
	if err != nil {
		return "", err
	}
	entry, err := dir.Get(ctx, "pause", key, func(ctx context.Context, out string) error {
		program := filepath.Join(out, "pause")
		if err := goBuild(ctx, module, nil, false, "-ldflags=-s -w", "-o", program, "."); err != nil {
			return err
		}
		layer, err := filelayer.New(map[string]string{"pause": program})
		if err != nil {
			return err
		}
		img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.DockerManifestSchema2), layer)
		if err != nil {
			return err
		}
		img, err = mutate.ConfigFile(img, &v1.ConfigFile{
			OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Entrypoint: []string{"/pause"}},
			RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs(img)},
		})
		if err != nil {
			return err
		}
		ref, err := name.NewTag(pauseImage)
		if err != nil {
			return err
		}
		return tarball.WriteToFile(filepath.Join(out, "pause.tar"), ref, img)
	})
	return filepath.Join(entry, "pause.tar"), err
}

func diffIDs(img v1.Image) []v1.Hash {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil
	}
	return cfg.RootFS.DiffIDs
}

func goBuild(ctx context.Context, module string, log io.Writer, cgo bool, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath"}, args...)...)
	cmd.Dir = module
	enabled := "CGO_ENABLED=0"
	if cgo {
		enabled = "CGO_ENABLED=1"
	}
	cmd.Env = append(os.Environ(), enabled, "GOFLAGS=-mod=readonly", "GOWORK=off")
	_, err := process.Run(ctx, cmd, log)
	return err
}

// sourceKey is the cache's key of what is made from files.
func sourceKey(dir string, files ...string) (string, error) {
	key := []string{runtime.Version(), runtime.GOARCH}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return "", err
		}
		key = append(key, string(content))
	}
	return cache.Key(key...), nil
}

func tell(log io.Writer, text string) {
	if log != nil {
		fmt.Fprintln(log, text)
	}
}
