// Package knative reads the pushes that others have taken from a forge and made
// CloudEvents of: Knative's GitHubSource and GitLabSource, and the adapters of
// the CloudEvents specification.
//
// The forge's signature does not come this far: who made the event verified it,
// and who may send events is the business of a bearer token or the platform.
package knative

import (
	"net/http"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/github"
	"github.com/kilnhook/kiln/events/source/gitlab"
)

const what = "event of a forge"

// forge is whose payload an event carries.
type forge int

const (
	unknown forge = iota
	gitHub
	gitLab
)

// split takes a type of event apart: Knative writes "source" for one forge and
// "sources" for the other, and either is taken for both.
func split(typ string) (from forge, kind string) {
	for _, prefix := range []string{"dev.knative.source.", "dev.knative.sources.", "com."} {
		rest, ok := strings.CutPrefix(typ, prefix)
		if !ok {
			continue
		}
		name, kind, _ := strings.Cut(rest, ".")
		switch name {
		case "github":
			return gitHub, kind
		case "gitlab":
			return gitLab, kind
		}
	}
	return unknown, ""
}

// Knows reports whether events of a type are for Parse.
func Knows(typ string) bool {
	from, _ := split(typ)
	return from != unknown
}

// Parse returns the one change of a request. Its delivery is the event's id,
// which GitLabSource makes up anew for every delivery. The error is a
// *source.IgnoredError for other events of a forge than a push, and a
// *source.MalformedError for what is no such event.
func Parse(h http.Header, body []byte) ([]events.Change, error) {
	e, err := events.DecodeHTTP(h, body)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	from, kind := split(e.Type())
	switch {
	case from == unknown:
		return nil, source.Malformed(what, "type is %s", events.CleanText(e.Type(), 100))
	case from == gitHub && kind == "push":
		return github.ParsePush(e.ID(), e.Data())
	case from == gitLab && (kind == "push" || kind == "tag_push"):
		return gitlab.ParsePush(e.ID(), e.Data())
	}
	return nil, source.Ignored("event is %s, not a push", e.Type())
}
