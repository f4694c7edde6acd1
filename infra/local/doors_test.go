package local_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/gitlab"
	"github.com/kilnhook/kiln/functions/report"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/serving"
)

// pushTo makes a repository and pushes files to the stack, and returns the
// commit and what the pusher saw.
func (s *stack) pushTo(dir, name string, files map[string]string) (commit, said string) {
	s.t.Helper()
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		git(s.t, dir, "init", "-q", "-b", "main")
	}
	for file, text := range files {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	git(s.t, dir, "add", "-A")
	git(s.t, dir, "commit", "-q", "--allow-empty", "-m", "m")
	said = git(s.t, dir, "push", "-f", s.URL()+"/git/"+name+".git", "main")
	return git(s.t, dir, "rev-parse", "HEAD"), said
}

// Every forge has its door, which opens to its own secret under any host name;
// doors that nobody signs for want a token, if there is one.
func TestEveryDoor(t *testing.T) {
	cfg := config(t, t.TempDir())
	const secret = "0123456789abcdef"
	key := [][]byte{[]byte(secret)}
	cfg.Secrets = serving.Secrets{
		GitHub: key, Gitea: key, GitLab: gitlab.Secrets{Tokens: []string{secret}}, Bitbucket: bitbucket.Config{Secrets: key}, Tokens: []string{"t0ken"},
	}
	cfg.Triggers, cfg.TriggersFile = []byte("name: app\non: {git: {repo: h.example/r}}\n"), "kiln.yaml"
	s := start(t, cfg)
	push := func(n int) string {
		return fmt.Sprintf(`{"object_kind":"push","ref":"refs/heads/b%d","before":"%040d","after":"%040d","repository":{"full_name":"r","clone_url":"https://h.example/r.git"},"project":{"git_http_url":"https://h.example/r.git"}}`, n, 0, n)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	sign := func(body string) string {
		mac.Reset()
		mac.Write([]byte(body))
		return hex.EncodeToString(mac.Sum(nil))
	}
	cloud := `{"repository":{"links":{"html":{"href":"https://h.example/r"}}},"push":{"changes":[{"old":null,"new":{"type":"branch","name":"b4","target":{"hash":"` + strings.Repeat("4", 40) + `"}}}]}}`
	for _, tc := range []struct {
		path, body string
		header     []string
	}{
		{"/hooks/github", push(1), []string{"X-GitHub-Event", "push", "X-Hub-Signature-256", "sha256=" + sign(push(1))}},
		{"/hooks/gitlab", push(2), []string{"X-Gitlab-Event", "Push Hook", "X-Gitlab-Token", secret}},
		{"/hooks/gitea", push(3), []string{"X-Gitea-Event", "push", "X-Gitea-Signature", sign(push(3))}},
		{"/hooks/bitbucket", cloud, []string{"X-Event-Key", "repo:push", "X-Hub-Signature", "sha256=" + sign(cloud)}},
		{"/hooks/git", fmt.Sprintf("%040d %040d refs/heads/b5\n", 0, 5), []string{"Content-Type", "text/plain", "Kiln-Repository", "h.example/r", "Authorization", "Bearer t0ken"}},
		{"/v1/builds", fmt.Sprintf(`{"repo":"h.example/r","ref":"b6","commit":"%040d"}`, 6), []string{"Authorization", "Bearer t0ken"}},
	} {
		header := append([]string{"Content-Type", "application/json", "Host", "tunnel.example"}, tc.header...)
		if status, body := s.do("POST", tc.path, []byte(tc.body), header...); status/100 != 2 || !strings.Contains(body, `"status":"new"`) {
			t.Errorf("%s: %d %s", tc.path, status, body)
		}
		if status, _ := s.do("POST", tc.path, []byte(tc.body), "Content-Type", "application/json", "Host", "tunnel.example", "X-GitHub-Event", "push", "X-Event-Key", "repo:push", "X-Gitea-Event", "push"); status != 401 {
			t.Errorf("%s without its secret: %d", tc.path, status)
		}
	}
	if status, _ := s.do("OPTIONS", "/events/in", nil, "WebHook-Request-Origin", "eventgrid.azure.net"); status != 200 {
		t.Errorf("handshake: %d", status)
	}
}

// A push to the stack's own git is filtered by what it touches, narrowed by a
// file in the repository, and told to the forge.
func TestPathsNarrowingAndReports(t *testing.T) {
	var told collector
	forge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		told.add(r.URL.Path + " " + string(body) + "\n")
		w.WriteHeader(http.StatusCreated)
	}))
	defer forge.Close()
	cfg := config(t, t.TempDir())
	cfg.Triggers, cfg.TriggersFile = []byte(`
name: app
on: {git: {repo: localhost/team/app, paths: ["app/**"], narrowedBy: .kiln.yaml}}
push: {image: "{{REG}}/app", tags: [latest, edge]}
report: {status: true, notify: [chat]}
`), "kiln.yaml"
	cfg.Listen = "127.0.0.1:0"
	var err error
	cfg.Reports, err = report.Parse("r", fmt.Appendf(nil, "forges: [{host: localhost, kind: gitea, api: %[1]s, tokenEnv: T}]\nnotifications: [{name: chat, url: '%[1]s/chat'}]", forge.URL),
		report.Secrets{Env: func(string) string { return "t" }})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Triggers = []byte(strings.ReplaceAll(string(cfg.Triggers), `"{{REG}}/app"`, "reg.example/app"))
	s := start(t, cfg)
	repo := t.TempDir()
	first, said := s.pushTo(repo, "team/app", map[string]string{"Dockerfile": "# fail", "app/x": "1"})
	if !strings.Contains(said, "started") {
		t.Fatalf("first push: %s", said)
	}
	var l api.List
	_, body := s.do("GET", "/api/builds?revision="+first, nil)
	if err := json.Unmarshal([]byte(body), &l); err != nil || len(l.Builds) != 1 {
		t.Fatalf("%v %s", err, body)
	}
	if b := s.finish(l.Builds[0].ID); b.Result.Outcome != events.OutcomeFailed {
		t.Errorf("%+v", b.Result)
	}
	told.await(t, "/repos/team/app/statuses/"+first+" ")
	told.await(t, `"state":"failure"`)
	told.await(t, "/chat ")
	if _, said = s.pushTo(repo, "team/app", map[string]string{"README.md": "x"}); !strings.Contains(said, "is not built: no file that on.git.paths names") {
		t.Errorf("a push that touches nothing: %s", said)
	}
	if _, said = s.pushTo(repo, "team/app", map[string]string{"app/x": "2", ".kiln.yaml": "skip: true"}); !strings.Contains(said, ".kiln.yaml says skip") {
		t.Errorf("a push that is narrowed away: %s", said)
	}
	third, _ := s.pushTo(repo, "team/app", map[string]string{"app/x": "3", ".kiln.yaml": "tags: [edge]"})
	_, body = s.do("GET", "/api/builds?revision="+third, nil)
	if err := json.Unmarshal([]byte(body), &l); err != nil || len(l.Builds) != 1 || !slices.Equal(l.Builds[0].Request.Tags, []string{"edge"}) || l.Builds[0].Request.Sequence != 2 {
		t.Errorf("%v %s", err, body)
	}
}

// GitLab's signed hook, in the form of Standard Webhooks, from the door to the
// build; one bit or ten minutes away it is refused.
func TestSignedGitLabHook(t *testing.T) {
	cfg := config(t, t.TempDir())
	var err error
	if cfg.Secrets.GitLab, err = gitlab.ParseSecrets([]string{"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}); err != nil {
		t.Fatal(err)
	}
	cfg.Triggers, cfg.TriggersFile = []byte("name: app\non: {git: {repo: gitlab.example/acme/shop}}\n"), "kiln.yaml"
	s := start(t, cfg)
	body := fmt.Sprintf(`{"object_kind":"push","ref":"refs/heads/main","before":"%040d","after":"%040d","project":{"git_http_url":"https://gitlab.example/acme/shop.git"}}`, 0, 1)
	send := func(at time.Time, body string) (int, string) {
		mac := hmac.New(sha256.New, []byte("0123456789abcdef0123456789abcdef"))
		fmt.Fprintf(mac, "id-1.%d.%s", at.Unix(), strings.Replace(body, "X", "", 1))
		return s.do("POST", "/hooks/gitlab", []byte(body), "Content-Type", "application/json", "X-Gitlab-Event", "Push Hook",
			"Webhook-Id", "id-1", "Webhook-Timestamp", fmt.Sprint(at.Unix()), "Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if status, _ := send(time.Now(), body+"X"); status != 401 {
		t.Errorf("another body: %d", status)
	}
	if status, _ := send(time.Now().Add(-10*time.Minute), body); status != 401 {
		t.Errorf("an old one: %d", status)
	}
	for want, n := range []string{`"new"`, `"duplicate"`} {
		if status, text := send(time.Now(), body); status != 202 || !strings.Contains(text, n) {
			t.Errorf("delivery %d: %d %s", want, status, text)
		}
	}
}
