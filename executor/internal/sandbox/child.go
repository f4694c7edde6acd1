package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// The executor starts itself again to act inside a namespace. The first
// argument says as what.
const (
	roleRun   = "kiln-sandbox-run"
	roleKeep  = "kiln-sandbox-keep"
	roleProbe = "kiln-sandbox-probe"
	roleEnter = "kiln-sandbox-enter"
)

// namespaceVar carries the Namespace to the executor inside of it. It is never
// part of a RUN's environment.
const namespaceVar = "KILN_NAMESPACE"

const selfExe = "/proc/self/exe"

// Child acts if this process was started by the sandbox for a role, and then
// returns true and the exit status; for most roles it does not return at all.
// main calls it before anything else, with what it was itself given.
func Child(args, env []string, stdout, stderr io.Writer) (status int, acted bool) {
	if len(args) == 0 {
		return 0, false
	}
	switch args[0] {
	case roleRun:
		return runChild(), true
	case roleKeep:
		return keepChild(args[1:], stdout, stderr), true
	case roleProbe:
		return probeChild(args[1:], stdout), true
	case roleEnter:
		return enterChild(args[1:], env, stderr), true
	}
	return 0, false
}

// Inside returns the Namespace that this executor was started in by Enter, or
// false if it was started by somebody else. lookup is os.LookupEnv.
func Inside(lookup func(string) (string, bool)) (Namespace, bool) {
	v, ok := lookup(namespaceVar)
	if !ok {
		return Namespace{}, false
	}
	var ns Namespace
	if err := json.Unmarshal([]byte(v), &ns); err != nil {
		return Namespace{}, false
	}
	return ns.asking(), true
}

// enterChild waits until its ids are mapped and becomes the program proper:
// only an exec after the mapping gives the capabilities of the namespace's
// root. Its arguments are the descriptor to wait on and the program's own.
func enterChild(args, env []string, stderr io.Writer) int {
	fd, err := strconv.Atoi(args[0])
	if err == nil {
		f := os.NewFile(uintptr(fd), "mapped")
		_, err = io.ReadFull(f, make([]byte, 1))
		_ = f.Close()
	}
	if err == nil {
		err = syscall.Exec(selfExe, args[1:], env)
	}
	fmt.Fprintf(stderr, "enter namespace: %v\n", err)
	return 1
}

// command is an exec.Cmd of this very program in a role.
func command(role string, args ...string) *exec.Cmd {
	return &exec.Cmd{Path: selfExe, Args: append([]string{role}, args...)}
}
