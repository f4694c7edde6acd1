// Package nstest runs a package's tests in a mount namespace of their own, so
// that what they mount is never seen outside and goes when they end.
package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/kilnhook/kiln/e2e/need"
)

const inside = "KILN_TEST_NAMESPACE"

// Main is for TestMain. Without the privilege for a mount namespace it runs
// the tests where they are; those that mount ask Inside.
func Main(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), inside+"=1")}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case errors.Is(err, syscall.EPERM):
		os.Exit(m.Run())
	case err != nil:
		fmt.Fprintln(os.Stderr, "run tests in a mount namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Need ends the test unless it may mount.
func Need(t *testing.T) {
	t.Helper()
	if os.Getenv(inside) != "" {
		return
	}
	need.Missing(t, "to mount (run it as root)")
}
