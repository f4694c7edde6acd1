package stack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/stackd"
	"github.com/kilnhook/kiln/events"
)

func tarball(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for name, body := range files {
		check(t, tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}))
		_, err := tw.Write([]byte(body))
		check(t, err)
	}
	check(t, tw.Close())
	check(t, zw.Close())
	return buf.Bytes()
}

// Whatever arrives ends in one build.finished that says what was wrong where,
// or is refused at the door, and the next build works.
func TestBadInput(t *testing.T) {
	s := start(t)
	sub := s.subscribe(t)
	good := tarball(t, map[string]string{"Dockerfile": working, "hello": "x"})
	n := 0
	for _, c := range []struct {
		name    string
		content []byte
		class   string
		message []string
	}{
		{"an entry that leads out", tarball(t, map[string]string{"Dockerfile": working, "../escaped": "x"}), "source", []string{"../escaped", "references parent directory"}},
		{"a truncated archive", good[:len(good)/2], "source", []string{"truncated"}},
		{"no archive", []byte("<html>not found</html>"), "source", []string{"not a tar archive"}},
		{"no Dockerfile", tarball(t, map[string]string{"README": "x"}), "build", []string{"Dockerfile"}},
		{"a syntax error", tarball(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\n\nRUNN true\n"}), "build", []string{"Dockerfile:3", "RUNN"}},
		{"an unsupported flag", tarball(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN --security=insecure true\n"}), "build", []string{"Dockerfile:2", "--security"}},
		{"an unknown base image", tarball(t, map[string]string{"Dockerfile": "FROM debian:no-such-tag\n"}), "build", []string{"Dockerfile:1", "debian:no-such-tag"}},
		{"a RUN that fails", tarball(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN echo it broke >&2; exit 7\n"}), "build", []string{"Dockerfile:2", "exit status 7", "it broke"}},
		{"a RUN that is killed", tarball(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN sh -c 'kill -9 $$'\n"}), "build", []string{"Dockerfile:2", "exit status 137"}},
	} {
		status, body := s.upload(t, "bad/"+strings.ReplaceAll(c.name, " ", "-")+".tar.gz", c.content)
		if status/100 != 2 {
			t.Fatalf("%s: %d %s", c.name, status, body)
		}
		n++
		e := sub.wait(t, n)
		if e.Outcome != "failed" || e.Data.Class != c.class || e.ImageDigest != "" {
			t.Errorf("%s: outcome %s, class %s, message %q", c.name, e.Outcome, e.Data.Class, e.Data.Message)
		}
		for _, m := range c.message {
			if !strings.Contains(e.Data.Message, m) {
				t.Errorf("%s: the message %q does not have %q", c.name, e.Data.Message, m)
			}
		}
	}
	if status, body := s.upload(t, "bad/empty.tar.gz", nil); status != http.StatusBadRequest || !strings.Contains(body, "empty") {
		t.Errorf("a 0-byte upload: %d %s", status, body)
	}
	if _, err := os.Stat(filepath.Join(s.Data, "..", "escaped")); err == nil {
		t.Error("an entry escaped")
	}
	if status, body := s.upload(t, "good.tar.gz", good); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	s.success(t, sub.wait(t, n+1))
	if got := len(sub.finished()); got != n+1 {
		t.Errorf("%d builds ended, want %d", got, n+1)
	}
}

// The executor's process is killed in the middle: one event says so.
func TestExecutorKilled(t *testing.T) {
	s := start(t)
	sub := s.subscribe(t)
	slow := tarball(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN sleep 600\n"})
	if status, body := s.upload(t, "slow.tar.gz", slow); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	var victims []int
	stackd.Until(t, "the RUN is running", func() bool { victims = executors(t, s); return len(victims) > 0 && sleeping(t, s.Data) })
	for _, pid := range victims {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	e := sub.wait(t, 1)
	if e.Outcome == "success" || e.Data.Class == "" || e.Data.Message == "" {
		t.Errorf("the event says %+v", e)
	}
	stackd.Until(t, "nothing of the build is left", func() bool { return !sleeping(t, s.Data) })
	good := tarball(t, map[string]string{"Dockerfile": working, "hello": "x"})
	if status, body := s.upload(t, "good.tar.gz", good); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	s.success(t, sub.wait(t, 2))
}

// executors returns the processes of the program that belong to the stack.
func executors(t *testing.T, s *server) []int {
	t.Helper()
	var out []int
	eachProcess(t, func(pid int, cmdline string) {
		if strings.Contains(cmdline, programs.executor) && strings.Contains(cmdline, s.Data) && !strings.Contains(cmdline, "\x00up\x00") {
			out = append(out, pid)
		}
	})
	return out
}

// sleeping tells whether the sleep of a RUN is alive below the stack: its root
// is in the stack's data directory.
func sleeping(t *testing.T, _ string) bool {
	t.Helper()
	found := false
	eachProcess(t, func(_ int, cmdline string) { found = found || strings.HasPrefix(cmdline, "sleep\x00600\x00") })
	return found
}

func eachProcess(t *testing.T, f func(pid int, cmdline string)) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	check(t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if raw, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil {
			f(pid, string(raw))
		}
	}
}

// The same event a hundred times at once is one build.
func TestHundredTimesAtOnce(t *testing.T) {
	s := start(t)
	sub := s.subscribe(t)
	dir := app(t, working)
	env := gitEnv(t)
	run(t, dir, env, "git", "init", "-q", "-b", "main")
	run(t, dir, env, "git", "add", ".")
	run(t, dir, env, "git", "commit", "-qm", "first")
	run(t, dir, env, "git", "push", s.URL+"/git/once.git", "main")
	e := sub.wait(t, 1)
	s.success(t, e)
	head := strings.TrimSpace(run(t, dir, env, "git", "rev-parse", "HEAD"))
	changed, err := events.SourceChangedEvent("test", "default", events.Change{
		Kind: events.KindGit, Location: "localhost/once", Name: "refs/heads/main",
		Before: strings.Repeat("0", 40), After: head, Delivery: "again", Time: time.Now(),
	})
	check(t, err)
	change, err := json.Marshal(changed)
	check(t, err)
	known := e.Data.Build.ID
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/events/in", bytes.NewReader(change))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/cloudevents+json")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			answer, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode/100 != 2 || !strings.Contains(string(answer), known) {
				t.Errorf("a redelivery was answered %s %s, %v", resp.Status, answer, err)
			}
		})
	}
	wg.Wait()
	// One more build, so that anything wrongly started has had its turn.
	if status, body := s.upload(t, "after.tar.gz", tarball(t, map[string]string{"Dockerfile": working, "hello": "x"})); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	sub.wait(t, 2)
	if got := len(sub.finished()); got != 2 {
		t.Errorf("%d builds ended, want 2", got)
	}
}

// A disk that a build fills is a failed build that says so, an upload that does
// not fit is refused, and the stack goes on.
func TestFullDisk(t *testing.T) {
	small := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=450m", "tmpfs", small).CombinedOutput(); err != nil {
		t.Fatalf("mount a small file system: %v %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", small).Run() })
	s := startOn(t, small)
	sub := s.subscribe(t)
	greedy := tarball(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN head -c 1000000000 /dev/zero > /big\n"})
	if status, body := s.upload(t, "greedy.tar.gz", greedy); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	e := sub.wait(t, 1)
	if e.Outcome != "failed" || !strings.Contains(e.Data.Message, "No space left on device") {
		t.Errorf("the event says %+v", e)
	}
	if status, body := s.upload(t, "large.tar.gz", make([]byte, 600<<20)); status != http.StatusInsufficientStorage {
		t.Errorf("an upload that does not fit: %d %s", status, body)
	}
	good := tarball(t, map[string]string{"Dockerfile": working, "hello": "x"})
	if status, body := s.upload(t, "good.tar.gz", good); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	s.success(t, sub.wait(t, 2))
}
