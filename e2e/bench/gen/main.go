// Command gen is in the images that the benchmark builds on. What it writes is
// what a RUN of a workload writes.
//
//	gen files COUNT BYTES DIR
//	gen big BYTES FILE
package main

import (
	"fmt"
	"os"
	"strconv"

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
	return fmt.Errorf("want files COUNT BYTES DIR or big BYTES FILE, got %q", args)
}
