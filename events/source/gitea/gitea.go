// Package gitea reads the webhooks of Gitea and of Forgejo.
package gitea

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

const what = "Gitea push"

// Prefixes of the headers of the two.
const (
	gitea   = "X-Gitea-"
	forgejo = "X-Forgejo-"
)

// The ends of those headers.
const (
	event     = "Event"
	delivery  = "Delivery"
	signature = "Signature"
)

// payload is a push, or the deletion of a ref, as far as it matters.
type payload struct {
	Ref        string `json:"ref"`
	RefType    string `json:"ref_type"` // of a deletion: branch or tag
	Before     string `json:"before"`
	After      string `json:"after"`
	HeadCommit *struct {
		ID string `json:"id"`
	} `json:"head_commit"`
	Repository struct {
		CloneURL      string `json:"clone_url"`
		DefaultBranch string `json:"default_branch"`
	} `json:"repository"`
	Pusher user `json:"pusher"`
	Sender user `json:"sender"`
}

type user struct {
	Login    string `json:"login"`
	UserName string `json:"username"`
}

// name is the user name, in the newer or the older field.
func (u user) name() string {
	if u.Login != "" {
		return u.Login
	}
	return u.UserName
}

// brand is the prefix of the headers that count. Forgejo sends Gitea's as well;
// where one of its own is there, only those count.
func brand(h http.Header) string {
	for _, name := range []string{event, delivery, signature} {
		if len(h.Values(forgejo+name)) > 0 {
			return forgejo
		}
	}
	return gitea
}

// Verify reports source.ErrUnauthorised unless X-Gitea-Signature, or
// X-Forgejo-Signature where Forgejo sends the request, is the HMAC-SHA256 of
// the raw body with one of the secrets, in bare hex digits. No secrets let
// nothing pass. It takes the same time for every wrong signature.
func Verify(secrets [][]byte, h http.Header, body []byte) error {
	return source.VerifyHMAC(secrets, h.Get(brand(h)+signature), body)
}

// Parse verifies a request and returns the change in it: a ref that was
// created, moved, or deleted (After is zeros). A branch that is deleted is told
// of by an event of its own, which does not say where it was: Before is zeros
// then, too. The error is source.ErrUnauthorised, a *source.IgnoredError for
// other events, or a *source.MalformedError, also for a form.
func Parse(secrets [][]byte, h http.Header, body []byte) ([]events.Change, error) {
	if err := Verify(secrets, h, body); err != nil {
		return nil, err
	}
	if err := source.RequireJSON(what, h); err != nil {
		return nil, err
	}
	kind := h.Get(brand(h) + event)
	if kind != "push" && kind != "delete" {
		return nil, source.Ignored("event is %s, neither push nor delete", kind)
	}
	var p payload
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if kind == "delete" {
		if err := p.completeDeletion(); err != nil {
			return nil, err
		}
	}
	c, err := p.change(h.Get(brand(h) + delivery))
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	return []events.Change{c}, nil
}

// completeDeletion gives the payload of a deletion what that of a push has. It
// insists on the type of the ref, which no push has: the header that tells the
// two apart is not signed.
func (p *payload) completeDeletion() error {
	var space string
	switch p.RefType {
	case "branch":
		space = "refs/heads/"
	case "tag":
		space = "refs/tags/"
	default:
		return source.Malformed(what, "deleted ref is a %q, neither branch nor tag", events.CleanText(p.RefType, 40))
	}
	p.Ref = space + strings.TrimPrefix(p.Ref, space)
	p.Before, p.After, p.HeadCommit = source.ZeroID(""), source.ZeroID(""), nil
	return nil
}

// change makes a change of a push.
func (p payload) change(delivery string) (events.Change, error) {
	location, err := events.RepoLocation(p.Repository.CloneURL)
	if err != nil {
		return events.Change{}, err
	}
	pusher := p.Pusher.name()
	if pusher == "" {
		pusher = p.Sender.name()
	}
	c := events.Change{
		Kind: events.KindGit, Location: location, Name: p.Ref,
		Before: strings.ToLower(p.Before), After: strings.ToLower(p.After),
		Metadata: source.PushMetadata(p.Repository.DefaultBranch, pusher),
		Delivery: delivery, CloneURL: p.Repository.CloneURL,
	}
	if !c.Deleted() && p.HeadCommit != nil {
		if commit := strings.ToLower(p.HeadCommit.ID); commit != c.After {
			c.Commit = commit
		}
	}
	return c, c.Validate()
}
