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

	"github.com/kilnhook/kiln/executor/view"
	"github.com/kilnhook/kiln/infra/kiln/internal/cmd"
	"github.com/kilnhook/kiln/infra/kiln/internal/show"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	tty := terminal(os.Stdout)
	context.AfterFunc(ctx, func() { endAtOnce(tty) })
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
		Terminal: tty, Now: time.Now, Executable: exe, Version: versionName(),
		Plugin: filepath.Base(os.Args[0]) == "kubectl-kiln",
	})
}

// endAtOnce ends the program at the next signal, and leaves the terminal in
// order.
func endAtOnce(tty show.Terminal) {
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	<-again
	if tty.Size != nil {
		fmt.Print(view.ShowCursor)
	}
	os.Exit(cmd.ExitFailed)
}

// terminal is the terminal at f, if it is one.
func terminal(f *os.File) show.Terminal {
	fd := int(f.Fd())
	if !term.IsTerminal(fd) {
		return show.Terminal{}
	}
	size := func() (columns, rows int) {
		columns, rows, err := term.GetSize(fd)
		if err != nil || columns <= 0 || rows <= 0 {
			return 80, 24
		}
		return columns, rows
	}
	return show.Terminal{Size: size, Abilities: view.AbilitiesOf(os.Getenv)}
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
