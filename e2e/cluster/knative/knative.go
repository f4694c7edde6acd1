// Package knative puts Knative Eventing on a node of tests: its controller and
// webhook, JobSink, the in-memory channel and the broker that stands on it. The
// programs are compiled from its module and its own manifests are applied; only
// what a node of two cores cannot bear is changed.
package knative

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/tools"
)

// module is Knative Eventing's.
const module = "knative.dev/eventing"

// Eventing is a compiled Knative Eventing.
type Eventing struct {
	programs string // directory of its programs
	source   string // directory of its module
}

// packages are the programs that a node runs.
func packages() []string {
	var all []string
	for _, p := range []string{
		"apiserver_receive_adapter", "broker/filter", "broker/ingress", "controller", "in_memory/channel_controller",
		"in_memory/channel_dispatcher", "jobsink", "mtchannel_broker", "webhook",
	} {
		all = append(all, module+"/cmd/"+p)
	}
	return all
}

// Compile returns Knative Eventing. The first call compiles it, three minutes of
// processor time, and keeps it in the cache. dir is the directory of a module
// that has its programs as tools; log, which may be nil, is told.
func Compile(ctx context.Context, kept cache.Dir, dir string, log io.Writer) (Eventing, error) {
	programs, err := tools.Compile(ctx, kept, "eventing", dir, log, packages()...)
	if err != nil {
		return Eventing{}, err
	}
	source, err := download(ctx, dir, module)
	if err != nil {
		return Eventing{}, err
	}
	return Eventing{programs: programs, source: source}, nil
}

// download returns the directory of a module that the one in dir requires.
func download(ctx context.Context, dir, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	raw, err := process.Run(ctx, cmd, nil)
	if err != nil {
		return "", fmt.Errorf("download %s: %w", module, err)
	}
	var got struct{ Dir string }
	if err := json.Unmarshal(raw, &got); err != nil {
		return "", fmt.Errorf("download %s: %w", module, err)
	}
	if got.Dir == "" {
		return "", fmt.Errorf("download %s: it has no directory", module)
	}
	return got.Dir, nil
}

// dockerfile is that of every program.
const dockerfile = `FROM scratch
COPY program /ko-app/program
USER 65532:65532
ENTRYPOINT ["/ko-app/program"]
`

// Push builds an image of each program with Kiln's executor and pushes it to a
// registry without TLS.
func (e Eventing) Push(ctx context.Context, executor, registry string) error {
	const atATime = 2
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for _, p := range packages() {
		group.Go(func() error {
			if err := e.push(ctx, executor, registry, path.Base(p)); err != nil {
				return fmt.Errorf("make image of %s: %w", p, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (e Eventing) push(ctx context.Context, executor, registry, program string) (err error) {
	dir, err := os.MkdirTemp("", "kiln-eventing-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files := filepath.Join(dir, "context")
	if err := errors.Join(
		os.Mkdir(files, 0o755),
		os.WriteFile(filepath.Join(files, "Dockerfile"), []byte(dockerfile), 0o644),
	); err != nil {
		return err
	}
	// The context may be on another file system than the cache.
	if err := copyFile(filepath.Join(files, "program"), filepath.Join(e.programs, program)); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, executor, "--context=dir://"+files, "--destination="+image(registry, program),
		"--insecure-registry="+registry, "--work-dir="+dir, "--compression-level=1", "--verbosity=warn")
	_, err = process.Run(ctx, cmd, nil)
	return err
}

func copyFile(to, from string) error {
	if err := os.Link(from, to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// image is the reference of a program's image.
func image(registry, program string) string { return registry + "/knative/" + program + ":test" }
