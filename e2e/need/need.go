// Package need says what a test cannot do without. Where it is missing the
// test is skipped, so that the rest still runs on a machine that lacks it; with
// KILN_REQUIRE_SERVERS=1 in the environment, as .ci/run sets it, the test
// fails instead.
package need

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// RequireVariable is the environment variable that turns skips into failures.
const RequireVariable = "KILN_REQUIRE_SERVERS"

// Command returns the path of a program, or ends the test.
func Command(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "the command "+name+" (run .ci/setup)")
	}
	return path
}

// Root ends the test unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root")
	}
}

// Missing ends the test, which cannot do without what.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(RequireVariable) == "1" {
		t.Fatalf("this test needs %s and %s=1 forbids to skip it", what, RequireVariable)
	}
	t.Skipf("this test needs %s", what)
}

// Overlays ends the test unless an overlay can be mounted on directories of dir,
// as it cannot where dir lies on an overlay itself, in a container's own root.
func Overlays(t testing.TB, dir string) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		Missing(t, "temporary files on another filesystem than an overlay (set TMPDIR)")
	}
}
