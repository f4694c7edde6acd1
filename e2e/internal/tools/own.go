package tools

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kilnhook/kiln/e2e/internal/process"
)

// Main is a TestMain that compiles programs of this clone first: packages by their directory in
// the module, each with where to put the program's path.
func Main(m *testing.M, programs map[string]*string) {
	dir, err := os.MkdirTemp("", "kiln-programs-*")
	if err == nil {
		err = own(dir, programs)
	}
	status := 1
	if err == nil {
		status = m.Run()
	}
	if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// own compiles programs into dir.
func own(dir string, programs map[string]*string) error {
	var packages []string
	for pkg, program := range programs {
		packages = append(packages, "./"+pkg)
		*program = filepath.Join(dir, filepath.Base(pkg))
	}
	return Build(context.Background(), dir+"/", packages...)
}

// Build compiles packages of this clone, as "./executor", into out: a file, or a directory if
// a slash is at its end.
func Build(ctx context.Context, out string, packages ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", out}, packages...)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if _, err := process.Run(ctx, cmd, nil); err != nil {
		return fmt.Errorf("compile %v: %w", packages, err)
	}
	return nil
}
