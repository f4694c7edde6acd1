package buildkit

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
)

// Binaries are the two programs of BuildKit.
type Binaries struct{ Daemon, Client string }

// Compile returns the programs at the version that module pins, the directory
// of the module e2e/oracle. The first call compiles them, some three minutes of
// processor time, and keeps them in the cache; progress goes to log, which may
// be nil.
func Compile(ctx context.Context, dir cache.Dir, module string, log io.Writer) (Binaries, error) {
	key := []string{runtime.Version(), runtime.GOARCH}
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return Binaries{}, fmt.Errorf("build BuildKit: %w", err)
		}
		key = append(key, string(content))
	}
	entry, err := dir.Get(ctx, "buildkit", cache.Key(key...), func(ctx context.Context, dir string) error {
		if log != nil {
			fmt.Fprintln(log, "compiling BuildKit, with which our images are compared (once)")
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/",
			"github.com/moby/buildkit/cmd/buildkitd", "github.com/moby/buildkit/cmd/buildctl")
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
		_, err := process.Run(ctx, cmd, log)
		return err
	})
	if err != nil {
		return Binaries{}, fmt.Errorf("build BuildKit: %w", err)
	}
	return Binaries{Daemon: filepath.Join(entry, "buildkitd"), Client: filepath.Join(entry, "buildctl")}, nil
}
