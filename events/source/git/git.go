// Package git reads what the post-receive hook of a plain git repository says:
// its lines as they are, or a CloudEvent of type source.changed.
package git

import (
	"net/http"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

const what = "post-receive"

// maxRefs is the largest number of refs in one push that is taken.
const maxRefs = 10_000

// Headers that go with the lines of a hook.
const (
	HeaderRepository = "Kiln-Repository"  // address of the repository; required
	HeaderCloneURL   = "Kiln-Clone-Url"   // where it can be cloned from
	HeaderDelivery   = "Kiln-Delivery"    // id of this push
	HeaderTime       = "Kiln-Time"        // when the hook started, RFC 3339
	HeaderPushOption = "Kiln-Push-Option" // once for every git push -o
)

// Push is what a hook knows besides its lines.
type Push struct {
	Repository string    // address of the repository in any of git's spellings
	CloneURL   string    // where it can be cloned from, if that is known
	Delivery   string    // id of this push
	Time       time.Time // when the hook started
	Options    []string  // what the pusher gave with -o
}

// Parse returns the changes of one push, in the order of its lines. With
// content type text/plain the body is the hook's standard input and the
// headers above say the rest; otherwise it is a CloudEvent. The error is a
// *source.MalformedError, or a *source.IgnoredError for a push of nothing.
func Parse(h http.Header, body []byte) ([]events.Change, error) {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	if strings.TrimSpace(mediaType) == "text/plain" && !events.IsCloudEvent(h) {
		p := Push{
			Repository: h.Get(HeaderRepository), CloneURL: h.Get(HeaderCloneURL),
			Delivery: h.Get(HeaderDelivery), Options: h.Values(HeaderPushOption),
		}
		if text := h.Get(HeaderTime); text != "" {
			var err error
			if p.Time, err = time.Parse(time.RFC3339Nano, text); err != nil {
				return nil, source.Malformed(what, "header %s is not an RFC 3339 time", HeaderTime)
			}
		}
		return ParseLines(p, body)
	}
	e, err := events.DecodeHTTP(h, body)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	c, err := source.ChangeOf(e)
	if err != nil {
		return nil, err
	}
	if c.Kind != events.KindGit {
		return nil, source.Malformed(what, "it is about a change of kind %s", c.Kind)
	}
	return []events.Change{c}, nil
}

// ParseLines reads the standard input of post-receive: a line
// "<before> <after> <ref>" for each ref. Its errors are those of Parse.
func ParseLines(p Push, lines []byte) ([]events.Change, error) {
	location, err := events.RepoLocation(p.Repository)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	var changes []events.Change
	number := 0
	for line := range strings.Lines(string(lines)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		before, rest, _ := strings.Cut(line, " ")
		after, ref, _ := strings.Cut(rest, " ")
		c := events.Change{
			Kind: events.KindGit, Location: location, Name: ref, Before: before, After: after,
			Delivery: p.Delivery, Time: p.Time, CloneURL: p.CloneURL, PushOptions: p.Options,
		}
		if err := c.Validate(); err != nil {
			return nil, source.Malformed(what, "line %d: %w", number, err)
		}
		if len(before) != len(after) {
			return nil, source.Malformed(what, "line %d: object ids of different lengths", number)
		}
		if changes = append(changes, c); len(changes) > maxRefs {
			return nil, source.Malformed(what, "more than %d refs in one push", maxRefs)
		}
	}
	if len(changes) == 0 {
		return nil, source.Ignored("no ref was pushed")
	}
	return changes, nil
}
