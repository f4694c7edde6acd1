package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/e2e/internal/buildkit"
	"github.com/kilnhook/kiln/e2e/internal/cgroup"
	"github.com/kilnhook/kiln/e2e/internal/container"
	"github.com/kilnhook/kiln/e2e/internal/process"
)

// The names of the builders, as they are printed.
const (
	overlay  = "Kiln Overlay"
	inPlace  = "Kiln InPlace"
	buildKit = "BuildKit"
	buildah  = "buildah"
)

// daemonLog is how many bytes of a daemon's log an error quotes.
const daemonLog = 4000

// job is one build to measure.
type job struct {
	dir        string        // empty, for everything that the builder keeps; removed after it
	context    string        // directory with a Dockerfile
	host       string        // of the registry
	repository string        // the image is pushed to its app, the cache is in its cache
	cached     bool          // read and write the cache
	group      *cgroup.Group // in which everything runs
	limit      int64         // of the group's memory, in bytes; 0 for none
	line       func(string)  // takes every line that the executor prints
}

func (j job) image() string { return j.host + "/" + j.repository + "/app:latest" }
func (j job) cache() string { return j.host + "/" + j.repository + "/cache" }

// session is a builder that is ready to build a job.
type session struct {
	build func(ctx context.Context) error
	close func() error
}

// builder is what is compared.
type builder struct {
	name string
	// ready starts what must run before; it is not measured.
	ready func(ctx context.Context, j job) (session, error)
	// contained builders are measured from the start of the executor in its
	// container to its end: making the container is not theirs.
	contained bool
}

// programs are the paths of what the builders are.
type programs struct {
	executor, runc, buildah string
	root                    string // a directory with the files of containers for the executor: it alone is there, as /kaniko/executor
	buildkit                buildkit.Binaries
	profiles                string // directory for profiles of the executor; none if empty
}

func (p programs) builders() []builder {
	return []builder{
		{name: overlay, ready: p.overlay},
		{name: inPlace, ready: p.inPlace, contained: true},
		{name: buildKit, ready: p.buildKit},
		{name: buildah, ready: p.readyBuildah},
	}
}

func done() error { return nil }

// kilnFlags are those of both modes.
func (j job) kilnFlags(context string) []string {
	flags := []string{"--context=dir://" + context, "--destination=" + j.image(), "--insecure-registry=" + j.host, "--progress=json"}
	if j.cached {
		flags = append(flags, "--cache", "--cache-copy-layers", "--cache-repo="+j.cache())
	}
	return flags
}

func (p programs) overlay(_ context.Context, j job) (session, error) {
	args := append([]string{p.executor}, j.kilnFlags(j.context)...)
	args = j.group.Command(append(args, "--isolation=overlay", "--work-dir="+j.dir)...)
	return session{close: done, build: func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = j.dir
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + j.dir, "TMPDIR=" + j.dir}, p.profile(overlay)...)
		return runLines(ctx, cmd, j.line)
	}}, nil
}

// profile makes the executor write a profile.
func (p programs) profile(who string) []string {
	if p.profiles == "" {
		return nil
	}
	where := p.profiles
	if who == inPlace {
		where = profilesInside
	}
	return []string{"STACKLOG_PATH=" + filepath.Join(where, time.Now().Format("150405.000")+".pprof")}
}

// profilesInside is where a container has the directory for profiles.
const profilesInside = "/kaniko/profiles"

func (p programs) inPlace(_ context.Context, j job) (session, error) {
	binds := []container.Bind{{Source: j.context, Target: "/workspace", ReadOnly: true}}
	if p.profiles != "" {
		binds = append(binds, container.Bind{Source: p.profiles, Target: profilesInside})
	}
	// The files of the container lie where those that it writes do, as an image's do
	// on a node.
	root := filepath.Join(j.dir, "container")
	if err := os.CopyFS(root, os.DirFS(p.root)); err != nil {
		return session{}, err
	}
	return session{close: done, build: func(ctx context.Context) error {
		out := &lines{each: j.line}
		status, err := container.Run(ctx, container.Spec{
			Runc: p.runc, Root: root, Scratch: j.dir, Cgroup: j.group.Path(), Memory: j.limit, Dir: "/workspace",
			Args: append(append([]string{"/kaniko/executor"}, j.kilnFlags("/workspace")...), "--isolation=inplace", "--force"),
			Env: append([]string{
				"HOME=/root", "USER=root", "PATH=/usr/local/bin:/kaniko", "DOCKER_CONFIG=/kaniko/.docker/", "SSL_CERT_DIR=/kaniko/ssl/certs",
			}, p.profile(inPlace)...),
			Binds: binds, Stdout: out, Stderr: out,
		})
		if err == nil && status != 0 {
			err = fmt.Errorf("the executor ended with status %d", status)
		}
		return out.quote(err)
	}}, nil
}

// buildKit is a daemon with nothing in its store. Starting and stopping it is
// not measured, its client is.
func (p programs) buildKit(ctx context.Context, j job) (session, error) {
	log := &lines{}
	daemon, err := buildkit.Start(ctx, buildkit.Options{
		Binaries: p.buildkit, Dir: j.dir, Runc: p.runc, Registry: j.host, Group: j.group, Log: log,
	})
	if err != nil {
		return session{}, err
	}
	request := buildkit.Request{Context: j.context, Ref: j.image()}
	if j.cached {
		request.Cache = j.cache() + ":latest"
	}
	return session{close: daemon.Stop, build: func(ctx context.Context) error {
		_, err := daemon.Build(ctx, request)
		return log.quote(err)
	}}, nil
}

// buildahState is where buildah remembers which registries have which blobs.
const buildahState = "/var/lib/containers"

// readyBuildah uses the overlay driver, by far the cheaper one, and isolation by
// chroot, which starts no runtime. Without --layers all that a stage adds would be one
// layer, which the others do not make either.
func (p programs) readyBuildah(_ context.Context, j job) (session, error) {
	if p.buildah == "" {
		return session{}, errors.New("there is no buildah: run .ci/setup bench")
	}
	state := filepath.Join(j.dir, "state")
	for name, content := range map[string]string{
		"policy.json": `{"default":[{"type":"insecureAcceptAnything"}]}`, "registries.conf": "unqualified-search-registries = []\n", "storage.conf": "[storage]\ndriver = \"overlay\"\n",
	} {
		if err := os.WriteFile(filepath.Join(j.dir, name), []byte(content), 0o644); err != nil {
			return session{}, err
		}
	}
	if err := errors.Join(os.MkdirAll(state, 0o755), os.MkdirAll(buildahState, 0o755)); err != nil {
		return session{}, err
	}
	// It belongs to the machine otherwise. This process has mounts of its own.
	if err := unix.Mount(state, buildahState, "", unix.MS_BIND, ""); err != nil {
		return session{}, fmt.Errorf("hide %s: %w", buildahState, err)
	}
	global := []string{p.buildah, "--root", filepath.Join(j.dir, "root"), "--runroot", filepath.Join(j.dir, "run"), "--storage-driver", "overlay"}
	policy := "--signature-policy=" + filepath.Join(j.dir, "policy.json")
	bud := append(append([]string{}, global...), "bud", policy, "--tls-verify=false", "--isolation=chroot", "--network=host", "--layers", "-t", "app")
	if j.cached {
		bud = append(bud, "--cache-from="+j.cache(), "--cache-to="+j.cache())
	}
	push := append(append([]string{}, global...), "push", policy, "--tls-verify=false", "app", "docker://"+j.image())
	run := func(ctx context.Context, args []string) error {
		args = j.group.Command(args...)
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = j.dir
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + j.dir, "TMPDIR=" + j.dir, "XDG_RUNTIME_DIR=" + j.dir, "CONTAINERS_CONF=/dev/null",
			"CONTAINERS_REGISTRIES_CONF=" + filepath.Join(j.dir, "registries.conf"), "CONTAINERS_STORAGE_CONF=" + filepath.Join(j.dir, "storage.conf"),
		}
		return runLines(ctx, cmd, nil)
	}
	return session{
		build: func(ctx context.Context) error {
			if err := run(ctx, append(bud, j.context)); err != nil {
				return err
			}
			return run(ctx, push)
		},
		close: func() error { return unix.Unmount(buildahState, unix.MNT_DETACH) },
	}, nil
}

// runLines runs a command and gives every line that it prints to each.
func runLines(ctx context.Context, cmd *exec.Cmd, each func(string)) error {
	out := &lines{each: each}
	cmd.Stdout = out
	_, err := process.Run(ctx, cmd, out)
	return out.quote(err)
}

// lines takes what a process prints.
type lines struct {
	each    func(string) // may be nil
	partial []byte
	last    []byte
}

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(p []byte) (int, error) {
	l.last = append(l.last, p...)
	l.last = l.last[max(0, len(l.last)-daemonLog):]
	l.partial = append(l.partial, p...)
	for {
		line, rest, ok := bytes.Cut(l.partial, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		if l.each != nil {
			l.each(string(line))
		}
		l.partial = rest
	}
}

// quote adds the last words of the process to an error.
func (l *lines) quote(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; its last words:\n%s", err, l.last)
}
