package stack

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/stackd"
	"github.com/kilnhook/kiln/e2e/need"
)

// Every door starts a build, and every kind of subscriber gets its event with
// the digest of an image that is there.
func TestDoorsAndSubscribers(t *testing.T) {
	hook := &webhook{}
	receiver := httptest.NewServer(hook)
	defer receiver.Close()
	s := start(t, "--webhook", receiver.URL)
	sub := s.subscribe(t)
	followed := s.follow(t)
	dir := app(t, working)

	t.Run("curl", func(t *testing.T) {
		need.Command(t, "curl")
		run(t, dir, nil, "curl", "-fsS", "-T", archive(t, dir), s.URL+"/contexts/curled.tar.gz")
		e := sub.wait(t, 1)
		s.success(t, e)
		if e.Data.Source.Object != "curled.tar.gz" {
			t.Errorf("the event is about %q", e.Data.Source.Object)
		}
	})
	t.Run("aws s3 cp", func(t *testing.T) {
		need.Command(t, "aws")
		env := []string{"AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true"}
		run(t, dir, env, "aws", "s3", "cp", archive(t, dir), "s3://contexts/viaaws/ctx.tar.gz", "--endpoint-url", s.S3)
		s.success(t, sub.wait(t, 2))
	})
	t.Run("git push", func(t *testing.T) {
		env := gitEnv(t)
		run(t, dir, env, "git", "init", "-q", "-b", "main")
		run(t, dir, env, "git", "add", ".")
		run(t, dir, env, "git", "commit", "-qm", "first")
		out := run(t, dir, env, "git", "push", s.URL+"/git/pushed.git", "main")
		if !strings.Contains(out, "kiln: ") {
			t.Errorf("the pusher was told %q", out)
		}
		e := sub.wait(t, 3)
		s.success(t, e)
		head := strings.TrimSpace(run(t, dir, env, "git", "rev-parse", "HEAD"))
		if e.Data.Source.Commit != head || e.Data.Source.Ref != "refs/heads/main" {
			t.Errorf("the event is about %+v, HEAD is %s", e.Data.Source, head)
		}
	})
	t.Run("kiln submit", func(t *testing.T) {
		out, err := s.command(t, "submit", dir, "--name", "submitted", "--follow")
		check(t, err)
		e := sub.wait(t, 4)
		s.success(t, e)
		if !strings.Contains(out, e.ImageDigest) {
			t.Errorf("submit printed %q, without the digest %s", out, e.ImageDigest)
		}
	})
	t.Run("subscribers", func(t *testing.T) {
		stackd.Until(t, "the webhook has four events", func() bool { return len(hook.finished()) == 4 })
		listed, err := s.command(t, "events", "--after", "0", "--type", "build.finished", "--output", "json")
		check(t, err)
		for i, e := range sub.finished() {
			if hook.finished()[i] != e.ID+" "+e.ImageDigest {
				t.Errorf("the webhook got %q, the stream %s", hook.finished()[i], e.ID)
			}
			if !strings.Contains(listed, e.ImageDigest) {
				t.Errorf("kiln events does not have %s", e.ImageDigest)
			}
			stackd.Until(t, "kiln events -f prints "+e.ImageDigest, func() bool {
				out, err := os.ReadFile(followed)
				return err == nil && strings.Contains(string(out), e.ImageDigest)
			})
		}
	})
}

// follow starts kiln events -f and returns the file that it prints to.
func (s *server) follow(t *testing.T) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "followed"))
	check(t, err)
	cmd := exec.Command(programs.kiln, "events", "-f", "--output", "json", "--server", s.URL)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		check(t, out.Close())
	})
	return out.Name()
}

// webhook is a subscriber that gets events posted.
type webhook struct {
	mu  sync.Mutex
	got []string
}

func (h *webhook) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Header.Get("Ce-Type") == "dev.kilnhook.build.finished.v1" {
		h.got = append(h.got, r.Header.Get("Ce-Id")+" "+r.Header.Get("Ce-Imagedigest"))
	}
}

func (h *webhook) finished() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.got...)
}

// run runs a command and returns what it printed on both streams.
func run(t *testing.T, dir string, env []string, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var diag bytes.Buffer
	out, err := process.Run(t.Context(), cmd, &diag)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, &diag)
	}
	return string(out) + diag.String()
}

func gitEnv(t *testing.T) []string {
	t.Helper()
	return []string{"HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.org",
		"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.org"}
}

// A webhook is taken only with the signature of its raw body.
func TestGitHubWebhook(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(secret, []byte("hush"), 0o600))
	s := start(t, "--github-secret-file", secret)
	body := []byte(`{"ref":"refs/heads/main","before":"` + strings.Repeat("0", 40) + `","after":"` + strings.Repeat("1", 40) +
		`","repository":{"id":1,"full_name":"acme/shop","clone_url":"https://github.com/acme/shop.git"}}`)
	mac := hmac.New(sha256.New, []byte("hush"))
	mac.Write(body)
	good := "sha256=" + hex.EncodeToString(mac.Sum(nil))
	for _, c := range []struct {
		name, signature, kind string
		body                  []byte
		want                  int
	}{
		{"unsigned", "", "push", body, http.StatusUnauthorized},
		{"signed by somebody else", "sha256=" + strings.Repeat("0", 64), "push", body, http.StatusUnauthorized},
		{"another body", good, "push", append([]byte(" "), body...), http.StatusUnauthorized},
		{"not JSON", "", "push", []byte("payload=x"), http.StatusUnauthorized},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/hooks/github", bytes.NewReader(c.body))
		check(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-GitHub-Event", c.kind)
		req.Header.Set("X-GitHub-Delivery", fmt.Sprintf("d-%s", c.name))
		if c.signature != "" {
			req.Header.Set("X-Hub-Signature-256", c.signature)
		}
		resp, err := http.DefaultClient.Do(req)
		check(t, err)
		answer, err := io.ReadAll(resp.Body)
		check(t, err)
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %d %s", c.name, resp.StatusCode, answer)
		}
	}
	if n := len(s.subscribe(t).finished()); n != 0 {
		t.Errorf("%d builds came of refused webhooks", n)
	}
}
