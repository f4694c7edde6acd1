package buildkit

import (
	"context"
	"io"
	"path/filepath"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/tools"
)

// Binaries are the two programs of BuildKit.
type Binaries struct{ Daemon, Client string }

// Compile returns the programs at the version that module pins, the directory
// of the module e2e/oracle. The first call compiles them, some three minutes of
// processor time, and keeps them in the cache; progress goes to log, which may
// be nil.
func Compile(ctx context.Context, dir cache.Dir, module string, log io.Writer) (Binaries, error) {
	entry, err := tools.Compile(ctx, dir, "buildkit", module, log,
		"github.com/moby/buildkit/cmd/buildkitd", "github.com/moby/buildkit/cmd/buildctl")
	if err != nil {
		return Binaries{}, err
	}
	return Binaries{Daemon: filepath.Join(entry, "buildkitd"), Client: filepath.Join(entry, "buildctl")}, nil
}
