// Package bitbucket reads the webhooks of Bitbucket Cloud and of Bitbucket Data
// Center.
package bitbucket

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

const what = "Bitbucket push"

// Values of X-Event-Key that tell of pushes.
const (
	cloudPush = "repo:push"
	dcPush    = "repo:refs_changed"
)

// maxRefs is the largest number of refs in one push that is taken.
const maxRefs = 10_000

// Config says how webhooks are read.
type Config struct {
	Secrets [][]byte // several while they are changed; none let nothing pass
	// Server is the address of a Bitbucket Data Center such as
	// "https://bitbucket.example.com", for payloads that do not say where the
	// repository is. Empty refuses those.
	Server string
}

// Verify reports source.ErrUnauthorised unless X-Hub-Signature is "sha256=" and
// the HMAC-SHA256 of the raw body with one of the secrets. No secrets let
// nothing pass. It takes the same time for every wrong signature.
func Verify(secrets [][]byte, h http.Header, body []byte) error {
	digits, ok := strings.CutPrefix(h.Get("X-Hub-Signature"), "sha256=")
	if !ok {
		return source.ErrUnauthorised
	}
	return source.VerifyHMAC(secrets, digits, body)
}

// Parse verifies a request and returns its changes: each a ref that was
// created, moved, or deleted (After is zeros). One push of several refs is one
// request. The error is source.ErrUnauthorised, a *source.IgnoredError for
// other events and for a push of nothing that Git knows, or a
// *source.MalformedError.
func Parse(cfg Config, h http.Header, body []byte) ([]events.Change, error) {
	if err := Verify(cfg.Secrets, h, body); err != nil {
		return nil, err
	}
	if err := source.RequireJSON(what, h); err != nil {
		return nil, err
	}
	var changes []events.Change
	var err error
	switch key := h.Get("X-Event-Key"); key {
	case cloudPush:
		changes, err = parse(body, new(cloud))
	case dcPush:
		changes, err = parse(body, &dataCenter{server: cfg.Server})
	default:
		return nil, source.Ignored("event is %s, neither %s nor %s", key, cloudPush, dcPush)
	}
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if len(changes) == 0 {
		return nil, source.Ignored("no branch and no tag was pushed")
	}
	if len(changes) > maxRefs {
		return nil, source.Malformed(what, "more than %d refs in one push", maxRefs)
	}
	for i := range changes {
		if changes[i].Delivery = h.Get("X-Request-Uuid"); changes[i].Delivery == "" {
			changes[i].Delivery = h.Get("X-Request-Id")
		}
		if err := changes[i].Validate(); err != nil {
			return nil, source.Malformed(what, "change %d: %w", i, err)
		}
	}
	return changes, nil
}

// payload is the body of one of the two.
type payload interface {
	changes() ([]events.Change, error) // not yet validated, without a delivery
}

func parse(body []byte, p payload) ([]events.Change, error) {
	if err := json.Unmarshal(body, p); err != nil {
		return nil, err
	}
	return p.changes()
}

// change fills in what all changes have; an id that is empty becomes zeros.
func change(location, cloneURL, pusher, name, before, after string) events.Change {
	before, after = strings.ToLower(before), strings.ToLower(after)
	if before == "" {
		before = source.ZeroID(after)
	}
	if after == "" {
		after = source.ZeroID(before)
	}
	return events.Change{
		Kind: events.KindGit, Location: location, Name: name, Before: before, After: after,
		Metadata: source.PushMetadata("", pusher), CloneURL: cloneURL,
	}
}
