package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A RUN that has no pid namespace has a keeper instead: a process between it and the
// executor, which inherits all that the RUN leaves behind, and nothing else, and ends it.

// statusFD is where the keeper writes how the process of the RUN ended.
const statusFD = 5

// keeper is the command that runs another one of a RUN in namespaces of its own.
func keeper(run *exec.Cmd, cloneflags uintptr, tell *os.File) *exec.Cmd {
	cmd := command(roleKeep, strconv.FormatUint(uint64(cloneflags), 10))
	cmd.ExtraFiles, cmd.SysProcAttr = append(run.ExtraFiles, tell), run.SysProcAttr
	cmd.WaitDelay = leftoverDelay
	return cmd
}

// keepChild is the keeper. Its argument is the flags of the namespaces of the RUN.
func keepChild(args []string, stdout, stderr io.Writer) int {
	runtime.LockOSThread() // death signals are tied to threads
	said, told := os.NewFile(errorFD, "errors"), os.NewFile(statusFD, "status")
	unix.CloseOnExec(statusFD)
	status, err := keep(args, said, stdout, stderr)
	if err != nil {
		fmt.Fprintf(said, "1\n%v", err)
		return 1
	}
	if err := binary.Write(told, binary.NativeEndian, uint32(status)); err != nil {
		return 1
	}
	return 0
}

// keep starts the process of a RUN, waits for it and ends what it left. SIGTERM ends
// it before.
func keep(args []string, said *os.File, stdout, stderr io.Writer) (syscall.WaitStatus, error) {
	if len(args) != 1 {
		return 0, errors.New("the flags of the namespaces are missing")
	}
	flags, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("flags of the namespaces: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return 0, fmt.Errorf("set death signal: %w", err)
	}
	if err := errors.Join(Undumpable(), becomeSubreaper()); err != nil {
		return 0, err
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	given := os.NewFile(specFD, "spec")
	cmd := command(roleRun)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = []string{}, "/", stdout, stderr
	cmd.ExtraFiles = []*os.File{given, said}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: uintptr(flags), Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, _ = given.Close(), said.Close()
	go func() {
		<-end
		_ = unix.Kill(cmd.Process.Pid, unix.SIGKILL)
	}()
	_ = cmd.Wait() // how it ended is in its state
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		status = 1 << 8
	}
	if err := reapLeftovers(); err != nil {
		fmt.Fprintln(stderr, err)
		return 0, err // as if it had not said how the process ended
	}
	return status, nil
}

// kept is how the process of a RUN ended, as its keeper told.
func kept(told io.Reader, err error) error {
	var status uint32
	if rerr := binary.Read(told, binary.NativeEndian, &status); rerr != nil {
		return errors.Join(err, fmt.Errorf("learn how the process ended: %w", rerr))
	}
	return endedWith(syscall.WaitStatus(status))
}

// endedWith is the error of a status; nil for 0.
func endedWith(st syscall.WaitStatus) error {
	switch {
	case st.Signaled():
		return &ExitError{Code: 128 + int(st.Signal()), Signal: unix.SignalName(st.Signal())}
	case st.ExitStatus() != 0:
		return &ExitError{Code: st.ExitStatus()}
	}
	return nil
}

// ignoreWaitDelay is for output that something held open for a moment too long.
func ignoreWaitDelay(err error) error {
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}
