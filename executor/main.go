// Executor builds a container image from a Dockerfile and a build context, in
// userspace and without a daemon, and pushes it to a registry.
//
// Its flags, paths and environment are those of kaniko's executor. Run it with
// --help for the flags.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/kilnhook/kiln/executor/internal/access"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
)

// version is set by the linker.
var version = "dev"

func main() {
	if status, acted := sandbox.Child(os.Args, os.Environ(), os.Stdout, os.Stderr); acted {
		os.Exit(status)
	}
	os.Exit(run())
}

// process is what the program is given by whoever started it.
type process struct {
	args   []string
	env    []string
	lookup func(string) (string, bool)
	stdin  *os.File
	stdout *os.File
	stderr *os.File
	now    func() time.Time
	memory int64 // that the process may have, bytes; 0 is no limit
	root   fs.FS // of the machine, or the container, for what the kernel says of this process
}

func run() int {
	root := os.DirFS("/")
	p := process{
		args: os.Args, env: os.Environ(), lookup: os.LookupEnv,
		memory: limitMemory(root, os.LookupEnv), root: root,
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, now: time.Now,
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if status, acted := command(ctx, p); acted {
		return status
	}
	var c config
	flags := newFlags(&c, p.stderr)
	err := access.Parse(flags, p.args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: see --help", flags.Arg(0))
	}
	if err == nil {
		err = c.environment(p.lookup, flags)
	}
	if err == nil {
		err = c.request(flags)
	}
	if err == nil {
		err = c.check()
	}
	if err != nil {
		fmt.Fprintln(p.stderr, "error:", err)
		return 1
	}
	return execute(ctx, &c, p)
}
