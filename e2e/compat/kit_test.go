package compat

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// kit is what one row works with: a directory of its own, in which the executor
// runs, with a context in ctx.
type kit struct {
	*lab
	t    *testing.T
	dir  string
	env  map[string]string // of the executor; all of it
	in   io.Reader         // its standard input
	repo string            // destinations of this row: $registry/<row>
}

func newKit(t *testing.T, l *lab) *kit {
	t.Helper()
	k := &kit{lab: l, t: t, dir: t.TempDir()}
	for _, d := range []string{"ctx", "home", "tmp"} {
		check(t, os.Mkdir(filepath.Join(k.dir, d), 0o755))
	}
	k.env = map[string]string{"PATH": os.Getenv("PATH"), "HOME": k.path("home"), "TMPDIR": k.path("tmp")}
	k.repo = l.registry + "/" + strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	return k
}

func (k *kit) path(name string) string { return filepath.Join(k.dir, name) }

// write writes a file of the row's directory.
func (k *kit) write(name, content string) string {
	k.t.Helper()
	path := k.path(name)
	check(k.t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(k.t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// read returns a file of the row's directory.
func (k *kit) read(name string) string {
	k.t.Helper()
	raw, err := os.ReadFile(k.path(name))
	check(k.t, err)
	return string(raw)
}

// missing fails the row if a file is there.
func (k *kit) missing(names ...string) {
	k.t.Helper()
	for _, n := range names {
		if _, err := os.Lstat(k.path(n)); err == nil {
			k.t.Errorf("%s is there", n)
		}
	}
}

// dockerfile writes ctx/Dockerfile, with BASE for the base image, and files of
// the context: a name and its content in turn.
func (k *kit) dockerfile(content string, files ...string) {
	k.t.Helper()
	k.write("ctx/Dockerfile", strings.ReplaceAll(content, "BASE", k.base)+"\n")
	for i := 0; i+1 < len(files); i += 2 {
		k.write("ctx/"+files[i], files[i+1])
	}
}

// scratch makes the smallest context: one file from scratch.
func (k *kit) scratch() { k.dockerfile("FROM scratch\nCOPY Dockerfile /file") }

// result is what came of a command.
type result struct {
	t              *testing.T
	args           []string
	status         int
	stdout, stderr string
	took           time.Duration
}

// exec runs the executor.
func (k *kit) exec(args ...string) *result { k.t.Helper(); return k.command(k.executor, args...) }

// command runs a program in the row's directory.
func (k *kit) command(program string, args ...string) *result {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdin = k.dir, k.in
	for _, name := range slices.Sorted(maps.Keys(k.env)) {
		cmd.Env = append(cmd.Env, name+"="+k.env[name])
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	begun := time.Now()
	err := cmd.Run()
	r := &result{t: k.t, args: args, stdout: out.String(), stderr: errs.String(), took: time.Since(begun)}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.status = exit.ExitCode()
	} else if err != nil {
		k.t.Fatal(err)
	}
	return r
}

// build runs a build of ctx without a destination.
func (k *kit) build(args ...string) *result {
	k.t.Helper()
	return k.exec(append([]string{"--context=ctx", "--isolation=overlay", "--log-format=text", "--insecure-registry=" + k.registry}, args...)...)
}

// local runs a build that pushes nothing.
func (k *kit) local(args ...string) *result {
	k.t.Helper()
	return k.build(append([]string{"--no-push"}, args...)...)
}

// pushed runs a build that pushes to the row's repository and must succeed.
func (k *kit) pushed(args ...string) built {
	k.t.Helper()
	k.build(append([]string{"--destination=" + k.repo}, args...)...).ok()
	return k.at(k.repo)
}

func (r *result) String() string {
	return fmt.Sprintf("executor %s\nstatus %d after %v\n%s%s", strings.Join(r.args, " "), r.status, r.took.Round(time.Millisecond), r.stdout, r.stderr)
}

// ok fails the row if the command failed.
func (r *result) ok() *result {
	r.t.Helper()
	if r.status != 0 {
		r.t.Fatalf("it failed: %s", r)
	}
	return r
}

// fails fails the row unless the command failed and said all the texts on
// standard error.
func (r *result) fails(texts ...string) *result {
	r.t.Helper()
	if r.status == 0 {
		r.t.Fatalf("it succeeded: %s", r)
	}
	return r.says(texts...)
}

// says fails the row unless all the texts are on standard error.
func (r *result) says(texts ...string) *result {
	r.t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			r.t.Errorf("it does not say %q: %s", text, r)
		}
	}
	return r
}

// hushes fails the row if one of the texts is on standard error.
func (r *result) hushes(texts ...string) *result {
	r.t.Helper()
	for _, text := range texts {
		if strings.Contains(r.stderr, text) {
			r.t.Errorf("it says %q: %s", text, r)
		}
	}
	return r
}

// matches fails the row unless the pattern matches standard error.
func (r *result) matches(pattern string) *result {
	r.t.Helper()
	if !regexp.MustCompile(pattern).MatchString(r.stderr) {
		r.t.Errorf("%s does not match: %s", pattern, r)
	}
	return r
}

// built is an image in a registry.
type built struct {
	t   *testing.T
	ref string
	v1.Image
}

// at is the image at a reference in a registry of plain HTTP.
func (k *kit) at(ref string) built {
	k.t.Helper()
	img, err := k.lookup(ref)
	check(k.t, err)
	return built{k.t, ref, img}
}

func (k *kit) lookup(ref string) (v1.Image, error) {
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return nil, err
	}
	return remote.Image(r, remote.WithContext(k.t.Context()))
}

// absent fails the row if there is an image at a reference.
func (k *kit) absent(ref string) {
	k.t.Helper()
	if _, err := k.lookup(ref); err == nil {
		k.t.Errorf("%s exists", ref)
	}
}

// tags are the tags of a repository.
func (k *kit) tags(repo string) []string {
	k.t.Helper()
	r, err := name.NewRepository(repo, name.Insecure)
	check(k.t, err)
	tags, err := remote.List(r, remote.WithContext(k.t.Context()))
	if err != nil && !strings.Contains(err.Error(), "NAME_UNKNOWN") {
		k.t.Fatal(err)
	}
	return tags
}

// steps is how many steps a cache has the layer of. It may hold what it knows of
// layers too.
func (k *kit) steps(repo string) int {
	k.t.Helper()
	n := 0
	for _, tag := range k.tags(repo) {
		if h := k.at(repo + ":" + tag).config().History; len(h) > 0 && h[0].CreatedBy != "roster" && !strings.HasPrefix(h[0].CreatedBy, "index of ") {
			n++
		}
	}
	return n
}

func (b built) digest() string {
	b.t.Helper()
	d, err := b.Digest()
	check(b.t, err)
	return d.String()
}

func (b built) config() *v1.ConfigFile {
	b.t.Helper()
	c, err := b.ConfigFile()
	check(b.t, err)
	return c
}

func (b built) manifest() *v1.Manifest {
	b.t.Helper()
	m, err := b.Manifest()
	check(b.t, err)
	return m
}

// files are the regular files of the image by path, and what they hold.
func (b built) files() map[string]string {
	b.t.Helper()
	rc := mutate.Extract(b.Image)
	defer rc.Close()
	out := map[string]string{}
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		check(b.t, err)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		raw, err := io.ReadAll(r)
		check(b.t, err)
		out[strings.TrimPrefix(filepath.Clean(h.Name), "/")] = string(raw)
	}
}

// holds fails the row unless the image has a file with a content, less the
// newline at its end.
func (b built) holds(path, content string) built {
	b.t.Helper()
	got, ok := b.files()[path]
	if !ok || strings.TrimSuffix(got, "\n") != content {
		b.t.Errorf("%s: %s holds %q (there: %v), want %q", b.ref, path, got, ok, content)
	}
	return b
}

// lacks fails the row if the image has one of the files.
func (b built) lacks(paths ...string) built {
	b.t.Helper()
	files := b.files()
	for _, p := range paths {
		if _, ok := files[p]; ok {
			b.t.Errorf("%s has %s", b.ref, p)
		}
	}
	return b
}

// entries are the names in the layers above the base, or of all if from is 0.
func (b built) entries(from int) []*tar.Header {
	b.t.Helper()
	layers, err := b.Layers()
	check(b.t, err)
	var out []*tar.Header
	for _, l := range layers[from:] {
		rc, err := l.Uncompressed()
		check(b.t, err)
		for r := tar.NewReader(rc); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			check(b.t, err)
			out = append(out, h)
		}
		check(b.t, rc.Close())
	}
	return out
}

// equal fails the row if two values are not the same in JSON.
func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	check(t, err)
	w, err := json.Marshal(want)
	check(t, err)
	if !bytes.Equal(g, w) {
		t.Errorf("%s is %s, want %s", what, g, w)
	}
}

// contains fails the row unless a text is part of another.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in %q", p, text)
		}
	}
}
