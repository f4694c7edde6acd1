package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
)

// script is an executor: its first lines find the result file and the target,
// which the tests use to tell it what to do.
const script = `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	--result-file) result=$2 ;;
	--context) context=$2 ;;
	--target) target=$2 ;;
	--work-dir) work=$2 ;;
	esac
	all="$all $1"
	shift
done
finish() { printf '%s' "$1" >"$result.tmp" && mv "$result.tmp" "$result"; }
say() { printf '{"time":"2026-01-02T03:04:05Z","kind":"%s","id":"1.1","text":"%s"}\n' "$1" "$2" >&2; }
ok='{"outcome":"success","digest":"sha256:0123456789012345678901234567890123456789012345678901234567890123"}'
`

// scripts says what the executor does for each target.
const behaviour = `
case $target in
ok) say output "building $context"; echo plain line; : >"$work/f"; finish "$ok" ;;
env) say output "$(env | cut -d= -f1 | sort | tr '\n' ' ')"; finish "$ok" ;;
args) say output "$all"; finish "$ok" ;;
fails) say output 'make: *** error'; finish '{"outcome":"failed","class":"build","message":"RUN make: status 2","exitCode":2}'; exit 2 ;;
silent) say note 'about to go'; exit 3 ;;
garbage) finish '{"outcome":'; exit 0 ;;
kill) say output working; kill -9 $$ ;;
hang) say output hanging; sleep 100 & echo $! >"$context"; wait ;;
stubborn) trap '' TERM; say output hanging; sh -c 'trap "" TERM; echo $$ >"'"$context"'"; sleep 100'; sleep 100 ;;
gentle) trap 'finish "{\"outcome\":\"error\",\"class\":\"infra\",\"message\":\"stopped\"}"; exit 1' TERM; say output hanging; sleep 100 & wait ;;
slow) say output slow; sleep 0.3; finish "$ok" ;;
esac
`

// finisher records outcomes and refuses them while err is set.
type finisher struct {
	mu   sync.Mutex
	err  error
	seen map[string][]events.Result
	more chan struct{}
}

func (f *finisher) finish(_ context.Context, id string, res events.Result) (events.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return res, f.err
	}
	f.seen[id] = append(f.seen[id], res)
	select {
	case f.more <- struct{}{}:
	default:
	}
	return res, nil
}

func (f *finisher) get(id string) []events.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[id]
}

type fixture struct {
	*Launcher
	f       *finisher
	stop    func()
	started chan string
}

// open opens a launcher in dir that runs the script.
func open(t *testing.T, dir string, change func(*Config)) *fixture {
	t.Helper()
	path := filepath.Join(dir, "executor")
	if err := os.WriteFile(path, []byte(script+behaviour), 0o700); err != nil {
		t.Fatal(err)
	}
	fx := &fixture{f: &finisher{seen: map[string][]events.Result{}, more: make(chan struct{}, 1)}, started: make(chan string, 100)}
	cfg := Config{
		Dir: filepath.Join(dir, "builds"), Executor: []string{path}, Env: []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"},
		Grace: 300 * time.Millisecond, Finish: fx.f.finish, Now: time.Now,
		Started: func(_ context.Context, req events.Request, _ time.Time) error {
			fx.started <- req.BuildID
			return nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fx.Launcher = l
	return fx
}

// start runs the launcher until the test ends or stop is called.
func (fx *fixture) start(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = fx.Run(ctx)
	}()
	fx.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(fx.stop)
	return fx
}

func request(n int, target string) events.Request {
	return events.Request{
		BuildID: events.BuildID("test", strconv.Itoa(n)), Trigger: "t", Tenant: "default", Group: "t/g", Attempt: 1,
		Context: "/ctx", Target: target,
		Change: events.Change{Kind: events.KindObject, Location: "kiln://contexts", Name: "a", Generation: "1", Size: 1},
	}
}

// wait waits until the build has an outcome and returns it.
func (fx *fixture) wait(t *testing.T, id string) events.Result {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if _, live := fx.Status(id); !live && len(fx.f.get(id)) > 0 {
			return fx.f.get(id)[0]
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("build %s does not end", id)
		}
	}
}

func (fx *fixture) text(t *testing.T, id string) string {
	t.Helper()
	var all bytes.Buffer
	_, err := fx.Log(t.Context(), id, 0, true, func(p []byte) error {
		all.Write(p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// Every way an executor can end has its outcome, is told once, and leaves the
// log but no work directory.
func TestOutcomes(t *testing.T) {
	for n, tc := range []struct {
		target  string
		outcome events.Outcome
		class   events.Class
		message string
		log     string
		exit    int
	}{
		{"ok", "success", "", "", `"text":"building /ctx"`, 0},
		{"fails", "failed", "build", "RUN make: status 2", "make: ***", 2},
		{"silent", "error", "infra", "status 3 and left no result; its last words: about to go", "about to go", 3},
		{"garbage", "error", "infra", "that can be read (", "", 0},
		{"kill", "error", "infra", "killed by signal 9 (killed)", "working", 137},
		{"hang", "failed", "timeout", "longer than 500ms", "hanging", 143},
		{"gentle", "failed", "timeout", "longer than 500ms", "stopping: the build takes longer", 0},
	} {
		t.Run(tc.target, func(t *testing.T) {
			fx := open(t, t.TempDir(), nil).start(t)
			req := request(n, tc.target)
			if tc.target == "hang" || tc.target == "gentle" {
				req.Context, req.Timeout = filepath.Join(t.TempDir(), "pid"), 500*time.Millisecond
			}
			if err := fx.Launch(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			res := fx.wait(t, req.BuildID)
			if res.Outcome != tc.outcome || res.Class != tc.class || !strings.Contains(res.Message, tc.message) || res.ExitCode != tc.exit {
				t.Errorf("%+v, want %+v", res, tc)
			}
			if res.StartedAt.IsZero() || res.FinishedAt.Before(res.StartedAt) || res.Validate() != nil {
				t.Errorf("%+v", res)
			}
			log := fx.text(t, req.BuildID)
			if !strings.Contains(log, tc.log) {
				t.Errorf("log %s", log)
			}
			for line := range strings.Lines(log) {
				var p events.Progress
				if err := json.Unmarshal([]byte(line), &p); err != nil || p.Kind == "" || p.Time.IsZero() {
					t.Errorf("line %q: %v", line, err)
				}
			}
			if n := len(fx.f.get(req.BuildID)); n != 1 {
				t.Errorf("told %d times", n)
			}
			if _, err := os.Stat(fx.path(req.BuildID, workName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("work directory: %v", err)
			}
		})
	}
}

// The executor gets the request's flags and an environment of its own.
func TestCommandLine(t *testing.T) {
	t.Setenv("SECRET_OF_THE_STACK", "x")
	fx := open(t, t.TempDir(), func(c *Config) {
		c.Context = func(_ context.Context, r events.Request) (string, []string, error) {
			return "tar://" + r.Context, []string{"GIT_PULL_METHOD=http"}, nil
		}
		c.Flags = func(_ context.Context, _ events.Request, say func(string)) ([]string, error) {
			say("making the base image")
			return []string{"--registry-map", "a=b"}, nil
		}
	}).start(t)
	env, args := request(1, "env"), request(2, "args")
	args.Args, args.Labels = map[string]string{"B": "2", "A": "1 x"}, map[string]string{"l": "v"}
	args.Image, args.Dockerfile, args.ContextSubPath = "127.0.0.1:1/app", "build/Dockerfile", "sub"
	for _, r := range []events.Request{env, args} {
		if err := fx.Launch(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		fx.wait(t, r.BuildID)
	}
	if log := fx.text(t, env.BuildID); !strings.Contains(log, `"GIT_PULL_METHOD HOME LANG PATH PWD TMPDIR `) && !strings.Contains(log, `"GIT_PULL_METHOD HOME LANG OLDPWD PATH PWD TMPDIR `) {
		t.Errorf("environment: %s", log)
	}
	want := "--context --context-sub-path --dockerfile --target --build-arg --build-arg --label --destination --push-by-digest --progress --result-file --work-dir --registry-map"
	got := fx.text(t, args.BuildID)
	i := 0
	for _, flag := range strings.Fields(want) {
		at := strings.Index(got[i:], flag)
		if at < 0 {
			t.Fatalf("no %s in order in %s", flag, got)
		}
		i += at + len(flag)
	}
	if !strings.Contains(got, "making the base image") {
		t.Errorf("log %s", got)
	}
	list := Arguments(args, "tar:///x", nil)
	if s := strings.Join(list, "|"); !strings.Contains(s, "--build-arg|A=1 x|--build-arg|B=2|--label|l=v|--destination|127.0.0.1:1/app|--push-by-digest") {
		t.Errorf("%s", s)
	}
	if s := strings.Join(Arguments(env, "x", nil), " "); !strings.Contains(s, "--no-push") || strings.Contains(s, "--destination") {
		t.Errorf("%s", s)
	}
}

// Launching a build again, at once or after it ended, is launching it once; a
// higher attempt is another launch.
func TestLaunchTwice(t *testing.T) {
	fx := open(t, t.TempDir(), nil).start(t)
	req := request(1, "slow")
	var wg sync.WaitGroup
	var mu sync.Mutex
	accepted := 0
	for range 50 {
		wg.Go(func() {
			err := fx.Launch(context.Background(), req)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				accepted++
			} else if !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fx.wait(t, req.BuildID)
	if err := fx.Launch(t.Context(), req); !errors.Is(err, fs.ErrExist) || accepted != 1 || len(fx.started) != 1 {
		t.Errorf("%v, accepted %d, started %d", err, accepted, len(fx.started))
	}
	req.Attempt = 2
	if err := fx.Launch(t.Context(), req); err != nil {
		t.Error(err)
	}
	if err := fx.Launch(t.Context(), events.Request{BuildID: "../../x"}); err == nil || errors.Is(err, fs.ErrExist) {
		t.Errorf("a request without sense: %v", err)
	}
}

// Never more builds run at a time than allowed.
func TestParallel(t *testing.T) {
	var mu sync.Mutex
	running, most := map[string]bool{}, 0
	fx := open(t, t.TempDir(), func(c *Config) {
		c.Parallel = 2
		started := c.Started
		c.Started = func(ctx context.Context, r events.Request, at time.Time) error {
			mu.Lock()
			running[r.BuildID] = true
			most = max(most, len(running))
			mu.Unlock()
			return started(ctx, r, at)
		}
		finish := c.Finish
		c.Finish = func(ctx context.Context, id string, res events.Result) (events.Result, error) {
			mu.Lock()
			delete(running, id)
			mu.Unlock()
			return finish(ctx, id, res)
		}
	}).start(t)
	for i := range 6 {
		if err := fx.Launch(t.Context(), request(i, "slow")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 6 {
		fx.wait(t, request(i, "").BuildID)
	}
	if most != 2 {
		t.Errorf("%d ran at a time", most)
	}
}

// A cancelled build that waits never starts; one that runs is stopped with all
// of its processes, however stubborn.
func TestCancel(t *testing.T) {
	dir := t.TempDir()
	fx := open(t, dir, func(c *Config) { c.Parallel = 1 })
	first, second := request(1, "stubborn"), request(2, "ok")
	first.Context = filepath.Join(dir, "pid")
	for _, r := range []events.Request{first, second} {
		if err := fx.Launch(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if st, ok := fx.Status(second.BuildID); !ok || st.State != Queued || st.Position != 2 {
		t.Errorf("%+v %v", st, ok)
	}
	fx.start(t)
	<-fx.started
	pid := readPID(t, first.Context)
	if err := fx.Cancel(t.Context(), second.BuildID); err != nil {
		t.Fatal(err)
	}
	if res := fx.wait(t, second.BuildID); res.Outcome != "cancelled" || !strings.Contains(res.Message, "before it started") {
		t.Errorf("%+v", res)
	}
	if err := errors.Join(fx.Cancel(t.Context(), first.BuildID), fx.Cancel(t.Context(), "nobody")); err != nil {
		t.Fatal(err)
	}
	if res := fx.wait(t, first.BuildID); res.Outcome != "cancelled" {
		t.Errorf("%+v", res)
	}
	if alive(pid) {
		t.Errorf("process %d is alive", pid)
	}
	if len(fx.started) != 0 {
		t.Error("the cancelled build was started")
	}
}

func readPID(t *testing.T, path string) int {
	t.Helper()
	for range 1000 {
		data, err := os.ReadFile(path)
		if pid, aerr := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && aerr == nil {
			return pid
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("no process id in %s", path)
	return 0
}

// alive reports whether a process runs; one that only waits to be reaped does
// not.
func alive(pid int) bool {
	for range 200 {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(data), ") Z ") {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}

// After a restart, what waited waits in the same order; what ran is gone and
// may be launched as another attempt; what had ended is told; what was told
// stays told, and logs are there.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	fx := open(t, dir, func(c *Config) { c.Parallel = 1 })
	ran, waited, later := request(1, "gentle"), request(2, "ok"), request(3, "ok")
	for _, r := range []events.Request{ran, waited, later} {
		if err := fx.Launch(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	fx.start(t)
	for {
		if data, err := os.ReadFile(fx.path(ran.BuildID, logName)); err == nil && strings.Contains(string(data), "hanging") {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	fx.stop()
	if got := fx.f.get(ran.BuildID); got != nil {
		t.Errorf("a build that the stack stopped was finished: %+v", got)
	}

	fx = open(t, dir, func(c *Config) { c.Parallel = 1 })
	if err := fx.Launch(t.Context(), waited); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the waiting build was forgotten: %v", err)
	}
	if st, _ := fx.Status(later.BuildID); st.Position != 2 {
		t.Errorf("%+v", st)
	}
	ran.Attempt, ran.Target = 2, "ok"
	if err := fx.Launch(t.Context(), ran); err != nil {
		t.Fatal(err)
	}
	fx.start(t)
	for _, r := range []events.Request{waited, later, ran} {
		if res := fx.wait(t, r.BuildID); res.Outcome != "success" {
			t.Errorf("%+v", res)
		}
	}
	order := []string{<-fx.started, <-fx.started, <-fx.started}
	if order[0] != waited.BuildID || order[1] != later.BuildID || order[2] != ran.BuildID {
		t.Errorf("started in the order %v", order)
	}
	log := fx.text(t, ran.BuildID)
	if !strings.Contains(log, "hanging") || !strings.Contains(log, "the stack is stopping") || !strings.Contains(log, "attempt 2") || !strings.Contains(log, "building") {
		t.Errorf("log %s", log)
	}
	fx.stop()
	fx = open(t, dir, nil)
	if !fx.Idle() || !strings.Contains(fx.text(t, ran.BuildID), "hanging") {
		t.Error("an ended build came back, or its log is gone")
	}
}

// An outcome that could not be announced is announced later, also by the next
// stack, with the executor not run again.
func TestFinishTriedAgain(t *testing.T) {
	dir := t.TempDir()
	fx := open(t, dir, nil)
	fx.f.err = errors.New("ledger is down")
	req := request(1, "fails")
	if err := fx.Launch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	fx.start(t)
	for {
		if st, _ := fx.Status(req.BuildID); st.State == Finishing {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	fx.stop()
	fx = open(t, dir, nil).start(t)
	if res := fx.wait(t, req.BuildID); res.Class != "build" || len(fx.started) != 0 {
		t.Errorf("%+v, started %d", res, len(fx.started))
	}
}

// An executor that finished while nobody watched is believed, and is not run
// again.
func TestFinishedUnseen(t *testing.T) {
	dir := t.TempDir()
	fx := open(t, dir, nil)
	req := request(1, "ok")
	b := &build{live: live{Request: req, State: Running}}
	err := errors.Join(os.MkdirAll(fx.path(req.BuildID, workName, "locked"), 0o700), os.Chmod(fx.path(req.BuildID, workName, "locked"), 0),
		os.WriteFile(fx.path(req.BuildID, resultName), []byte(`{"outcome":"failed","class":"build","message":"m"}`), 0o600), fx.save(b))
	if err != nil {
		t.Fatal(err)
	}
	fx = open(t, dir, nil).start(t)
	if res := fx.wait(t, req.BuildID); res.Message != "m" || len(fx.started) != 0 {
		t.Errorf("%+v", res)
	}
	if _, err := os.Stat(fx.path(req.BuildID, workName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("work directory: %v", err)
	}
}

// A build that takes the stack down every time is given up.
func TestTooManyAttempts(t *testing.T) {
	fx := open(t, t.TempDir(), nil).start(t)
	req := request(1, "ok")
	req.Attempt = 4
	if err := fx.Launch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if res := fx.wait(t, req.BuildID); res.Outcome != "error" || !strings.Contains(res.Message, "died 3 times") {
		t.Errorf("%+v", res)
	}
}

// An executor that cannot be started is an outcome, not a hang.
func TestNoExecutor(t *testing.T) {
	fx := open(t, t.TempDir(), func(c *Config) { c.Executor = []string{"/nonexistent/executor"} }).start(t)
	req := request(1, "ok")
	if err := fx.Launch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if res := fx.wait(t, req.BuildID); res.Class != events.ClassInfraStart || !strings.Contains(res.Message, "/nonexistent/executor") {
		t.Errorf("%+v", res)
	}
}

// When the stack is killed, its executors die with it, and the next stack
// kills what they left.
func TestStackKilled(t *testing.T) {
	if os.Getenv("LAUNCH_TEST_STACK") != "" {
		fx := open(t, os.Getenv("LAUNCH_TEST_STACK"), nil).start(t)
		req := request(1, "stubborn")
		req.Context = filepath.Join(os.Getenv("LAUNCH_TEST_STACK"), "pid")
		if err := fx.Launch(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		<-fx.started
		time.Sleep(time.Minute)
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestStackKilled$")
	cmd.Env = append(os.Environ(), "LAUNCH_TEST_STACK="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := readPID(t, filepath.Join(dir, "pid"))
	var b build
	for b.Process == nil {
		if data, err := os.ReadFile(filepath.Join(dir, "builds", liveName, request(1, "").BuildID+".json")); err == nil {
			_ = json.Unmarshal(data, &b.live)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if alive(b.Process.PID) {
		t.Error("the executor outlives the stack")
	}
	open(t, dir, nil)
	if alive(child) {
		t.Error("the executor's child outlives the next start")
	}
}

// The parts of a build write one log, in which they are kept apart, and the whole
// stands where they do.
func TestPartsOfABuild(t *testing.T) {
	fx := open(t, t.TempDir(), nil)
	whole := request(1, "ok")
	whole.Platforms = []string{"linux/amd64", "linux/arm64"}
	if err := fx.Launch(t.Context(), whole); err == nil || !strings.Contains(err.Error(), "each is launched as a part") {
		t.Errorf("the whole was launched: %v", err)
	}
	parts := whole.Parts()
	parts[1].Target = "fails"
	for _, part := range parts {
		if err := fx.Launch(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	if st, ok := fx.Status(whole.BuildID); !ok || st.State != Queued || st.Position != 1 {
		t.Errorf("the whole is %+v, %v", st, ok)
	}
	fx.start(t)
	text := fx.text(t, whole.BuildID) // follows until both have ended
	if _, ok := fx.Status(whole.BuildID); ok {
		t.Error("the whole has not ended")
	}
	if got := fx.wait(t, parts[0].BuildID); got.Outcome != events.OutcomeSuccess {
		t.Errorf("%+v", got)
	}
	if got := fx.wait(t, parts[1].BuildID); got.Outcome != events.OutcomeFailed {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{
		`"id":"linux/amd64 1.1","text":"building /ctx","platform":"linux/amd64"`,
		`"kind":"note","text":"linux/amd64: plain line","platform":"linux/amd64"`,
		`"id":"linux/arm64 1.1","text":"make: *** error","platform":"linux/arm64"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if _, err := os.Stat(fx.path(parts[0].BuildID, logName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a part has a log of its own: %v", err)
	}
}
