package launch

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/events"
)

// The outcome of what starved is what it starved of, and a success is never
// taken away.
func TestDerive(t *testing.T) {
	failed := func(class events.Class, exit int) *events.Result {
		return &events.Result{Outcome: events.OutcomeFailed, Class: class, Message: "said itself", ExitCode: exit}
	}
	for _, tc := range []struct {
		name    string
		e       ending
		outcome events.Outcome
		class   events.Class
		message string
	}{
		{"success though stopped", ending{result: &events.Result{Outcome: "success"}, cancelled: true, timedOut: true, diskFull: true, signal: syscall.SIGKILL}, "success", "", ""},
		{"killed for memory", ending{signal: syscall.SIGKILL, exitCode: 137, oom: true}, "failed", "oom", "memory ran out"},
		{"RUN killed for memory", ending{result: failed("build", 137), exitCode: 137, oom: true}, "failed", "oom", "said itself"},
		{"somebody else killed for memory", ending{result: failed("build", 2), exitCode: 2, oom: true}, "failed", "build", "said itself"},
		{"killed", ending{signal: syscall.SIGKILL, exitCode: 137}, "error", "infra", "signal 9"},
		{"disk full, no result", ending{exitCode: 1, diskFull: true}, "failed", "disk", "no space"},
		{"disk full, RUN failed", ending{result: failed("build", 1), exitCode: 1, diskFull: true}, "failed", "disk", "said itself"},
		{"disk full, syntax error", ending{result: failed("config", 1), exitCode: 1, diskFull: true}, "failed", "config", "said itself"},
		{"RUN says the disk is full", ending{result: failed("build", 1), lastWords: "head: error writing: No space left on device"}, "failed", "disk", "said itself"},
		{"cancelled", ending{result: failed("build", 1), cancelled: true}, "cancelled", "", "was cancelled"},
		{"timed out", ending{result: failed("build", 143), timedOut: true, timeout: time.Minute}, "failed", "timeout", "1m0s"},
		{"not started", ending{startErr: errors.New("exec: not found")}, "error", "infra-start", "not found"},
		{"no result", ending{}, "error", "infra", "status 0 and left no result"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := derive(tc.e)
			if res.Outcome != tc.outcome || res.Class != tc.class || !strings.Contains(res.Message, tc.message) || res.Validate() != nil {
				t.Errorf("%+v", res)
			}
		})
	}
}

// Whatever a process prints becomes lines, none of them endless.
func TestLineWriter(t *testing.T) {
	in := "one\n\ntwo\r\n" + strings.Repeat("x", 3*maxLine) + "\nlast"
	for name, r := range map[string]io.Reader{"bytes": iotest.OneByteReader(strings.NewReader(in)), "all": strings.NewReader(in)} {
		var got []string
		w := &lineWriter{emit: func(l []byte) { got = append(got, string(l)) }}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
		w.flush()
		if strings.Join(got[:3], "|") != "one||two\r" || got[len(got)-1] != "last" || len(strings.Join(got, "")) != len(in)-4 {
			t.Errorf("%s: %d lines", name, len(got))
		}
	}
}

// The log keeps notes and results beyond its limit but no output; what is not
// progress becomes a note; a line that a crash cut short is ended.
func TestBuildLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), logName)
	if err := os.WriteFile(path, []byte(`{"kind":"output","te`), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(path, "", time.Now, 1000, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		l.take([]byte(`{"kind":"output","text":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`))
	}
	l.take([]byte("panic: \xff"))
	l.take([]byte(`{"no":"kind"}`))
	l.take([]byte(`  `))
	l.take([]byte(`{"kind":"result","error":"it broke"}`))
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if err != nil || len(data) > 2000 || !strings.Contains(lines[0], `"te`) || !strings.HasPrefix(lines[1], `{"kind":"output"`) {
		t.Errorf("%v %d bytes %q", err, len(data), lines[:2])
	}
	for _, want := range []string{"further output is left out", `panic: `, `"result"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %q in %s", want, data)
		}
	}
	if got := l.lastWords(); !strings.HasSuffix(got, "it broke") || strings.Contains(got, "\n") {
		t.Errorf("last words %q", got)
	}
}

// A log on a full disk says so and does not stop the build.
func TestBuildLogFull(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		need.Missing(t, "/dev/full")
	}
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := &buildLog{now: time.Now, limit: 1 << 20, wake: func() {}, file: f}
	l.note("anything")
	if !l.diskFull() {
		t.Error("not noticed")
	}
	f.Close()
}

// A follower sees lines as they come, whole, and the end.
func TestFollow(t *testing.T) {
	fx := open(t, t.TempDir(), nil)
	if _, err := fx.Log(t.Context(), "nobody", 0, true, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unknown build: %v", err)
	}
	req := request(1, "slow")
	if err := fx.Launch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	done := make(chan error)
	go func() {
		_, err := fx.Log(t.Context(), req.BuildID, 0, true, func(p []byte) error {
			lines <- string(p)
			return nil
		})
		done <- err
	}()
	fx.start(t)
	select {
	case got := <-lines:
		if !strings.Contains(got, "slow") || !strings.HasSuffix(got, "\n") {
			t.Errorf("%q", got)
		}
		if st, ok := fx.Status(req.BuildID); !ok || st.State != Running {
			t.Errorf("the line came only when the build was %v", st)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no line")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The kernel's counters are read, and a missing file is no error.
func TestCounters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory.events")
	if err := os.WriteFile(path, []byte("low 0\noom 3\noom_kill 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := killsIn(path); n != 2 {
		t.Errorf("%d", n)
	}
	if n := killsIn(path + "x"); n != 0 {
		t.Errorf("%d", n)
	}
	if diskFull(t.TempDir()) {
		t.Error("the disk of the test is full")
	}
	_ = oomKills()
}
