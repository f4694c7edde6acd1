// Package process runs servers and builders for tests so that nothing of them
// outlives the test: they die with it, and what they mount is seen by them only.
package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// grace is how long a process may take to stop before it is killed.
const grace = 10 * time.Second

// tailLines is how much of its output an error quotes.
const tailLines = 20

// Server is a running process.
type Server struct {
	name string
	cmd  *exec.Cmd
	out  *tail
	done chan struct{}
	err  error // of Wait, once done is closed
}

// Start starts a server. Every line that it prints goes to log, which may be
// nil, and to watch, which may be nil and must not block. With privateMounts,
// which needs root, it has a mount namespace of its own, which ends with it.
func Start(name string, cmd *exec.Cmd, privateMounts bool, log io.Writer, watch func(line string)) (*Server, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if privateMounts {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	s := &Server{name: name, cmd: cmd, out: &tail{log: log, watch: watch}, done: make(chan struct{})}
	started := make(chan error)
	go s.run(w, started)
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), r.Close())
	}
	go s.out.read(r)
	return s, nil
}

// run starts the process and waits for it, on one thread: the kernel sends the
// parent-death signal when the thread that started a process ends.
func (s *Server) run(w *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := s.cmd.Start()
	err = errors.Join(err, w.Close())
	started <- err
	if err != nil {
		return
	}
	s.err = s.cmd.Wait()
	close(s.done)
}

// Done is closed when the process has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Failure describes the end of a process that should still be running, with
// the last lines it printed.
func (s *Server) Failure() error {
	return fmt.Errorf("%s ended: %w; its last words:\n%s", s.name, errors.Join(s.err, errors.New("too early")), s.out)
}

// Last returns the last lines that the server printed.
func (s *Server) Last() string { return s.out.String() }

// Stop asks the process to end, kills its process group if it does not in time
// and waits until it has ended. Stopping again does nothing.
func (s *Server) Stop() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(grace):
	}
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", s.name, err)
	}
	<-s.done
	return nil
}

// Run runs a command, made by exec.CommandContext with the same ctx, to its end
// and returns what it printed on stdout. An error wraps that of cmd.Run and
// quotes the end of stderr. All of stderr goes to log, which may be nil. On
// cancellation the command's process group is killed.
func Run(ctx context.Context, cmd *exec.Cmd, log io.Writer) ([]byte, error) {
	var stdout bytes.Buffer
	errs := &tail{log: log}
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = grace
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	errs.flush()
	if cause := context.Cause(ctx); cause != nil {
		return stdout.Bytes(), fmt.Errorf("run %s: %w", cmd.Args[0], cause)
	}
	if err != nil {
		return stdout.Bytes(), fmt.Errorf("run %q: %w; its last words:\n%s", cmd.Args, err, errs)
	}
	return stdout.Bytes(), nil
}

// tail passes lines on and remembers the last of them.
type tail struct {
	log   io.Writer
	watch func(string)

	mu      sync.Mutex
	lines   []string
	partial []byte
}

func (t *tail) read(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			t.add(string(bytes.TrimRight(line, "\n")))
		}
		if err != nil {
			return
		}
	}
}

// Write is for commands that are run to their end.
func (t *tail) Write(p []byte) (int, error) {
	t.partial = append(t.partial, p...)
	for {
		i := bytes.IndexByte(t.partial, '\n')
		if i < 0 {
			return len(p), nil
		}
		t.add(string(t.partial[:i]))
		t.partial = t.partial[i+1:]
	}
}

func (t *tail) flush() {
	if len(t.partial) > 0 {
		t.add(string(t.partial))
		t.partial = nil
	}
}

func (t *tail) add(line string) {
	t.mu.Lock()
	t.lines = append(t.lines, line)
	if len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
	t.mu.Unlock()
	if t.log != nil {
		fmt.Fprintln(t.log, line)
	}
	if t.watch != nil {
		t.watch(line)
	}
}

// String returns the remembered lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out bytes.Buffer
	for _, l := range t.lines {
		out.WriteString(l + "\n")
	}
	return out.String()
}
