// Package sandbox isolates a build from the machine it runs on, as far as the
// kernel allows, and runs the process of a RUN.
//
// In Overlay mode the executor enters a mount namespace of its own, and a user
// namespace where it lacks CAP_SYS_ADMIN. Every stage is an overlay mount on a
// private directory, and a RUN sees nothing else: it has its own mount, pid,
// ipc and uts namespaces. Nothing outside the work directory is touched and
// nothing is left mounted, however the executor ends.
//
// In InPlace mode the container's own root is the root filesystem of the
// build. It needs no more than a default container has.
//
// What can be had is probed at start and never assumed.
package sandbox

import (
	"errors"
	"fmt"
	"sync"
)

// Mode is how a build is isolated.
type Mode string

// The modes. Auto is Overlay where it can be had and InPlace elsewhere.
const (
	Auto    Mode = "auto"
	Overlay Mode = "overlay"
	InPlace Mode = "inplace"
)

// ParseMode reads the value of --isolation.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Auto, Overlay, InPlace:
		return m, nil
	}
	return "", fmt.Errorf("isolation %q: want auto, overlay or inplace", s)
}

// Namespace is what the executor found it can have in Overlay mode.
type Namespace struct {
	User bool `json:"user"` // a user namespace is needed
	// FreshProc says that a RUN may have its own pid namespace and /proc. If it does
	// not, and the Namespace is from Probe or Inside, the first RUN finds out.
	FreshProc bool `json:"-"`

	ask func() bool
}

// asking returns the Namespace with a question that its first RUN asks.
func (ns Namespace) asking() Namespace {
	ns.ask = sync.OnceValue(canHaveProc)
	return ns
}

func (ns Namespace) hasFreshProc() bool { return ns.FreshProc || ns.ask != nil && ns.ask() }

// ErrNoOverlay is wrapped by the error of Probe: this process cannot have the
// Overlay mode.
var ErrNoOverlay = errors.New("overlay isolation is not available")

// ExitError says that the process of a RUN ended with a status other than 0.
type ExitError struct {
	Code   int    // exit status; 128 plus the number of the signal that killed it
	Signal string // name of that signal, or ""
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("process was killed by %s (exit status %d)", e.Signal, e.Code)
	}
	return fmt.Sprintf("process ended with exit status %d", e.Code)
}
