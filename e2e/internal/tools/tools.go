// Package tools compiles programs that only tests run, at the versions that a
// module of their own pins, and keeps them in the cache.
package tools

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

// Compile returns the directory that holds the programs of packages, which are
// tools of module, a directory with go.mod and go.sum, at the versions pinned. The first
// call for a state of those files compiles them, which takes minutes; name is
// what they are called in the cache. Progress goes to log, which may be nil.
func Compile(ctx context.Context, dir cache.Dir, name, module string, log io.Writer, packages ...string) (string, error) {
	key := []string{runtime.Version(), runtime.GOARCH}
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return "", fmt.Errorf("compile %s: %w", name, err)
		}
		key = append(key, string(content))
	}
	entry, err := dir.Get(ctx, name, cache.Key(key...), func(ctx context.Context, dir string) error {
		if log != nil {
			fmt.Fprintf(log, "compiling %s, which only tests run (once)\n", name)
		}
		cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", dir + "/"}, packages...)...)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
		_, err := process.Run(ctx, cmd, log)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("compile %s: %w", name, err)
	}
	return entry, nil
}

// Root returns the directory of Kiln's own module, in or below which the
// program runs, as every test does.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "e2e", "oracle", "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("find the module: %s is not in a clone of Kiln", dir)
		}
	}
}
