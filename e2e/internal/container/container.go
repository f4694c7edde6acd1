// Package container runs a command in a throw-away container as Docker would
// start it, without Docker: runc, Docker's default capabilities, mounts, masked
// paths and device rules, the host's network, and a root that is an overlay of
// its own. It is where a builder that changes its own root is tested: nothing
// that the command does reaches the host's.
package container

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// docker is the configuration that Docker gives a container by default.
//
//go:embed docker.json
var docker []byte

// grace is how long cleaning up after a container may take.
const grace = 30 * time.Second

// Spec says what to run. Runc, Root, Scratch and Args are required.
type Spec struct {
	Runc    string // path of runc
	Root    string // directory with the image's files; never written
	Scratch string // existing directory for what the container writes; on a filesystem that overlays can stand on
	Args    []string
	Env     []string // all of it
	Dir     string   // working directory; "/" if empty
	Cgroup  string   // control group, as "/name", below which the container's is made; the root if empty
	Binds   []Bind
	Memory  int64     // limit in bytes, without swap; none if 0
	Stdin   io.Reader // empty if nil
	Stdout  io.Writer // discarded if nil
	Stderr  io.Writer // discarded if nil
}

// Bind makes a file or directory of the host visible in the container.
type Bind struct {
	Source, Target string
	ReadOnly       bool
}

// Run runs a container to its end, removes it with everything it wrote to its
// root and returns the exit status of the command. It needs root. The overlay
// is mounted in a mount namespace of its own, so a test that is killed leaves
// no mount behind. When ctx ends the container is killed.
func Run(ctx context.Context, s Spec) (status int, err error) {
	bundle, err := os.MkdirTemp(s.Scratch, "container-")
	if err != nil {
		return 0, fmt.Errorf("make container: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(bundle)) }()
	c := container{Spec: s, bundle: bundle, id: "kiln-" + strings.ToLower(rand.Text())}
	if err := c.prepare(); err != nil {
		return 0, fmt.Errorf("make container: %w", err)
	}
	type result struct {
		status int
		err    error
	}
	results := make(chan result)
	go func() {
		// The thread is in another mount namespace from here on. It stays
		// locked, so it ends with this goroutine.
		runtime.LockOSThread()
		status, err := c.run(ctx)
		results <- result{status, err}
	}()
	r := <-results
	if r.err != nil {
		return 0, fmt.Errorf("run container: %w", r.err)
	}
	return r.status, nil
}

type container struct {
	Spec
	bundle, id string
}

func (c container) path(name string) string { return filepath.Join(c.bundle, name) }

// prepare writes the bundle: directories, the files that Docker binds into
// every container, and the configuration.
func (c container) prepare() error {
	for _, dir := range []string{"rootfs", "upper", "work", "state"} {
		if err := os.Mkdir(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	binds := c.Binds
	for name, content := range map[string]string{
		"resolv.conf": string(resolv),
		"hosts":       "127.0.0.1\tlocalhost\n",
		"hostname":    "kiln-test\n",
	} {
		if err := os.WriteFile(c.path(name), []byte(content), 0o644); err != nil {
			return err
		}
		binds = append(binds, Bind{Source: c.path(name), Target: "/etc/" + name})
	}
	config, err := c.config(binds)
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("config.json"), config, 0o644)
}

// runtimeConfig is the part of an OCI runtime configuration that we change.
type runtimeConfig struct {
	Version  string         `json:"ociVersion"`
	Process  map[string]any `json:"process"`
	Root     map[string]any `json:"root"`
	Hostname string         `json:"hostname"`
	Mounts   []mount        `json:"mounts"`
	Linux    map[string]any `json:"linux"`
}

type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options"`
}

func (c container) config(binds []Bind) ([]byte, error) {
	var config runtimeConfig
	if err := json.Unmarshal(docker, &config); err != nil {
		return nil, err
	}
	config.Process["args"] = c.Args
	config.Process["env"] = c.Env
	if c.Dir != "" {
		config.Process["cwd"] = c.Dir
	}
	if c.Memory > 0 {
		resources, ok := config.Linux["resources"].(map[string]any)
		if !ok {
			return nil, errors.New("the configuration lacks resources")
		}
		resources["memory"] = map[string]int64{"limit": c.Memory, "swap": c.Memory}
	}
	config.Linux["cgroupsPath"] = path.Join("/", c.Cgroup, c.id)
	for _, b := range binds {
		access := "rw"
		if b.ReadOnly {
			access = "ro"
		}
		config.Mounts = append(config.Mounts, mount{b.Target, "bind", b.Source, []string{"rbind", "rprivate", access}})
	}
	return json.MarshalIndent(config, "", "  ")
}

// run mounts the root, runs the container and takes both away again.
func (c container) run(ctx context.Context) (status int, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return 0, fmt.Errorf("make mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("make mounts private: %w", err)
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", c.Root, c.path("upper"), c.path("work"))
	if err := unix.Mount("overlay", c.path("rootfs"), "overlay", 0, options); err != nil {
		return 0, fmt.Errorf("mount overlay (%s): %w", options, err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(c.path("rootfs"), unix.MNT_DETACH)) }()
	defer func() { err = errors.Join(err, c.remove(ctx)) }()

	cmd := exec.CommandContext(ctx, c.Runc, "--root", c.path("state"), "--log", c.path("log"), "--log-format", "json",
		"run", "--bundle", c.bundle, c.id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// runc's death does not end the container; c.remove does.
	cmd.WaitDelay = grace
	cmd.Cancel = func() error { return errors.Join(c.remove(ctx), cmd.Process.Kill()) }
	runErr := cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		return 0, cause
	}
	if failure := c.failure(); failure != "" {
		return 0, errors.New(failure)
	}
	var exit *exec.ExitError
	if errors.As(runErr, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, runErr
}

// remove kills what still runs in the container and removes it, also when ctx
// has ended.
func (c container) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), grace, errors.New("runc delete takes too long"))
	defer cancel()
	out, err := exec.CommandContext(ctx, c.Runc, "--root", c.path("state"), "delete", "--force", c.id).CombinedOutput()
	if err != nil {
		return fmt.Errorf("remove container: %w: %s", err, out)
	}
	return nil
}

// failure returns the first error that runc itself logged, or "".
func (c container) failure() string {
	log, err := os.ReadFile(c.path("log"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(log)) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			return entry.Msg
		}
	}
	return ""
}
