package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kilnhook/kiln/events"
)

// processID names a process so that another one with the same number is not
// taken for it.
type processID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks from boot
	Boot  string `json:"boot"`  // id of the boot
}

// run runs one attempt of a build to its outcome, or until ctx is done.
func (l *Launcher) run(ctx context.Context, b *build) {
	id := b.Request.BuildID
	wake := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		b.tell()
	}
	log, err := l.openLog(b.Request, wake)
	var res events.Result
	if err != nil {
		now := l.cfg.Now().UTC()
		res = derive(ending{startErr: err, started: now, finished: now, diskFull: diskFull(l.cfg.Dir)})
	} else {
		var ended bool
		res, ended = l.attempt(ctx, b, log)
		l.removeWork(id)
		if err := log.close(); err != nil {
			l.cfg.Log.Warn("close build log", "build", id, "err", err)
		}
		if !ended {
			return
		}
	}
	l.mu.Lock()
	l.queue.Done(id)
	b.State, b.Since, b.Outcome, b.announcing = Finishing, l.cfg.Now().UTC(), &res, true
	if err := l.save(b); err != nil {
		l.cfg.Log.Warn("note outcome of build", "build", id, "err", err)
	}
	b.tell()
	l.mu.Unlock()
	l.poke()
	l.finish(ctx, b)
}

// openLog opens the log of a build. A part has that of its whole.
func (l *Launcher) openLog(req events.Request, wake func()) (*buildLog, error) {
	if err := os.MkdirAll(l.path(req.Whole()), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of log: %w", err)
	}
	platform := ""
	if req.PartOf != "" {
		platform = req.Platform
	}
	return openLog(l.path(req.Whole(), logName), platform, l.cfg.Now, l.cfg.MaxLog, wake)
}

// attempt runs the executor once. ended is false if the stack stopped first.
func (l *Launcher) attempt(ctx context.Context, b *build, log *buildLog) (res events.Result, ended bool) {
	req := b.Request
	e := ending{timeout: l.cfg.Timeout, started: l.cfg.Now().UTC()}
	if req.Timeout > 0 {
		e.timeout = req.Timeout
	}
	if req.Attempt > 1 {
		log.note("attempt %d: the stack was restarted while this build ran", req.Attempt)
	}
	if req.Attempt > l.cfg.Attempts {
		return events.Result{
			Outcome: events.OutcomeError, Class: events.ClassInfra, Reason: "too many attempts", StartedAt: e.started, FinishedAt: e.started,
			Message: fmt.Sprintf("the stack died %d times while this build ran; it is not tried again", l.cfg.Attempts),
		}, true
	}
	runCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if !l.arm(b, stop) {
		stop(errCancelled)
	}
	killsBefore := l.oom()
	cmd, err := l.prepare(runCtx, b, log)
	if err == nil {
		e.started = l.cfg.Now().UTC()
		err = l.supervise(runCtx, b, cmd, log, e.timeout, &e)
	}
	l.arm(b, nil)
	why := context.Cause(runCtx)
	switch {
	case errors.Is(why, errCancelled):
		e.cancelled = true
	case ctx.Err() != nil:
		// What the executor said while it was being stopped does not count.
		if err := os.Remove(l.path(req.BuildID, resultName)); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.cfg.Log.Warn("drop result", "build", req.BuildID, "err", err)
		}
		log.note("the stack is stopping; the build starts again with it")
		return events.Result{}, false
	case err != nil:
		e.startErr = err
	}
	e.finished, e.lastWords = l.cfg.Now().UTC(), log.lastWords()
	e.oom = l.oom() > killsBefore
	e.diskFull = log.diskFull() || diskFull(l.cfg.Dir)
	if claimed, err := l.readResult(req.BuildID); err != nil {
		e.resultErr = err
	} else {
		e.result = &claimed
	}
	res = derive(e)
	if res.Outcome != events.OutcomeSuccess && e.result == nil {
		log.line(events.Progress{Kind: events.ProgressResult, Error: res.Message})
	}
	return res, true
}

// arm makes stop the way to end the build's executor; nil disarms it. It
// reports false if the build was cancelled before.
func (l *Launcher) arm(b *build, stop func(error)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.stop = stop
	return !b.cancelled
}

// prepare makes the build's directories and the command to run in them.
func (l *Launcher) prepare(ctx context.Context, b *build, log *buildLog) (*exec.Cmd, error) {
	req := b.Request
	dir, work := l.path(req.BuildID), l.path(req.BuildID, workName)
	l.removeWork(req.BuildID)
	for _, name := range []string{resultName, outcomeName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	for _, d := range []string{"home", "tmp", "build"} {
		if err := os.MkdirAll(filepath.Join(work, d), 0o700); err != nil {
			return nil, err
		}
	}
	from, env := req.Context, []string(nil)
	if l.cfg.Context != nil {
		var err error
		if from, env, err = l.cfg.Context(ctx, req); err != nil {
			return nil, err
		}
	}
	flags := []string{
		"--progress", "json",
		"--result-file", filepath.Join(dir, resultName), "--work-dir", filepath.Join(work, "build"),
	}
	if l.cfg.Store != "" {
		flags = append(flags, "--store-dir", l.cfg.Store)
	}
	if l.cfg.Flags != nil {
		more, err := l.cfg.Flags(ctx, req, func(text string) { log.note("%s", text) })
		if err != nil {
			return nil, err
		}
		flags = append(flags, more...)
	}
	args := append(l.cfg.Executor[1:len(l.cfg.Executor):len(l.cfg.Executor)], Arguments(req, from, flags)...)
	cmd := exec.Command(l.cfg.Executor[0], args...) //nolint:noctx // ended by stopGroup: SIGTERM first, and all of the group
	cmd.Dir = filepath.Join(work, "home")
	cmd.Env = slices.Concat(l.cfg.Env, env, []string{"HOME=" + filepath.Join(work, "home"), "TMPDIR=" + filepath.Join(work, "tmp")})
	if req.TraceParent != "" {
		cmd.Env = append(cmd.Env, "TRACEPARENT="+req.TraceParent)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 2 * time.Second // for output held open by what the executor left behind
	return cmd, nil
}

// supervise starts cmd and waits for it, stopping it when ctx is done or the
// time is up. The error says why it could not be started.
func (l *Launcher) supervise(ctx context.Context, b *build, cmd *exec.Cmd, log *buildLog, timeout time.Duration, e *ending) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	stdout, stderr := &lineWriter{emit: log.take}, &lineWriter{emit: log.take}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	started, waited := make(chan error), make(chan error, 1)
	go func() {
		// The kernel sends the death signal when the thread that started the
		// child ends: this one must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			waited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	l.announceStart(ctx, b, cmd.Process.Pid)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var err error
	select {
	case err = <-waited:
	case <-ctx.Done():
		if why := context.Cause(ctx); errors.Is(why, errCancelled) {
			log.note("stopping: %v", why)
		}
		err = l.stopGroup(ctx, cmd.Process.Pid, waited)
	case <-timer.C:
		e.timedOut = true
		log.note("stopping: the build takes longer than %s", timeout)
		err = l.stopGroup(ctx, cmd.Process.Pid, waited)
	}
	// Whatever is left of its group goes with it.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // ESRCH is the usual answer
	stdout.flush()
	stderr.flush()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			e.signal = ws.Signal()
		}
	}
	e.exitCode = cmd.ProcessState.ExitCode()
	if e.exitCode < 0 {
		e.exitCode = 128 + int(e.signal)
	}
	return nil
}

// announceStart notes and tells that the executor runs.
func (l *Launcher) announceStart(ctx context.Context, b *build, pid int) {
	l.mu.Lock()
	b.Process = identify(pid)
	err := l.save(b)
	l.mu.Unlock()
	if err != nil {
		l.cfg.Log.Warn("note executor", "build", b.Request.BuildID, "err", err)
	}
	if l.cfg.Started == nil {
		return
	}
	if err := l.cfg.Started(ctx, b.Request, l.cfg.Now().UTC()); err != nil {
		l.cfg.Log.Warn("tell that a build started", "build", b.Request.BuildID, "err", err)
	}
}

// stopGroup ends an executor: SIGTERM for itself to end well, and after the
// grace SIGKILL for all of its group. When the stack itself stops, the grace
// is short: the build starts again anyway.
func (l *Launcher) stopGroup(ctx context.Context, pid int, waited <-chan error) error {
	grace := l.cfg.Grace
	if !errors.Is(context.Cause(ctx), errCancelled) && ctx.Err() != nil {
		grace = min(grace, 3*time.Second)
	}
	_ = syscall.Kill(pid, syscall.SIGTERM) // ESRCH: it has ended meanwhile
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case err := <-waited:
		return err
	case <-timer.C:
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		return <-waited
	}
}

// identify names a running process; nil if it has ended.
func identify(pid int) *processID {
	_, start, err := readStat(pid)
	if err != nil {
		return nil
	}
	return &processID{PID: pid, Start: start, Boot: bootID()}
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// readStat returns the session of a process and when it started.
func readStat(pid int) (session int, start uint64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field, the name, may hold anything but ends with the last ")".
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	if session, err = strconv.Atoi(string(fields[3])); err != nil {
		return 0, 0, err
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return session, start, err
}

// killLeft kills what is left of the session that the process led, and returns
// how many processes that were. Nothing is killed after a reboot, or if the
// number was given to a new process since.
func (p *processID) killLeft() int {
	if p.Boot == "" || p.Boot != bootID() {
		return 0
	}
	if _, start, err := readStat(p.PID); err == nil && start != p.Start {
		return 0
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if session, start, err := readStat(pid); err == nil && session == p.PID && start >= p.Start {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				n++
			}
		}
	}
	return n
}
