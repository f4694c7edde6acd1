package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/stackd"
	"github.com/kilnhook/kiln/e2e/need"
)

// nodeModules installs what the Node subscriber needs, once, and returns the
// directory node_modules.
func nodeModules(t *testing.T) string {
	t.Helper()
	need.Command(t, "node")
	npm := need.Command(t, "npm")
	dir, err := cache.Default()
	check(t, err)
	manifest, err := os.ReadFile("../subscribers/package.json")
	check(t, err)
	locked, err := os.ReadFile("../subscribers/package-lock.json")
	check(t, err)
	entry, err := dir.Get(t.Context(), "subscriber", cache.Key(string(manifest), string(locked)), func(ctx context.Context, dir string) error {
		err := errors.Join(os.WriteFile(filepath.Join(dir, "package.json"), manifest, 0o644), os.WriteFile(filepath.Join(dir, "package-lock.json"), locked, 0o644))
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		_, err = process.Run(ctx, cmd, nil)
		return err
	})
	if err != nil {
		need.Missing(t, "the packages of e2e/subscribers: "+err.Error())
	}
	return filepath.Join(entry, "node_modules")
}

// said collects the lines that a subscriber printed.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) add(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
}

// find returns the first line with a text in it.
func (s *said) find(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.lines {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

// Two subscribers that were written after docs/subscribe.md alone, one in shell and
// one in JavaScript, receive the end of a build and verify it: the one the digest
// in the registry, the other the signature.
func TestDocumentedSubscribers(t *testing.T) {
	for _, command := range []string{"curl", "jq", "sha256sum"} {
		need.Command(t, command)
	}
	const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	node := startNode(t, secret)
	secretFile := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(secretFile, []byte(secret+"\n"), 0o600))
	s := start(t, "--webhook", node.url, "--webhook-secret-file", secretFile)
	sub := s.subscribe(t)

	var followed, complaints bytes.Buffer
	follow := exec.CommandContext(t.Context(), "../subscribers/follow.sh", s.URL, "0")
	follow.Env = append(os.Environ(), "REGISTRY_SCHEME=http")
	follow.Stdout, follow.Stderr = &followed, &complaints
	check(t, follow.Start())

	if status, text := s.upload(t, "broken.tar.gz", tarball(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY missing /\n"})); status/100 != 2 {
		t.Fatalf("%d %s", status, text)
	}
	if e := sub.wait(t, 1); e.Outcome != "failed" {
		t.Fatalf("the broken build ended with %+v", e)
	}
	if status, text := s.upload(t, "fine.tar.gz", tarball(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY hello /\n", "hello": "hello\n"})); status/100 != 2 {
		t.Fatalf("%d %s", status, text)
	}
	e := sub.wait(t, 2)
	s.success(t, e)
	if err := follow.Wait(); err != nil {
		t.Fatalf("follow.sh: %v\n%s", err, complaints.String())
	}
	if got := strings.TrimSpace(followed.String()); got != e.Subject || !strings.Contains(complaints.String(), ": failed: ") {
		t.Errorf("follow.sh said %q and complained %q, want %q", got, complaints.String(), e.Subject)
	}
	stackd.Until(t, "the Node subscriber has the event", func() bool { return node.said.find(`"digest":"`+e.ImageDigest+`"`) != "" })
	var told struct {
		ID, Outcome, Subject, Repository string
		Tags                             []string
	}
	check(t, json.Unmarshal([]byte(node.said.find(e.ImageDigest)), &told))
	if told.ID != e.ID || told.Outcome != "success" || told.Subject != e.Subject || len(told.Tags) == 0 {
		t.Errorf("the Node subscriber has %+v", told)
	}
	if refused := node.said.find("refused"); refused != "" {
		t.Errorf("the Node subscriber complains: %s", refused)
	}
	forged, err := http.NewRequestWithContext(t.Context(), http.MethodPost, node.url, strings.NewReader("{}"))
	check(t, err)
	for name, value := range map[string]string{
		"Ce-Specversion": "1.0", "Ce-Id": "x", "Ce-Source": "/kiln/default/default", "Ce-Type": "dev.kilnhook.build.finished.v1",
		"Webhook-Id": "x", "Webhook-Timestamp": "1795400000", "Webhook-Signature": "v1,AAAA", "Content-Type": "application/json",
	} {
		forged.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(forged)
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the Node subscriber answers a forged event with %s", resp.Status)
	}
}

// nodeSubscriber is the running script.
type nodeSubscriber struct {
	url  string
	said *said
}

// startNode runs the Node subscriber until the test ends.
func startNode(t *testing.T, secret string) nodeSubscriber {
	t.Helper()
	modules, dir := nodeModules(t), t.TempDir()
	script, err := os.ReadFile("../subscribers/webhook.mjs")
	check(t, err)
	check(t, errors.Join(os.WriteFile(filepath.Join(dir, "webhook.mjs"), script, 0o644), os.Symlink(modules, filepath.Join(dir, "node_modules"))))
	address := port.Free(t)
	_, number, err := net.SplitHostPort(address)
	check(t, err)
	n := nodeSubscriber{url: "http://" + address + "/", said: &said{}}
	cmd := exec.Command("node", filepath.Join(dir, "webhook.mjs"))
	cmd.Env = append(os.Environ(), "PORT="+number, "KILN_WEBHOOK_SECRET="+secret)
	server, err := process.Start("webhook.mjs", cmd, false, t.Output(), n.said.add)
	check(t, err)
	t.Cleanup(func() { check(t, server.Stop()) })
	stackd.Until(t, "the Node subscriber listens", func() bool { return n.said.find("listening") != "" })
	return n
}
