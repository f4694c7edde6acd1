package scenario

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/functions/dispatch"
)

func mac(key, text string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(text))
	return h.Sum(nil)
}

// github proves that a hook of GitHub is built, and that one which somebody else
// signed, or changed under way, is refused and nothing comes of it.
func github(t *testing.T, s *story) {
	commit := s.commits(t, "RUN echo a")[0]
	body := func(ref string) string {
		return fmt.Sprintf(`{"ref":"refs/heads/%s","before":%q,"after":%q,"created":true,"deleted":false,"forced":false,`+
			`"repository":{"full_name":"acme/%s","default_branch":"main","pushed_at":%d,"clone_url":%q},"pusher":{"name":"ann"}}`,
			ref, none, commit, s.name, time.Now().Unix(), s.Repository(s.name+".git"))
	}
	hook := func(body, signature string) *http.Request {
		return s.request(t, http.MethodPost, dispatch.DoorGitHub, body, map[string]string{
			"X-GitHub-Event": "push", "X-GitHub-Delivery": s.name, "X-Hub-Signature-256": signature,
		})
	}
	forged := body("forged")
	right := "sha256=" + hex.EncodeToString(mac(githubSecret, forged))
	for name, req := range map[string]*http.Request{
		"another secret": hook(forged, "sha256="+hex.EncodeToString(mac("guessed", forged))),
		"another body":   hook(strings.Replace(forged, "forged", "Forged", 1), right),
		"one bit":        hook(forged, right[:len(right)-1]+string(right[len(right)-1]^1)),
		"no signature":   hook(forged, ""),
		"SHA-1 alone":    s.request(t, http.MethodPost, dispatch.DoorGitHub, forged, map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature": "sha1=0000"}),
	} {
		if status, text := s.status(t, req); status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	good := body("main")
	d, err := s.decision(hook(good, "sha256="+hex.EncodeToString(mac(githubSecret, good))))
	check(t, err)
	s.succeeds(t, d.BuildID)
	if ids := s.builds(t); len(ids) != 1 {
		t.Errorf("the builds are %v", ids)
	}
}

// gitlab proves that hooks of GitLab are built, those it signs and those of older
// versions, and that what was signed long ago is refused.
func gitlab(t *testing.T, s *story) {
	ids := s.commits(t, "RUN echo a", "RUN echo b")
	body := func(before, after string) string {
		return fmt.Sprintf(`{"object_kind":"push","event_name":"push","ref":"refs/heads/main","before":%q,"after":%q,"checkout_sha":%q,"user_username":"ann","project":{"git_http_url":%q,"default_branch":"main"}}`,
			before, after, after, s.Repository(s.name+".git"))
	}
	signed := func(text string, at time.Time) *http.Request {
		stamp := strconv.FormatInt(at.Unix(), 10)
		return s.request(t, http.MethodPost, dispatch.DoorGitLab, text, map[string]string{
			"X-Gitlab-Event": "Push Hook", "Webhook-Id": s.name, "Webhook-Timestamp": stamp,
			"Webhook-Signature": "v1," + base64.StdEncoding.EncodeToString(mac(gitlabKey, s.name+"."+stamp+"."+text)),
		})
	}
	withToken := func(text, token string) *http.Request {
		return s.request(t, http.MethodPost, dispatch.DoorGitLab, text, map[string]string{
			"X-Gitlab-Event": "Push Hook", "X-Gitlab-Event-UUID": s.name + "-2", "X-Gitlab-Token": token,
		})
	}
	first, second := body(none, ids[0]), body(ids[0], ids[1])
	for name, req := range map[string]*http.Request{
		"of an hour ago": signed(first, time.Now().Add(-time.Hour)), "a wrong token": withToken(first, "guessed"), "no token": withToken(first, ""),
	} {
		if status, text := s.status(t, req); status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	a, err := s.decision(signed(first, time.Now()))
	check(t, err)
	s.succeeds(t, a.BuildID)
	b, err := s.decision(withToken(second, gitlabToken))
	check(t, err)
	if digest := s.succeeds(t, b.BuildID); s.tagged(t) != digest {
		t.Errorf("the tag is at %s, not at %s", s.tagged(t), digest)
	}
}

// tooLarge proves that a request beyond the limit is refused, at each kind of door.
func tooLarge(t *testing.T, s *story) {
	body := strings.Repeat("x", dispatch.MaxBody+1)
	for _, door := range []string{dispatch.DoorGitHub, dispatch.DoorGit, dispatch.DoorEvents} {
		if status, text := s.status(t, s.request(t, http.MethodPost, door, body, nil)); status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d %s", door, status, text)
		}
	}
}

// deadLetter proves that a request which cannot be understood is kept, can be read
// again, and goes when a person says so.
func deadLetter(t *testing.T, s *story) {
	body := `{"unheard of": "` + s.name + `"}`
	if status, text := s.status(t, s.request(t, http.MethodPost, dispatch.DoorS3, body, nil)); status != http.StatusBadRequest {
		t.Fatalf("%d %s", status, text)
	}
	find := func() string {
		var letters struct {
			DeadLetters []dispatch.DeadLetter `json:"deadLetters"`
		}
		var raw json.RawMessage
		s.ask(t, http.MethodGet, "deadletters", "", &raw)
		check(t, json.Unmarshal(raw, &letters))
		for _, l := range letters.DeadLetters {
			if string(l.Body) == body {
				if l.Door != dispatch.DoorS3 || l.Reason == "" {
					t.Errorf("%+v", l)
				}
				return l.Key
			}
		}
		return ""
	}
	key := find()
	if key == "" {
		t.Fatal("it was not kept")
	}
	path := dispatch.APIPrefix + "deadletters/" + strings.TrimPrefix(key, "poison/")
	if status, text := s.status(t, s.request(t, http.MethodPost, path, "", nil)); status != http.StatusBadRequest || find() != key {
		t.Errorf("read again: %d %s", status, text)
	}
	if status, text := s.status(t, s.request(t, http.MethodDelete, path, "", nil)); status != http.StatusOK || find() != "" {
		t.Errorf("removed: %d %s", status, text)
	}
}
