// Package gitlab reads the push and tag hooks of GitLab, and those of its
// system hooks, verified by signature or by the older secret token.
package gitlab

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

const what = "GitLab push"

// payload is a push as far as it matters.
type payload struct {
	ObjectKind  string `json:"object_kind"`
	EventName   string `json:"event_name"` // all that some system hooks have
	Ref         string `json:"ref"`
	Before      string `json:"before"`
	After       string `json:"after"`
	CheckoutSHA string `json:"checkout_sha"` // null for a deletion
	User        string `json:"user_username"`
	Project     struct {
		GitHTTPURL    string `json:"git_http_url"`
		DefaultBranch string `json:"default_branch"`
	} `json:"project"`
}

// kind is what the event is about.
func (p payload) kind() string {
	if p.ObjectKind != "" {
		return p.ObjectKind
	}
	return p.EventName
}

// Parse verifies a request and returns the change in it: a branch or tag that
// was created, moved, or deleted (After is zeros). The kind of event is read
// from the body, as no header is signed. The error is source.ErrUnauthorised, a
// *source.IgnoredError for other events than a push, or a
// *source.MalformedError.
func Parse(secrets Secrets, now time.Time, h http.Header, body []byte) ([]events.Change, error) {
	if err := secrets.Verify(now, h, body); err != nil {
		return nil, err
	}
	return ParsePush(delivery(h), body)
}

// ParsePush returns the change in the payload of a hook that somebody else has
// verified. Its errors are those of Parse but for source.ErrUnauthorised.
func ParsePush(delivery string, body []byte) ([]events.Change, error) {
	var p payload
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	switch kind := p.kind(); kind {
	case "push", "tag_push":
	case "":
		return nil, source.Malformed(what, "there is no object_kind in it")
	default:
		return nil, source.Ignored("event is %s, neither push nor tag_push", kind)
	}
	c, err := p.change(delivery)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	return []events.Change{c}, nil
}

// delivery is the id that stays the same when GitLab tries again.
func delivery(h http.Header) string {
	for _, name := range []string{headerID, "Idempotency-Key", "X-Gitlab-Event-Uuid"} {
		if id := h.Get(name); id != "" {
			return id
		}
	}
	return ""
}

// change makes a change of a push. What is checked out for an annotated tag is
// its commit, while After is the tag object.
func (p payload) change(delivery string) (events.Change, error) {
	location, err := events.RepoLocation(p.Project.GitHTTPURL)
	if err != nil {
		return events.Change{}, err
	}
	c := events.Change{
		Kind: events.KindGit, Location: location, Name: p.Ref,
		Before: strings.ToLower(p.Before), After: strings.ToLower(p.After),
		Metadata: source.PushMetadata(p.Project.DefaultBranch, p.User),
		Delivery: delivery, CloneURL: p.Project.GitHTTPURL,
	}
	if commit := strings.ToLower(p.CheckoutSHA); !c.Deleted() && commit != c.After {
		c.Commit = commit
	}
	return c, c.Validate()
}
