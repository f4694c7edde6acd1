// Package cdevents reads CDEvents 0.4 and 0.5 that other tools send:
// artifact.published, which makes builds that stand on the artifact run again,
// and change.merged and branch.created whose customData says which commit a ref
// is at, as the vocabulary itself does not.
package cdevents

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/trigger"
)

// TypePrefix begins the type of every CDEvent.
const TypePrefix = "dev.cdevents."

const what = "CDEvent"

// cdevent is a CDEvent as far as it matters.
type cdevent struct {
	Context struct {
		ID        string    `json:"id"`
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
	} `json:"context"`
	Subject struct {
		ID      string `json:"id"`
		Source  string `json:"source"`
		Content struct {
			Repository struct {
				ID     string `json:"id"`
				Source string `json:"source"`
			} `json:"repository"`
		} `json:"content"`
	} `json:"subject"`
	CustomData custom `json:"customData"`
}

// custom is what Kiln understands in customData.
type custom struct {
	Repo   string `json:"repo"`   // address of the repository; else that of the subject
	Ref    string `json:"ref"`    // full name
	Before string `json:"before"` // object ids
	After  string `json:"after"`
}

// UnmarshalJSON accepts what is no object, as customData may be anything.
func (c *custom) UnmarshalJSON(data []byte) error {
	type plain custom
	var p plain
	if json.Unmarshal(data, &p) == nil {
		*c = custom(p)
	}
	return nil
}

// Parse returns the change in a CloudEvent that carries a CDEvent. The error is
// a *source.IgnoredError for those that name neither an image nor a commit, or
// a *source.MalformedError.
func Parse(h http.Header, body []byte) ([]events.Change, error) {
	e, err := events.DecodeHTTP(h, body)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	var cd cdevent
	if err := json.Unmarshal(e.Data(), &cd); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if cd.Context.Type != e.Type() {
		return nil, source.Malformed(what, "type %q in the context is not that of the CloudEvent", events.CleanText(cd.Context.Type, events.MaxReason))
	}
	kind := strings.TrimPrefix(e.Type(), TypePrefix)
	var c events.Change
	switch {
	case strings.HasPrefix(kind, "artifact.published."):
		c, err = cd.image()
	case strings.HasPrefix(kind, "change.merged."), strings.HasPrefix(kind, "branch.created."):
		c, err = cd.push()
	default:
		return nil, source.Ignored("nothing is built for events of type %s", e.Type())
	}
	if err != nil {
		return nil, err
	}
	c.Delivery, c.Time = cd.Context.ID, cd.Context.Timestamp
	if err := c.Validate(); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	return []events.Change{c}, nil
}

// image reads the package URL of an artifact.
func (cd cdevent) image() (events.Change, error) {
	rest, ok := strings.CutPrefix(cd.Subject.ID, "pkg:oci/")
	if !ok {
		return events.Change{}, source.Ignored("the artifact is no image: its id does not begin with pkg:oci/")
	}
	name, query, _ := strings.Cut(rest, "?")
	_, version, _ := strings.Cut(name, "@")
	digest, err := url.PathUnescape(version)
	if err != nil {
		return events.Change{}, source.Malformed(what, "version of package URL: %w", err)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return events.Change{}, source.Malformed(what, "qualifiers of package URL: %w", err)
	}
	if values.Get("tag") == "" || values.Get("repository_url") == "" {
		return events.Change{}, source.Ignored("the package URL of the image has no tag or no repository_url")
	}
	image, err := trigger.ImageName(values.Get("repository_url") + ":" + values.Get("tag"))
	if err != nil {
		return events.Change{}, source.Malformed(what, "%w", err)
	}
	i := strings.LastIndexByte(image, ':')
	return events.Change{Kind: events.KindImage, Location: image[:i], Name: image[i+1:], Generation: digest}, nil
}

// push reads what customData says about a ref.
func (cd cdevent) push() (events.Change, error) {
	d := cd.CustomData
	if d.Ref == "" || d.After == "" {
		return events.Change{}, source.Ignored(`the event does not say where the ref is: add "customData":{"ref":"refs/heads/main","after":"<commit>"}`)
	}
	address := d.Repo
	if address == "" {
		address = cd.Subject.Content.Repository.Source
	}
	if !strings.Contains(address, "/") || address == "" {
		address = cd.Subject.Content.Repository.ID
	}
	location, err := events.RepoLocation(address)
	if err != nil {
		return events.Change{}, source.Malformed(what, "%w", err)
	}
	c := events.Change{
		Kind: events.KindGit, Location: location, Name: d.Ref, After: strings.ToLower(d.After), Before: strings.ToLower(d.Before),
	}
	if c.Before == "" {
		c.Before = source.ZeroID(c.After)
	}
	return c, nil
}
