package tools

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
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
	root, err := Root()
	if err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-o", dir + "/"}
	for pkg, program := range programs {
		args = append(args, "./"+pkg)
		*program = filepath.Join(dir, filepath.Base(pkg))
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %v: %w\n%s", args[4:], err, out)
	}
	return nil
}
