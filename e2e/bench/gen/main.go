// Command gen is in the images that the benchmark builds on. What it writes is
// what a RUN of a workload writes.
//
//	gen files COUNT BYTES DIR
//	gen big BYTES FILE
//
// It also measures the start of a program: what the kernel says of a child's
// memory is never less than its parent's, and gen is small.
//
//	gen time PROGRAM ARGUMENT...
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/kilnhook/kiln/e2e/bench/corpus"
)

// seed makes other files than those of the base images.
const seed = 1000

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 4 && args[0] == "files":
		count, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		bytes, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(args[3], 0o755); err != nil {
			return err
		}
		return corpus.Files{Count: count, Bytes: bytes, Seed: seed}.Write(args[3])
	case len(args) == 3 && args[0] == "big":
		bytes, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return corpus.WriteBig(args[2], bytes, seed)
	}
	if len(args) > 1 && args[0] == "time" {
		return measure(args[1:])
	}
	return fmt.Errorf("want files COUNT BYTES DIR, big BYTES FILE or time PROGRAM ARGUMENT..., got %q", args)
}

// measure runs a command and prints its processor time in nanoseconds and the
// most memory it had resident, in kibibytes.
func measure(args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %q: %w", args, err)
	}
	used, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return fmt.Errorf("this system does not say what %q used", args)
	}
	fmt.Println(used.Utime.Nano()+used.Stime.Nano(), used.Maxrss)
	return nil
}
