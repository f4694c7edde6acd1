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
	for in, want := range map[string]string{"build.finished": events.TypeBuildFinished, "build.finished.v1": events.TypeBuildFinished, events.TypeBuildStarted: events.TypeBuildStarted, "other": "other"} {
		if got := fullType(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
