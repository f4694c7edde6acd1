package cmd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
)

func process(t *testing.T, env map[string]string, args ...string) (Process, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	var out, errs bytes.Buffer
	return Process{
		Args: args, Stdout: &out, Stderr: &errs, Getenv: func(k string) string { return env[k] },
		Now: time.Now, Executable: filepath.Join(t.TempDir(), "kiln"), Version: "v1",
	}, &out, &errs
}

// 2 is a command line that makes no sense, 1 a command that did not work.
func TestExitStatus(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want int
	}{
		{[]string{"version"}, ExitOK},
		{[]string{"help"}, ExitOK},
		{[]string{"nonsense"}, ExitUsage},
		{[]string{"builds", "--nope"}, ExitUsage},
		{[]string{"submit"}, ExitUsage},
		{[]string{"version", "-o", "xml"}, ExitUsage},
		{[]string{"builds", "--server", "127.0.0.1:1"}, ExitFailed},
		{[]string{"submit", "--server", "127.0.0.1:1", "/nonexistent"}, ExitFailed},
		{[]string{"up", "--triggers", "/nonexistent"}, ExitFailed},
	} {
		p, _, errs := process(t, nil, tc.args...)
		if got := Run(t.Context(), p); got != tc.want || (got == ExitOK) != (errs.Len() == 0) {
			t.Errorf("%v: %d, want %d: %s", tc.args, got, tc.want, errs)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupt"))
	p, _, errs := process(t, nil, "builds", "--server", "127.0.0.1:1")
	if got := Run(ctx, p); got != ExitFailed || errs.String() != "kiln: interrupted\n" {
		t.Errorf("%d %s", got, errs)
	}
}

// What cannot be meant is refused, with what can be.
func TestUsage(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		{"buids", `there is no command "buids" (did you mean build or builds?)`},
		{"frobnicate", `there is no command "frobnicate"` + "\n"},
		{"builds --server 127.0.0.1:1 --outcome succes", `--outcome is "succes", and may be success, failed, cancelled, error`},
		{"builds --server 127.0.0.1:1 --state done", `--state is "done", and may be queued, running, finishing, pending, finished`},
	} {
		p, _, errs := process(t, nil, strings.Fields(tc.line)...)
		if got := Run(t.Context(), p); got != ExitUsage || !strings.Contains(errs.String(), tc.want) {
			t.Errorf("%s: %d %s", tc.line, got, errs)
		}
	}
}

func TestOwnRepository(t *testing.T) {
	const base = "http://127.0.0.1:8765"
	for address, want := range map[string]string{
		base + "/git/shop.git": "localhost/shop", base + "/git/team/shop": "localhost/team/shop",
		"github.com/acme/shop": "github.com/acme/shop", "https://127.0.0.1:8765/git/shop.git": "https://127.0.0.1:8765/git/shop.git",
	} {
		if got := ownRepository(base, address); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
}

// Executors see of the environment what they need and nothing else.
func TestEnvironment(t *testing.T) {
	p, _, _ := process(t, map[string]string{"PATH": "/bin", "HOME": "/h", "https_proxy": "p", "AWS_SECRET_ACCESS_KEY": "s", "KILN_GITHUB_SECRET": "s"})
	a := &app{Process: p}
	if got := strings.Join(a.environment(), " "); got != "PATH=/bin https_proxy=p DOCKER_CONFIG=/h/.docker" {
		t.Errorf("%s", got)
	}
}

// The data directory is where the XDG specification wants it.
func TestDefaultData(t *testing.T) {
	for env, want := range map[string]string{"": "/h/.local/share/kiln", "relative": "/h/.local/share/kiln", "/x": "/x/kiln"} {
		p, _, _ := process(t, map[string]string{"HOME": "/h", "XDG_DATA_HOME": env})
		if got := (&app{Process: p}).defaultData(); got != want {
			t.Errorf("%q: %s", env, got)
		}
	}
}

// Secrets come from files without their last newline, and an empty one is an
// error, not no secret.
func TestSecret(t *testing.T) {
	dir := t.TempDir()
	full, empty := filepath.Join(dir, "full"), filepath.Join(dir, "empty")
	if err := errors.Join(os.WriteFile(full, []byte("s\r\n"), 0o600), os.WriteFile(empty, []byte("\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := secret(full, "env"); err != nil || string(got) != "s" {
		t.Errorf("%q %v", got, err)
	}
	if got, err := secret("", "env"); err != nil || string(got) != "env" {
		t.Errorf("%q %v", got, err)
	}
	for _, bad := range []string{empty, filepath.Join(dir, "none")} {
		if _, err := secret(bad, "env"); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// Types may be abbreviated.
func TestFullType(t *testing.T) {
	for in, want := range map[string]string{
		"build.finished": events.TypeBuildFinished, "build.finished.v1": events.TypeBuildFinished, events.TypeBuildStarted: events.TypeBuildStarted,
		"dev.cdevents.build.finished.0.3.0": "dev.cdevents.build.finished.0.3.0",
	} {
		if got, err := fullType(in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	if got, err := fullType("build.finshed"); err == nil || !strings.Contains(err.Error(), "build.started, build.finished, trigger.rejected, or a type of CDEvents") {
		t.Errorf("%s: %v", got, err)
	}
}
