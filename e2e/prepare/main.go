// Command prepare makes what the tests under e2e need and what takes long to
// make: BuildKit, the servers that stand for a cloud's, and a Debian base image.
// All are kept in the user's cache, so it is slow once. The tests make what is
// missing too; "make test" runs prepare first so that no test's time is spent on
// it. Run it in the module's root.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/buildkit"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/servers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := prepare(ctx, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}

func prepare(ctx context.Context, log io.Writer) error {
	if err := servers.Prepare(ctx, log); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(log, "not root: the comparison with BuildKit will be skipped")
		return nil
	}
	if path, _ := exec.LookPath("mmdebstrap"); path == "" {
		fmt.Fprintln(log, "no mmdebstrap: the comparison with BuildKit will be skipped")
		return nil
	}
	dir, err := cache.Default()
	if err != nil {
		return err
	}
	if _, err := baseimage.Debian(ctx, dir, log); err != nil {
		return err
	}
	_, err = buildkit.Compile(ctx, dir, filepath.Join("e2e", "oracle"), log)
	return err
}
