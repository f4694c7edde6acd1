package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is what a RUN runs.
type Process struct {
	Args     []string // Args[0] is looked up in PATH of Env
	Env      []string // complete
	Dir      string   // absolute, exists
	UID, GID int
	Groups   []int     // supplementary
	Stdout   io.Writer // nil discards
	Stderr   io.Writer // nil discards

	Hostname  string  // DefaultHostname if empty; not in place
	Mounts    []Mount // in the order in which they are made
	NoNetwork bool    // the process has a network of its own with nothing but loopback; not in place
}

// DefaultHostname is the name of the machine that a process sees, which is
// BuildKit's.
const DefaultHostname = "buildkitsandbox"

// spec is what the child reads before it becomes the process.
type spec struct {
	Args   []string `json:"args"`
	Env    []string `json:"env"`
	Dir    string   `json:"dir"`
	UID    int      `json:"uid"`
	GID    int      `json:"gid"`
	Groups []int    `json:"groups"`

	Root      string  `json:"root"` // "" runs in place
	FreshProc bool    `json:"freshProc"`
	User      bool    `json:"user"`
	Mounts    []mount `json:"mounts"`
	Given     []Mount `json:"given"`
	Memory    string  `json:"memory"` // empty directory for what is given in memory
	NoNetwork bool    `json:"noNetwork"`
	Hostname  string  `json:"hostname"`
}

// mount is a file or directory of the executor that the process sees.
type mount struct {
	Source string `json:"source"`
	Target string `json:"target"` // clean name below the root
}

// Descriptors that the child finds open.
const (
	specFD  = 3
	errorFD = 4
)

// run starts the child, waits for it and for everything it left behind, and
// returns an *ExitError if it did not end with status 0.
func run(ctx context.Context, s spec, p Process, cloneflags uintptr) error {
	var files pipes
	defer files.close()
	specR, specW, err := files.open()
	if err != nil {
		return err
	}
	errR, errW, err := files.open()
	if err != nil {
		return err
	}
	told, tell, err := files.open()
	if err != nil {
		return err
	}
	// In a pid namespace of its own the child is the init of everything it
	// starts, which dies with it. Elsewhere a keeper sees to that.
	own := cloneflags&unix.CLONE_NEWPID != 0
	cmd, end := command(roleRun), unix.SIGKILL
	cmd.ExtraFiles = []*os.File{specR, errW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if own {
		cmd.SysProcAttr.Cloneflags = cloneflags
	} else {
		cmd, end = keeper(cmd, cloneflags, tell), unix.SIGTERM
	}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start process: %w", err)
	}
	_, _, _ = specR.Close(), errW.Close(), tell.Close()
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(cmd.Process.Pid, end) })
	defer stop()
	encErr := json.NewEncoder(specW).Encode(s)
	_ = specW.Close()
	said, _ := io.ReadAll(io.LimitReader(errR, 4096))
	err = cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(said) > 0 {
		return startError(string(said))
	}
	if !own {
		return errors.Join(kept(told, ignoreWaitDelay(err)), encErr)
	}
	return exitError(errors.Join(err, encErr))
}

// pipes are those between the executor and a child.
type pipes []*os.File

func (p *pipes) open() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, fmt.Errorf("start process: %w", err)
	}
	*p = append(*p, r, w)
	return r, w, nil
}

func (p *pipes) close() {
	for _, f := range *p {
		_ = f.Close() // most are by now
	}
}

// startError turns what the child said before it could become the process
// into an error; a program that is not there has the shell's status for it.
func startError(said string) error {
	kind, text, _ := strings.Cut(said, "\n")
	switch kind {
	case "127":
		return fmt.Errorf("%s: %w", text, &ExitError{Code: 127})
	case "126":
		return fmt.Errorf("%s: %w", text, &ExitError{Code: 126})
	}
	return fmt.Errorf("start process: %s", text)
}

func exitError(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if err != nil {
			return fmt.Errorf("run process: %w", err)
		}
		return nil
	}
	if st, ok := exit.Sys().(syscall.WaitStatus); ok {
		return endedWith(st)
	}
	return &ExitError{Code: exit.ExitCode()}
}
