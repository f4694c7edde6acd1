package gcf

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/gitea"
	"github.com/kilnhook/kiln/events/source/github"
	"github.com/kilnhook/kiln/events/source/gitlab"
)

// maxBody is the largest webhook that is read, in bytes: what GitHub sends at
// most.
const maxBody = 25 << 20

// GitPush takes webhooks. Which forge sent one is read from its headers, and its
// secret decides. The answers are the dispatcher's: 202 when the change is
// passed on, 200 when there is nothing to build, 400 for what cannot be read, 401
// for a wrong signature, 413 for too much, 503 when it should come again.
func (f *Functions) GitPush(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		reply(w, http.StatusMethodNotAllowed, "error", "webhooks are posted")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			reply(w, http.StatusRequestEntityTooLarge, "error", "request is too large")
			return
		}
		reply(w, http.StatusBadRequest, "error", "request could not be read to its end")
		return
	}
	changes, err := f.parse(r.Header, body)
	if err == nil {
		err = f.pass(r.Context(), changes, r.Header.Get("Traceparent"))
	}
	f.answer(w, err)
}

// parse verifies and reads a webhook. Forgejo and Gitea send the headers of the
// others as well, so theirs decide first.
func (f *Functions) parse(h http.Header, body []byte) ([]events.Change, error) {
	switch {
	case h.Get("X-Forgejo-Event") != "", h.Get("X-Gitea-Event") != "":
		return gitea.Parse(f.giteaSecrets, h, body)
	case h.Get("X-Gitlab-Event") != "":
		return gitlab.Parse(f.gitlabSecrets, f.now(), h, body)
	case h.Get("X-Event-Key") != "":
		return bitbucket.Parse(f.bitbucket, h, body)
	case h.Get("X-GitHub-Event") != "":
		return github.Parse(f.githubSecrets, h, body)
	}
	return nil, source.Malformed("webhook", "its headers are of no forge that is known")
}

// answer tells a forge what became of its webhook. What failed on our side is
// for the log.
func (f *Functions) answer(w http.ResponseWriter, err error) {
	var ignored *source.IgnoredError
	var malformed *source.MalformedError
	switch {
	case err == nil:
		reply(w, http.StatusAccepted, "accepted", "the change was passed on")
	case errors.Is(err, source.ErrUnauthorised):
		f.log.Warn("webhook refused", "err", err)
		reply(w, http.StatusUnauthorized, "error", err.Error())
	case errors.As(err, &ignored):
		reply(w, http.StatusOK, "ignored", ignored.Reason)
	case errors.As(err, &malformed):
		f.log.Warn("webhook cannot be read", "err", err)
		reply(w, http.StatusBadRequest, "error", events.CleanText(err.Error(), events.MaxMessage))
	default:
		f.log.Error("webhook was not accepted", "err", err)
		w.Header().Set("Retry-After", "10")
		reply(w, http.StatusServiceUnavailable, "error", "the change could not be accepted now; send it again later")
	}
}

func reply(w http.ResponseWriter, status int, key, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{key: text}) // the sender has gone; it will come again
}
