// Package github reads the webhooks of GitHub and GitHub Enterprise.
package github

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

const what = "GitHub push"

// maxCommits is the number of commits after which GitHub leaves out the rest.
const maxCommits = 2048

// payload is a push as far as it matters.
type payload struct {
	Ref        string          `json:"ref"`
	Before     string          `json:"before"`
	After      string          `json:"after"`
	Deleted    bool            `json:"deleted"`
	Forced     bool            `json:"forced"`
	Commits    []source.Commit `json:"commits"`
	HeadCommit *struct {
		ID string `json:"id"`
	} `json:"head_commit"`
	Repository struct {
		FullName      string   `json:"full_name"`
		CloneURL      string   `json:"clone_url"`
		DefaultBranch string   `json:"default_branch"`
		PushedAt      pushedAt `json:"pushed_at"`
	} `json:"repository"`
	Pusher struct {
		Name string `json:"name"`
	} `json:"pusher"`
}

// pushedAt is a time that a push writes as seconds since 1970 and other events
// as text. Only the first orders pushes; whatever else it is counts as unknown.
type pushedAt struct{ time.Time }

// UnmarshalJSON never fails.
func (p *pushedAt) UnmarshalJSON(data []byte) error {
	var seconds int64
	if json.Unmarshal(data, &seconds) == nil && seconds > 0 && seconds < 1<<40 {
		p.Time = time.Unix(seconds, 0).UTC()
		return nil
	}
	var at time.Time
	if json.Unmarshal(data, &at) == nil {
		p.Time = at
	}
	return nil
}

// Verify reports source.ErrUnauthorised unless X-Hub-Signature-256 is the
// HMAC-SHA256 of the raw body with one of the secrets. The older SHA-1
// signature counts for nothing. No secrets let nothing pass. It takes the same
// time for every wrong signature.
func Verify(secrets [][]byte, h http.Header, body []byte) error {
	digits, ok := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
	if !ok {
		return source.ErrUnauthorised
	}
	return source.VerifyHMAC(secrets, digits, body)
}

// Parse verifies a request and returns the change in it: a ref that was
// created, moved, or deleted (After is zeros). The error is
// source.ErrUnauthorised, a *source.IgnoredError for other events than a push,
// or a *source.MalformedError, also for a body that is not application/json:
// a hook may be configured to send a form, which is refused.
func Parse(secrets [][]byte, h http.Header, body []byte) ([]events.Change, error) {
	if err := Verify(secrets, h, body); err != nil {
		return nil, err
	}
	if err := source.RequireJSON(what, h); err != nil {
		return nil, err
	}
	if kind := h.Get("X-Github-Event"); kind != "push" {
		return nil, source.Ignored("event is %s, not push", kind)
	}
	return ParsePush(h.Get("X-Github-Delivery"), body)
}

// ParsePush returns the change in the payload of a push that somebody else has
// verified. The error is a *source.MalformedError.
func ParsePush(delivery string, body []byte) ([]events.Change, error) {
	var p payload
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	c, err := p.change(delivery)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	return []events.Change{c}, nil
}

// change makes a change of a push.
func (p payload) change(delivery string) (events.Change, error) {
	address := p.Repository.CloneURL
	if address == "" {
		address = "github.com/" + p.Repository.FullName
	}
	location, err := events.RepoLocation(address)
	if err != nil {
		return events.Change{}, err
	}
	c := events.Change{
		Kind: events.KindGit, Location: location, Name: p.Ref,
		Before: strings.ToLower(p.Before), After: strings.ToLower(p.After),
		Metadata: source.PushMetadata(p.Repository.DefaultBranch, p.Pusher.Name),
		Delivery: delivery, Time: p.Repository.PushedAt.Time, CloneURL: p.Repository.CloneURL,
	}
	if !p.Forced && !p.Deleted && !c.Created() { // else the commits are not those between before and after
		c.Files = source.PushFiles(p.Commits, len(p.Commits) < maxCommits)
	}
	if p.Deleted {
		c.After = source.ZeroID(c.Before)
	} else if p.HeadCommit != nil && p.HeadCommit.ID != c.After {
		c.Commit = strings.ToLower(p.HeadCommit.ID)
	}
	return c, c.Validate()
}
