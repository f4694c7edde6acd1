// Package buildkit runs a private BuildKit, whose images are the measure of
// ours, and builds with it.
package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/cgroup"
	"github.com/kilnhook/kiln/e2e/internal/process"
)

// startTimeout is how long BuildKit may take to answer on a busy machine.
const startTimeout = 60 * time.Second

// Options says how to run BuildKit. All are required but Log and Group.
type Options struct {
	Binaries Binaries
	Dir      string        // where it keeps everything; on a filesystem that overlays can stand on
	Runc     string        // path of runc
	Registry string        // "127.0.0.1:PORT", plain HTTP; also stands in for docker.io
	Log      io.Writer     // what the daemon logs; may be nil
	Group    *cgroup.Group // in which the daemon, its client and all that they start are run
}

// Daemon is a running BuildKit.
type Daemon struct {
	address string
	options Options
	server  *process.Server
}

// Start starts BuildKit, which needs root, and waits until it answers. It
// listens on a socket in its directory only, uses the network of the host, and
// what it mounts is not seen outside.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	config := filepath.Join(o.Dir, "buildkitd.toml")
	if err := os.WriteFile(config, []byte(o.configuration()), 0o644); err != nil {
		return nil, fmt.Errorf("configure BuildKit: %w", err)
	}
	d := &Daemon{address: "unix://" + filepath.Join(o.Dir, "sock"), options: o}
	args := o.grouped(o.Binaries.Daemon, "--config", config, "--addr", d.address, "--root", filepath.Join(o.Dir, "root"))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "TMPDIR="+o.Dir)
	var err error
	if d.server, err = process.Start("buildkitd", cmd, true, o.Log, nil); err != nil {
		return nil, err
	}
	if err := d.await(ctx); err != nil {
		return nil, errors.Join(err, d.server.Stop())
	}
	return d, nil
}

// grouped are the arguments that run a command in the group.
func (o Options) grouped(args ...string) []string {
	if o.Group == nil {
		return args
	}
	return o.Group.Command(args...)
}

func (o Options) configuration() string {
	parent := ""
	if o.Group != nil {
		parent = o.Group.Path()
	}
	return fmt.Sprintf(`[otel]
socketPath = %q
[worker.oci]
enabled = true
snapshotter = "overlayfs"
binary = %q
networkMode = "host"
gc = false
defaultCgroupParent = %q
[worker.containerd]
enabled = false
[registry."docker.io"]
mirrors = [%q]
[registry.%q]
http = true
`, filepath.Join(o.Dir, "otel.sock"), o.Runc, parent, o.Registry, o.Registry)
}

// await waits until the daemon has a worker.
func (d *Daemon) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("BuildKit does not answer after %v", startTimeout))
	defer cancel()
	for {
		_, err := d.client(ctx, "debug", "workers")
		if err == nil {
			return nil
		}
		select {
		case <-d.server.Done():
			return d.server.Failure()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w; its last words:\n%s", context.Cause(ctx), err, d.server.Last())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (d *Daemon) client(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.options.Binaries.Client, append([]string{"--addr", d.address}, args...)...)
	return process.Run(ctx, cmd, nil)
}

// Request says what to build. Context and Ref are required.
type Request struct {
	Context    string            // directory
	Dockerfile string            // path below Context; "Dockerfile" if empty
	Ref        string            // "HOST/REPOSITORY:TAG" to push to
	Target     string            // stage; the last one if empty
	Args       map[string]string // build arguments
	Labels     map[string]string // added to the image
	Secrets    map[string]string // files of secrets by id
	SSH        map[string]string // sockets of ssh agents by id
	Platform   string            // "os/arch"; this machine's if empty
	Contexts   map[string]string // named contexts: an absolute directory, or what BuildKit takes
	Layouts    map[string]string // named contexts that are OCI image layouts with one image: directories
	Layers     string            // how all layers are compressed, those of the base too: "estargz"; as they are and by default if empty
	Cache      string            // "HOST/REPOSITORY:TAG" of a cache of all steps, read and then written; no step is taken from a cache if empty
}

// Built is what became of a Request.
type Built struct {
	Digest   string   // of the image
	Warnings []string // "Dockerfile:3: Rule: message"
}

// Build builds a context directory and pushes the image. The error of a failed
// build quotes BuildKit's last lines.
func (d *Daemon) Build(ctx context.Context, r Request) (b Built, err error) {
	f, err := os.CreateTemp(d.options.Dir, "metadata-*.json")
	if err != nil {
		return Built{}, fmt.Errorf("build %s: %w", r.Ref, err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	args, err := r.layouts()
	if err != nil {
		return Built{}, fmt.Errorf("build %s: %w", r.Ref, err)
	}
	said := new(status)
	args = slices.Concat([]string{d.options.Binaries.Client, "--addr", d.address}, r.arguments(), args, []string{"--metadata-file", f.Name()})
	args = d.options.grouped(args...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		return Built{}, said.failure(r.Ref, err)
	}
	var metadata struct {
		Digest string `json:"containerimage.digest"`
	}
	// The client writes the file anew, so f itself is still empty.
	content, err := os.ReadFile(f.Name())
	if err == nil {
		err = json.Unmarshal(content, &metadata)
	}
	if err != nil {
		return Built{}, fmt.Errorf("read what BuildKit says of %s: %w", r.Ref, err)
	}
	return Built{metadata.Digest, said.warnings}, nil
}

func (r Request) arguments() []string {
	dockerfile := r.Dockerfile
	if dockerfile == "" {
		dockerfile = "Dockerfile"
	}
	full := filepath.Join(r.Context, dockerfile)
	args := []string{
		"build", "--progress=rawjson", "--frontend=dockerfile.v0",
		"--local", "context=" + r.Context, "--local", "dockerfile=" + filepath.Dir(full),
		"--opt", "filename=" + filepath.Base(full),
		"--output", r.output(),
	}
	if r.Cache == "" {
		args = append(args, "--no-cache")
	} else {
		where := "type=registry,registry.insecure=true,ref=" + r.Cache
		args = append(args, "--import-cache", where, "--export-cache", where+",mode=max")
	}
	if r.Target != "" {
		args = append(args, "--opt", "target="+r.Target)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Args)) {
		args = append(args, "--opt", "build-arg:"+k+"="+r.Args[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		args = append(args, "--opt", "label:"+k+"="+r.Labels[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.Secrets)) {
		args = append(args, "--secret", "id="+k+",src="+r.Secrets[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.SSH)) {
		args = append(args, "--ssh", k+"="+r.SSH[k])
	}
	if r.Platform != "" {
		args = append(args, "--opt", "platform="+r.Platform)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Contexts)) {
		where := r.Contexts[k]
		if filepath.IsAbs(where) {
			args = append(args, "--local", k+"="+where)
			where = "local:" + k
		}
		args = append(args, "--opt", "context:"+k+"="+where)
	}
	return args
}

// output is what is made: an image that is pushed.
func (r Request) output() string {
	out := "type=image,push=true,registry.insecure=true,name=" + r.Ref
	if r.Layers != "" {
		out += ",oci-mediatypes=true,force-compression=true,compression=" + r.Layers
	}
	return out
}

// Stop ends BuildKit and removes what it kept. It may be called twice.
func (d *Daemon) Stop() error {
	err := d.server.Stop()
	return errors.Join(err, removeAll(d.options.Dir))
}

// removeAll removes a directory's content. Nothing can be mounted in it: what
// BuildKit mounts goes with its mount namespace.
func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// layouts are the arguments for named contexts that are image layouts.
func (r Request) layouts() ([]string, error) {
	var args []string
	for _, k := range slices.Sorted(maps.Keys(r.Layouts)) {
		digest, err := layoutDigest(r.Layouts[k])
		if err != nil {
			return nil, err
		}
		args = append(args, "--oci-layout", k+"="+r.Layouts[k], "--opt", "context:"+k+"=oci-layout://"+k+"@"+digest)
	}
	return args, nil
}

// layoutDigest returns the digest of the only image of an OCI image layout.
func layoutDigest(dir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return "", err
	}
	var index struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal(raw, &index); err != nil {
		return "", fmt.Errorf("parse %s/index.json: %w", dir, err)
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("%s/index.json has %d images, not one", dir, len(index.Manifests))
	}
	return index.Manifests[0].Digest, nil
}
