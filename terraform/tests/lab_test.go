// Package terraform_test checks the modules without Google: their form, their
// guards, and what a plan and an apply of every example make, with a provider
// that stands in for Google's (stubgoogle).
package terraform_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// version is what the stand-in pretends to be: a version that the modules
// allow.
const version = "7.0.0"

// requireVariable turns skips into failures, as in e2e/need.
const requireVariable = "KILN_REQUIRE_SERVERS"

// missing ends a test that cannot do without what.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(requireVariable) == "1" {
		t.Fatalf("this test needs %s and %s=1 forbids to skip it", what, requireVariable)
	}
	t.Skipf("this test needs %s", what)
}

// bench is what all tests share: terraform, and a configuration for it that
// finds the stand-in where it looks for Google's provider.
type bench struct{ terraform, config string }

var shared struct {
	once sync.Once
	dir  string
	b    bench
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.dir != "" {
		if err := os.RemoveAll(shared.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// prepare compiles the stand-in, once.
func prepare(t *testing.T) bench {
	t.Helper()
	path, err := exec.LookPath("terraform")
	if err != nil {
		missing(t, "terraform 1.9 or newer on the PATH (https://developer.hashicorp.com/terraform/install)")
	}
	shared.once.Do(func() { shared.b, shared.err = compile(path) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.b
}

func compile(terraform string) (bench, error) {
	dir, err := os.MkdirTemp("", "kiln-terraform-")
	if err != nil {
		return bench{}, err
	}
	shared.dir = dir
	mirror := filepath.Join(dir, "mirror")
	target := filepath.Join(mirror, "registry.terraform.io", "hashicorp", "google", version, runtime.GOOS+"_"+runtime.GOARCH)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return bench{}, err
	}
	build := exec.CommandContext(context.Background(), "go", "build", "-ldflags=-s -w", "-o", filepath.Join(target, "terraform-provider-google_v"+version), "./stubgoogle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return bench{}, fmt.Errorf("compile the stand-in: %w\n%s", err, out)
	}
	config := filepath.Join(dir, "terraform.rc")
	// Nothing else is listed, so that nothing is ever downloaded.
	text := fmt.Sprintf("provider_installation {\n  filesystem_mirror {\n    path = %q\n  }\n}\n", mirror)
	return bench{terraform, config}, os.WriteFile(config, []byte(text), 0o600)
}

// tree is a copy of the modules that a test may change.
type tree struct {
	bench
	t    *testing.T
	root string
}

// grow copies the modules.
func grow(t *testing.T) tree {
	t.Helper()
	b := prepare(t)
	root := t.TempDir()
	for _, name := range tracked(t) {
		data, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tree{b, t, root}
}

// tracked lists the files of Terraform, without those it made itself.
func tracked(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".terraform" {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".tf") || strings.HasSuffix(path, ".tftest.hcl") {
			name, err := filepath.Rel("..", path)
			if err != nil {
				return err
			}
			names = append(names, name)
		}
		return nil
	})
	if err != nil || len(names) < 40 {
		t.Fatalf("found %d files: %v", len(names), err)
	}
	return names
}

// change replaces text of a file, which must be there once.
func (tr tree) change(file, old, text string) {
	tr.t.Helper()
	path := filepath.Join(tr.root, file)
	data, err := os.ReadFile(path)
	if err != nil {
		tr.t.Fatal(err)
	}
	if n := strings.Count(string(data), old); n != 1 {
		tr.t.Fatalf("%s holds %q %d times, not once", file, old, n)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), old, text, 1)), 0o600); err != nil {
		tr.t.Fatal(err)
	}
}

// run runs terraform in a directory of the tree.
func (tr tree) run(dir string, args ...string) (string, error) {
	tr.t.Helper()
	cmd := tr.command(dir, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return plainText(out.String()), err
}

// output is what terraform writes, unchanged.
func (tr tree) output(dir string, args ...string) ([]byte, error) {
	tr.t.Helper()
	return tr.command(dir, args...).Output()
}

// command is terraform with nothing of this machine's own configuration.
func (tr tree) command(dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(tr.t.Context(), tr.terraform, args...)
	cmd.Dir = filepath.Join(tr.root, dir)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "TF_") || strings.HasPrefix(s, "GOOGLE_") || strings.HasPrefix(s, "CLOUDSDK_")
	})
	cmd.Env = append(cmd.Env, "TF_CLI_CONFIG_FILE="+tr.config, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1", "NO_COLOR=1",
		"KILN_STUB_WORLD="+filepath.Join(tr.root, "world"), "HOME="+tr.root)
	return cmd
}

// plainText takes terraform's frames and line breaks out of what it says.
func plainText(s string) string {
	var words []string
	for line := range strings.Lines(s) {
		words = append(words, strings.Fields(strings.TrimLeft(line, "╷│╵ "))...)
		words = append(words, "\n")
	}
	return strings.Join(words, " ")
}

// said reports whether terraform said something, wherever it broke the lines.
func said(out, what string) bool {
	return strings.Contains(strings.Join(strings.Fields(out), " "), what)
}

// must runs terraform, which must succeed.
func (tr tree) must(dir string, args ...string) string {
	tr.t.Helper()
	out, err := tr.run(dir, args...)
	if err != nil {
		tr.t.Fatalf("terraform %s in %s: %v\n%s", strings.Join(args, " "), dir, err, out)
	}
	return out
}

// init prepares a directory.
func (tr tree) init(dir string) {
	tr.t.Helper()
	tr.must(dir, "init", "-input=false", "-backend=false", "-no-color")
}

// set writes values of variables.
func (tr tree) set(dir string, vars map[string]any) {
	tr.t.Helper()
	data, err := json.Marshal(vars)
	if err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tr.root, dir, "test.auto.tfvars.json"), data, 0o600); err != nil {
		tr.t.Fatal(err)
	}
}

// A thing is a resource in the state, or in a plan.
type thing struct {
	Address string         `json:"address"`
	Mode    string         `json:"mode"`
	Type    string         `json:"type"`
	Values  map[string]any `json:"values"`
}

type module struct {
	Resources []thing  `json:"resources"`
	Children  []module `json:"child_modules"`
}

func (m module) all() []thing {
	things := m.Resources
	for _, c := range m.Children {
		things = append(things, c.all()...)
	}
	return things
}

// state is everything that was made.
func (tr tree) state(dir string) world {
	tr.t.Helper()
	data, err := tr.output(dir, "show", "-json")
	if err != nil {
		tr.t.Fatalf("show the state: %v", err)
	}
	var s struct {
		Values struct {
			Outputs map[string]struct {
				Value any `json:"value"`
			} `json:"outputs"`
			Root module `json:"root_module"`
		} `json:"values"`
	}
	if err := json.Unmarshal(data, &s); err != nil {
		tr.t.Fatal(err)
	}
	w := world{outputs: map[string]any{}}
	for name, o := range s.Values.Outputs {
		w.outputs[name] = o.Value
	}
	for _, th := range s.Values.Root.all() {
		if th.Mode == "managed" {
			w.things = append(w.things, th)
		}
	}
	return w
}
