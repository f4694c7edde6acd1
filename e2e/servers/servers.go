// Package servers starts, for tests, the servers that stand for a cloud's: real
// programs that somebody else wrote, as processes of their own on free loopback
// ports. They end with the test.
package servers

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/tools"
	"github.com/kilnhook/kiln/e2e/need"
)

// startTimeout is how long a server may take to answer on a busy machine.
const startTimeout = 60 * time.Second

// compiled are the servers that are compiled from modules below this directory:
// the directory, which is also the name in the cache, and the package.
func compiled() map[string]string {
	return map[string]string{
		"distribution": "github.com/distribution/distribution/v3/cmd/registry",
		"fakegcs":      "github.com/fsouza/fake-gcs-server",
		"versitygw":    "github.com/versity/versitygw/cmd/versitygw",
	}
}

// Prepare compiles every server that has to be, so that no test's time is spent
// on it. Progress goes to log, which may be nil.
func Prepare(ctx context.Context, log io.Writer) error {
	for name := range compiled() {
		if _, err := compile(ctx, name, log); err != nil {
			return err
		}
	}
	return nil
}

// compile returns the path of a compiled server.
func compile(ctx context.Context, name string, log io.Writer) (string, error) {
	root, err := tools.Root()
	if err != nil {
		return "", err
	}
	dir, err := cache.Default()
	if err != nil {
		return "", err
	}
	pkg := compiled()[name]
	entry, err := tools.Compile(ctx, dir, name, filepath.Join(root, "e2e", "servers", name), log, pkg)
	if err != nil {
		return "", err
	}
	return filepath.Join(entry, filepath.Base(pkg)), nil
}

// program returns the path of a compiled server, or ends the test.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := compile(t.Context(), name, os.Stderr)
	if err != nil {
		need.Missing(t, fmt.Sprintf("%s: %v", name, err))
	}
	return path
}

// await waits until a server answers a GET of url, with whatever status.
func await(t testing.TB, server *process.Server, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), startTimeout, fmt.Errorf("no answer after %v", startTimeout))
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			return
		}
		select {
		case <-server.Done():
			t.Fatal(server.Failure())
		case <-ctx.Done():
			t.Fatalf("%v: %v; its last words:\n%s", context.Cause(ctx), err, server.Last())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stopAtEnd stops a server when the test ends.
func stopAtEnd(t testing.TB, server *process.Server) {
	t.Helper()
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
}
