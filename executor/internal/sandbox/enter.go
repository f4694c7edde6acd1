package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Probe finds out whether this process can have Overlay mode with its
// directories below workDir, by trying in a child. The error wraps
// ErrNoOverlay and says why not, for each way that was tried.
func Probe(ctx context.Context, workDir string) (Namespace, error) {
	if tryOnThread(workDir) == nil {
		return Namespace{}.asking(), nil
	}
	var reasons []string
	for _, user := range []bool{false, true} {
		ns := Namespace{User: user}
		err := probe(ctx, workDir, ns)
		if err == nil {
			return ns.asking(), nil
		}
		if ctx.Err() != nil {
			return Namespace{}, context.Cause(ctx)
		}
		how := "in this process' own user namespace"
		if user {
			how = "in a new user namespace"
		}
		reasons = append(reasons, fmt.Sprintf("%s: %v", how, err))
	}
	return Namespace{}, fmt.Errorf("%w: %s", ErrNoOverlay, strings.Join(reasons, "; "))
}

// tryOnThread tries it on a thread of this process, without a child: that is sooner
// done where no user namespace is needed. Why it does not work is better asked of a child.
func tryOnThread(workDir string) error {
	tried := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = tryOverlay(workDir, Namespace{})
		}
		tried <- err
	}()
	return <-tried
}

func probe(ctx context.Context, workDir string, ns Namespace) error {
	var said, diag bytes.Buffer
	cmd, err := start(ctx, ns, []string{roleProbe, workDir, userFlag(ns)}, nil, func(c *exec.Cmd) {
		c.Stdout, c.Stderr = &said, &diag
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if werr := cmd.Wait(); werr != nil {
		return errors.Join(werr, errors.New(strings.TrimSpace(diag.String())))
	}
	if said.Len() > 0 {
		return errors.New(said.String())
	}
	return nil
}

func userFlag(ns Namespace) string {
	if ns.User {
		return "user"
	}
	return "root"
}

// Enter runs this program again, with the same arguments, inside the
// namespaces that ns names, passes signals on to it and returns its exit
// status. The child gets the standard streams and dies with this process. It is
// terminated when ctx ends: whatever signal did that may have come before there was one.
func Enter(ctx context.Context, ns Namespace, args, env []string, std [3]*os.File) (int, error) {
	carried, err := json.Marshal(ns)
	if err != nil {
		return 1, fmt.Errorf("enter namespace: %w", err)
	}
	env = append(env, namespaceVar+"="+string(carried))
	// The death signal is tied to the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	cmd, err := start(ctx, ns, args, env, func(c *exec.Cmd) {
		c.Stdin, c.Stdout, c.Stderr = std[0], std[1], std[2]
	})
	if err != nil {
		return 1, fmt.Errorf("enter namespace: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) })
	defer stop()
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()
	err = cmd.Wait()
	close(done)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			return 128 + int(st.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("enter namespace: %w", err)
	}
	return 0, nil
}

// start starts this program with args in new namespaces.
func start(ctx context.Context, ns Namespace, args, env []string, set func(*exec.Cmd)) (*exec.Cmd, error) {
	cmd := &exec.Cmd{Path: selfExe, Args: args, Env: env}
	set(cmd)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if !ns.User {
		return cmd, cmd.Start()
	}
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	if os.Geteuid() == 0 {
		uids, err := ownIDs("/proc/self/uid_map")
		if err != nil {
			return nil, err
		}
		gids, err := ownIDs("/proc/self/gid_map")
		if err != nil {
			return nil, err
		}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = uids, gids
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		return cmd, cmd.Start()
	}
	return startMapped(ctx, cmd)
}
