package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/infra/local/example"
)

// TestExampleMatchesBuildKit proves that the example that "make up" builds, built by the
// executor in Overlay mode and in InPlace mode is, in config, history and every
// path, the image that BuildKit builds.
func TestExampleMatchesBuildKit(t *testing.T) {
	context := t.TempDir()
	check(t, example.Write(context))
	check(t, settle(context))
	newLab(t).matchBuildKit(t, "example", build{context: context})
}

// TestOwnImageMatchesBuildKit proves that Kiln builds Kiln: the executor's own
// image, in Overlay mode, since an in-place build cannot replace its own program.
func TestOwnImageMatchesBuildKit(t *testing.T) {
	l := newLab(t)
	context := t.TempDir()
	for name, from := range map[string]string{
		"Dockerfile": "../infra/images/Dockerfile", "LICENSE": "../LICENSE",
		"executor": l.executor, "ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt",
	} {
		content, err := os.ReadFile(from)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(context, name), content, 0o755))
	}
	check(t, settle(context))
	b := build{context: context, target: "executor"}
	l.match(t, l.oracle(t, "own", b), "own", b, l.overlay)
}

// TestBuildsMatchBuildKit proves the same of the Dockerfiles in testdata/builds.
func TestBuildsMatchBuildKit(t *testing.T) {
	files, err := filepath.Glob("testdata/builds/*.txtar")
	check(t, err)
	l := newLab(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) { l.matchBuildKit(t, name, readBuild(t, file)) })
	}
}
