package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/internal/buildkit"
	"github.com/kilnhook/kiln/e2e/internal/container"
	"github.com/kilnhook/kiln/e2e/internal/process"
)

// Build is something to build. Only Context is required.
type Build struct {
	Context      string            // directory
	Dockerfile   string            // path below Context; "Dockerfile" if empty
	Target       string            // stage
	Platform     string            // "os/arch"
	Args, Labels map[string]string // build arguments and labels
	Secrets      map[string]string // paths of files by id
	SSH          map[string]string // sockets of agents by id
	Contexts     map[string]string // named contexts: an absolute directory, or what both builders take
	Layouts      map[string]string // named contexts that are OCI image layouts: directories, the image tagged "latest"
	Layers       string            // how BuildKit compresses layers, those of the base too; as it does by default if empty
	Flags        []string          // further flags of the executor
	Binds        []container.Bind  // further files that the executor sees in a container
	Env          []string          // further environment of the executor
}

// Outcome is what became of a build.
type Outcome struct {
	Ref      string   // of the image
	Error    string   // the message of a build that failed
	Status   int      // of the process
	Warnings []string // that were printed
	Log      string   // all that was printed
}

// Mode is a way to build with the executor. name is that of a repository.
type Mode func(t testing.TB, name string, b Build) (Outcome, error)

// BuildKit builds with BuildKit and returns the image. Nothing of an earlier
// build is used: its files would have the times that they had there. Error, Status and Log are
// not set: a build that BuildKit refuses is an error.
func (l *Lab) BuildKit(ctx context.Context, name string, b Build) (Outcome, error) {
	built, err := l.buildkit.Build(ctx, buildkit.Request{
		Context: b.Context, Dockerfile: b.Dockerfile, Ref: l.Host + "/" + name + ":latest",
		Target: b.Target, Args: b.Args, Labels: b.Labels, Secrets: b.Secrets, SSH: b.SSH,
		Platform: b.Platform, Contexts: b.Contexts, Layouts: b.Layouts, Layers: b.Layers,
	})
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{Ref: l.Host + "/" + name + "@" + built.Digest, Warnings: built.Warnings}, nil
}

// Overlay builds with the executor in Overlay mode, as a plain process.
func (l *Lab) Overlay(t testing.TB, name string, b Build) (Outcome, error) {
	t.Helper()
	out := Outcome{Ref: l.Host + "/overlay/" + name + ":latest"}
	args := append(l.Flags(b, b.Context, out.Ref), "--isolation=overlay", "--work-dir="+t.TempDir())
	for id, path := range b.Secrets {
		args = append(args, "--secret=id="+id+",src="+path)
	}
	for id, path := range b.SSH {
		args = append(args, "--ssh="+id+"="+path)
	}
	for name, where := range b.Contexts {
		args = append(args, "--build-context="+name+"="+where)
	}
	for name, dir := range b.Layouts {
		args = append(args, "--build-context="+name+"=oci-layout://"+dir+":latest")
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), l.Executor, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, b.Env...)
	cmd.Dir = t.TempDir()
	_, err := process.Run(t.Context(), cmd, &stderr)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		out.Status, err = exit.ExitCode(), nil
	}
	return out, errors.Join(err, out.read(stderr.String()))
}

// InPlace builds with the executor in InPlace mode, in a container whose root
// holds the executor and nothing else.
func (l *Lab) InPlace(t testing.TB, name string, b Build) (Outcome, error) {
	t.Helper()
	out := Outcome{Ref: l.Host + "/inplace/" + name + ":latest"}
	args := append([]string{"/kaniko/executor"}, l.Flags(b, "/workspace", out.Ref)...)
	args = append(args, "--isolation=inplace", "--force")
	binds := append([]container.Bind{{Source: b.Context, Target: "/workspace", ReadOnly: true}}, b.Binds...)
	bind := func(source, target string) string {
		binds = append(binds, container.Bind{Source: source, Target: target, ReadOnly: true})
		return target
	}
	for id, path := range b.Secrets {
		args = append(args, "--secret=id="+id+",src="+bind(path, "/kaniko/secrets/"+id))
	}
	for id, path := range b.SSH {
		args = append(args, "--ssh="+id+"="+bind(path, "/kaniko/agents/"+id))
	}
	for name, where := range b.Contexts {
		if filepath.IsAbs(where) {
			where = bind(where, "/kaniko/contexts/"+name)
		}
		args = append(args, "--build-context="+name+"="+where)
	}
	for name, dir := range b.Layouts {
		args = append(args, "--build-context="+name+"=oci-layout://"+bind(dir, "/kaniko/contexts/"+name)+":latest")
	}
	var text bytes.Buffer
	var err error
	out.Status, err = container.Run(t.Context(), container.Spec{
		Runc: l.Runc, Root: l.container, Scratch: t.TempDir(), Dir: "/workspace", Args: args,
		Env: append([]string{
			"HOME=/root", "USER=root", "PATH=/usr/local/bin:/kaniko", "DOCKER_CONFIG=/kaniko/.docker/",
			"SSL_CERT_DIR=/kaniko/ssl/certs",
		}, b.Env...),
		Binds: binds, Stdout: &text, Stderr: &text,
	})
	return out, errors.Join(err, out.read(text.String()))
}

// Flags are what both modes have in common.
func (l *Lab) Flags(b Build, contextDir, ref string) []string {
	flags := []string{
		"--context=dir://" + contextDir, "--dockerfile=" + cmp.Or(b.Dockerfile, "Dockerfile"), "--destination=" + ref,
		"--registry-map=index.docker.io=" + l.Host, "--skip-default-registry-fallback", "--insecure-registry=" + l.Host, "--progress=json",
	}
	if b.Target != "" {
		flags = append(flags, "--target="+b.Target)
	}
	if b.Platform != "" {
		flags = append(flags, "--custom-platform="+b.Platform)
	}
	for _, k := range slices.Sorted(maps.Keys(b.Args)) {
		flags = append(flags, "--build-arg="+k+"="+b.Args[k])
	}
	for _, k := range slices.Sorted(maps.Keys(b.Labels)) {
		flags = append(flags, "--label="+k+"="+b.Labels[k])
	}
	return append(flags, b.Flags...)
}

// read takes what the executor printed apart.
func (o *Outcome) read(text string) error {
	o.Log = text
	result := false
	for line := range strings.Lines(text) {
		var e struct{ Kind, Text, Error string }
		if json.Unmarshal([]byte(line), &e) != nil {
			// Before there is progress an error is a plain line.
			if message, ok := strings.CutPrefix(line, "error: "); ok {
				o.Error, result = strings.TrimSpace(message), true
			}
			continue
		}
		switch e.Kind {
		case "note":
			if w, ok := strings.CutPrefix(e.Text, "warning: "); ok {
				o.Warnings = append(o.Warnings, w)
			}
		case "result":
			o.Error, result = e.Error, true
		}
	}
	if !result || (o.Error == "") != (o.Status == 0) {
		return fmt.Errorf("the executor ended with status %d and said\n%s", o.Status, text)
	}
	return nil
}
