// Command kiln is Kiln on one machine and its command line: it starts the
// stack, sends things to be built, and shows what became of them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/kilnhook/kiln/infra/kiln/internal/cmd"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	if exe, err = filepath.Abs(exe); err != nil {
		fmt.Fprintln(os.Stderr, "kiln:", err)
		return cmd.ExitFailed
	}
	return cmd.Run(ctx, cmd.Process{
		Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
		Width: width(os.Stdout), Now: time.Now, Executable: exe, Version: versionName(),
	})
}

// width tells the columns of the terminal at f; nil if it is none.
func width(f *os.File) func() int {
	fd := int(f.Fd())
	if !term.IsTerminal(fd) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return func() int {
		if w, _, err := term.GetSize(fd); err == nil && w > 0 {
			return w
		}
		return 80
	}
}

// version is set by the linker.
var version string

// versionName is version or, without one, what the Go tool stamped into the
// binary.
func versionName() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "development " + s.Value[:min(len(s.Value), 12)]
		}
	}
	return "development"
}
