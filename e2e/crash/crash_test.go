package crash

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/local/registry"
)

// lab is a data directory and what outlives the server.
type lab struct {
	t        *testing.T
	dir      string
	registry string
	context  string

	platforms []string // of the trigger; none is the executor's own
}

func newLab(t *testing.T, dockerfile string) *lab {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	srv, err := registry.Open(ctx, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(srv)
	t.Cleanup(func() { web.Close(); cancel(); srv.Close() })
	l := &lab{t: t, dir: t.TempDir(), registry: strings.TrimPrefix(web.URL, "http://"), context: filepath.Join(t.TempDir(), "ctx.tar.gz")}
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	w := tar.NewWriter(zip)
	err = w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(dockerfile))})
	if err == nil {
		_, err = io.WriteString(w, dockerfile)
	}
	if err := errors.Join(err, w.Close(), zip.Close(), os.WriteFile(l.context, buf.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return l
}

// server is one life of the dispatcher.
type server struct {
	url  string
	cmd  *exec.Cmd
	in   io.Closer
	done chan error
}

// start starts the dispatcher, to die at a point; "" is none.
func (l *lab) start(point string) *server {
	l.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), dirVariable+"="+l.dir, registryVariable+"="+l.registry, contextVariable+"="+l.context,
		platformVariable+"="+strings.Join(l.platforms, ", "), pointVariable+"="+point)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	s := &server{cmd: cmd, in: in, done: make(chan error, 1)}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() { s.done <- cmd.Wait() }()
	l.t.Cleanup(s.kill)
	if err != nil {
		if point != "" {
			return s // it died at once
		}
		l.t.Fatalf("the dispatcher does not start: %v", err)
	}
	s.url = strings.TrimSpace(line)
	return s
}

// kill ends it as a power cut does.
func (s *server) kill() {
	_ = s.cmd.Process.Signal(syscall.SIGKILL) // it may be dead
	select {
	case err := <-s.done:
		s.done <- err
	case <-time.After(10 * time.Second):
	}
}

// died waits for the end that its fault brings.
func (s *server) died(t *testing.T, point string) {
	t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s: the dispatcher ended with %v", point, err)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("the dispatcher never came to %q", point)
	}
}

func id(c string) string { return strings.Repeat(c, 40) }

// push sends a webhook; the status is 0 if there was no answer.
func (s *server) push(t *testing.T, before, after string) int {
	t.Helper()
	body := fmt.Sprintf(`{"ref":"refs/heads/main","before":%q,"after":%q,"repository":{"full_name":"acme/shop","clone_url":"https://github.com/acme/shop.git"}}`, id(before), id(after))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/hooks/github", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// buildID is that of a push as number seq of its branch.
func buildID(seq uint64, before, after string) string {
	c := events.Change{Kind: events.KindGit, Location: "github.com/acme/shop", Name: "refs/heads/main", Before: id(before), After: id(after)}
	return events.Request{Trigger: "app", Sequence: seq, Change: c}.DeriveBuildID()
}

func (l *lab) path(key string) string { return filepath.Join(l.dir, "ledger", filepath.FromSlash(key)) }

func (l *lab) settled(buildID string) bool {
	_, err := os.Stat(l.path(record.EmittedKey(buildID)))
	open, globErr := filepath.Glob(l.path("open/*/*.json"))
	return err == nil && globErr == nil && len(open) == 0
}

// await waits until every given build has its outcome and was told.
func (l *lab) await(what string, builds ...string) {
	l.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		missing := ""
		for _, b := range builds {
			if !l.settled(b) {
				missing = b
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: build %s has no end", what, missing)
		}
	}
}

func (l *lab) outcome(buildID string) record.Claim {
	l.t.Helper()
	var c record.Claim
	data, err := os.ReadFile(l.path(record.ResultKey(buildID)))
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// check looks at what is left: these builds and no other, each with one outcome
// that was told once, and the tag at the digest of the last.
func (l *lab) check(what string, builds ...string) {
	l.t.Helper()
	all, err := filepath.Glob(l.path("builds/*/request.json"))
	want := len(builds)
	if len(l.platforms) > 1 {
		want *= 1 + len(l.platforms)
	}
	if err != nil || len(all) != want {
		l.t.Errorf("%s: builds %v, want %v", what, all, builds)
	}
	told := l.told(l.t)
	for _, b := range builds {
		if told[events.FinishedID(b)] != 1 || len(told) != len(builds) {
			l.t.Errorf("%s: told %v", what, told)
		}
	}
	last := l.outcome(builds[len(builds)-1])
	if last.Outcome != events.OutcomeSuccess || !last.Verified {
		l.t.Errorf("%s: %+v", what, last)
		return
	}
	got, err := registry.Client{}.Resolve(l.t.Context(), l.registry+"/app:main")
	if err != nil || got != last.Digest {
		l.t.Errorf("%s: the tag is %s, %v, and not %s", what, got, err, last.Digest)
	}
}

// told is how often the end of each build was told.
func (l *lab) told(t *testing.T) map[string]int {
	t.Helper()
	b, err := bus.Open(filepath.Join(l.dir, "bus"), bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	told := map[string]int{}
	for after := uint64(0); ; {
		stored, err := b.Read(t.Context(), after, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(stored) == 0 {
			break
		}
		for _, s := range stored {
			after = s.Seq
			if s.Event.Type() == events.TypeBuildFinished {
				told[s.Event.ID()]++
			}
		}
	}
	return told
}
