package access

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/pflag"
)

// flags parses a command line in an environment.
func flags(t *testing.T, define func(*Flags, *pflag.FlagSet), env map[string]string, args ...string) (*Flags, Process) {
	t.Helper()
	var c Flags
	f := pflag.NewFlagSet("x", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	define(&c, f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	c.Environment(lookup, f)
	return &c, Process{Lookup: lookup, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
}

// The environment speaks where no flag does, and a program that only pulls
// reads no more of it than it has flags for.
func TestEnvironment(t *testing.T) {
	env := map[string]string{"KANIKO_REGISTRY_MAP": "a=b;c=d", "KANIKO_REGISTRY_MIRROR": "m", "KANIKO_DIR": "/k"}
	c, _ := flags(t, (*Flags).Define, env)
	if c.KanikoDir != "/k" || !slices.Equal(c.maps, []string{"a=b;c=d"}) || !slices.Equal(c.mirrors, []string{"m"}) {
		t.Errorf("%+v", c)
	}
	c, _ = flags(t, (*Flags).DefineForPull, env, "--registry-map=x=y", "--registry-mirror=n", "--kaniko-dir=/l")
	if c.KanikoDir != "/l" || !slices.Equal(c.maps, []string{"x=y"}) || !slices.Equal(c.mirrors, []string{"n"}) {
		t.Errorf("%+v", c)
	}
	c, _ = flags(t, (*Flags).DefineForPush, env)
	if c.KanikoDir != "/k" || c.maps != nil || c.mirrors != nil {
		t.Errorf("%+v", c)
	}
	if c, _ = flags(t, (*Flags).Define, nil); c.KanikoDir != DefaultKanikoDir {
		t.Errorf("%+v", c)
	}
}

// All built-in helpers are asked, or those that were chosen, or none.
func TestCredentialHelpers(t *testing.T) {
	for args, want := range map[string]string{
		"":                         "env google ecr acr gitlab",
		"--credential-helpers=":    "",
		"--credential-helpers=ecr": "ecr",
		"--credential-helpers=acr,ecr --credential-helpers=env --credential-helpers=ecr": "acr ecr env",
	} {
		c, p := flags(t, (*Flags).Define, nil, strings.Fields(args)...)
		if got := strings.Join(c.builtIn(), " "); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
		if _, err := c.Keychain(p); err != nil {
			t.Error(err)
		}
	}
	c, p := flags(t, (*Flags).Define, nil, "--credential-helpers=vault")
	if _, err := c.Keychain(p); err == nil || !strings.Contains(err.Error(), `"vault" is not known`) {
		t.Errorf("error = %v", err)
	}
}

// Configs are looked for in their places, in order.
func TestCredentialFiles(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{"HOME": dir + "/home", "DOCKER_CONFIG": dir + "/docker", "REGISTRY_AUTH_FILE": dir + "/auth.json", "KANIKO_DIR": dir + "/kaniko"}
	for path, user := range map[string]string{"docker/config.json": "first", "kaniko/.docker/config.json": "second", "home/.docker/config.json": "third", "auth.json": "fourth"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(`{"auths":{"reg.example":{"username":"`+user+`","password":"p"}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct{ user, remove string }{{"first", "docker"}, {"second", "kaniko"}, {"third", "home"}, {"fourth", "auth.json"}, {"", "auth.json"}} {
		c, p := flags(t, (*Flags).Define, env)
		k, err := c.Keychain(p)
		if err != nil {
			t.Fatal(err)
		}
		r, err := name.NewRegistry("reg.example")
		if err != nil {
			t.Fatal(err)
		}
		a, err := k.Resolve(r)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := a.Authorization()
		if err != nil || cfg.Username != step.user {
			t.Errorf("user %q, %v, want %q (%s)", cfg.Username, err, step.user, k.Explain(r))
		}
		if err := os.RemoveAll(filepath.Join(dir, step.remove)); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be a map or a certificate is an error that names the flag's value.
func TestClientRefuses(t *testing.T) {
	for arg, want := range map[string]string{
		"--registry-map=a":                           `--registry-map "a": want host=other`,
		"--registry-map=a=https://b":                 "without a scheme",
		"--registry-certificate=h=/nowhere":          "registry certificate for h: open /nowhere",
		"--registry-client-cert=h=/nowhere,/neither": "registry client certificate for h",
	} {
		c, p := flags(t, (*Flags).Define, nil, arg)
		k, err := c.Keychain(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Client(p, k); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
	var c Flags
	f := pflag.NewFlagSet("x", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	c.Define(f)
	if err := f.Parse([]string{"--registry-client-cert=h=/one"}); err == nil || !strings.Contains(err.Error(), "want host=/path/to/cert,/path/to/key") {
		t.Errorf("error = %v", err)
	}
}
