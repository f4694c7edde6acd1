package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kilnhook/kiln/e2e/internal/lab"
	"github.com/kilnhook/kiln/infra/local/example"
)

// TestExampleMatchesBuildKit proves that the example that "make up" builds, built by the
// executor in Overlay mode and in InPlace mode is, in config, history and every
// path, the image that BuildKit builds, and that Kiln builds Kiln: the same of the
// executor's own image, in Overlay mode, since an in-place build cannot replace its
// own program. Every other Dockerfile is compared in package conformance.
func TestExampleMatchesBuildKit(t *testing.T) {
	l := lab.New(t, "..")
	t.Run("example", func(t *testing.T) {
		context := t.TempDir()
		check(t, example.Write(context))
		check(t, lab.Settle(context))
		l.Match(t, "example", lab.Build{Context: context})
	})
	t.Run("own", func(t *testing.T) {
		context := t.TempDir()
		for name, from := range map[string]string{
			"Dockerfile": "../infra/images/Dockerfile", "LICENSE": "../LICENSE",
			"executor": l.Executor, "ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt",
		} {
			content, err := os.ReadFile(from)
			check(t, err)
			check(t, os.WriteFile(filepath.Join(context, name), content, 0o755))
		}
		check(t, lab.Settle(context))
		b := lab.Build{Context: context, Target: "executor"}
		want, err := l.BuildKit(t.Context(), "buildkit/own", b)
		check(t, err)
		l.MatchMode(t, want.Ref, "own", b, l.Overlay)
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
