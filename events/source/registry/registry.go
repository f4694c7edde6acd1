// Package registry reads what registries say when an image was pushed: the
// notifications of CNCF Distribution, which Harbor and others send too, and the
// messages that Artifact Registry publishes on the topic gcr.
//
// What it returns are changes of kind image: a tag that names a digest. They
// build nothing new; they make builds that stand on the image run again.
package registry

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

const what = "registry notification"

// maxEvents is the largest number of events in one notification that is taken.
const maxEvents = 1000

// envelope is a notification of CNCF Distribution.
type envelope struct {
	Events []struct {
		ID        string    `json:"id"`
		Timestamp time.Time `json:"timestamp"`
		Action    string    `json:"action"`
		Target    struct {
			Digest     string `json:"digest"`
			Repository string `json:"repository"`
			Tag        string `json:"tag"`
			URL        string `json:"url"`
		} `json:"target"`
		Request struct {
			Host string `json:"host"`
		} `json:"request"`
	} `json:"events"`
}

// Parse returns the tags that a notification of CNCF Distribution says were
// pushed. The error is a *source.IgnoredError if there are none, or a
// *source.MalformedError.
func Parse(_ http.Header, body []byte) ([]events.Change, error) {
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if len(e.Events) > maxEvents {
		return nil, source.Malformed(what, "more than %d events", maxEvents)
	}
	var changes []events.Change
	for i, event := range e.Events {
		t := event.Target
		if event.Action != "push" || t.Tag == "" { // pulls, deletions, blobs, manifests by digest
			continue
		}
		host := event.Request.Host
		if u, err := url.Parse(t.URL); err == nil && u.Host != "" {
			host = u.Host
		}
		c, err := change(host+"/"+t.Repository+":"+t.Tag, t.Digest)
		if err != nil {
			return nil, source.Malformed(what, "event %d: %w", i, err)
		}
		c.Delivery, c.Time = event.ID, event.Timestamp
		changes = append(changes, c)
	}
	if len(changes) == 0 {
		return nil, source.Ignored("no tag was pushed")
	}
	return changes, nil
}

// change makes a change of an image's name and digest.
func change(image, digest string) (events.Change, error) {
	name, err := trigger.ImageName(image)
	if err != nil {
		return events.Change{}, err
	}
	i := strings.LastIndexByte(name, ':')
	c := events.Change{Kind: events.KindImage, Location: name[:i], Name: name[i+1:], Generation: digest}
	return c, c.Validate()
}

// message is what Artifact Registry publishes.
type message struct {
	Action string `json:"action"`
	Digest string `json:"digest"` // "host/repository@sha256:…"
	Tag    string `json:"tag"`    // "host/repository:tag"
}

// envelopeOf is a message of Pub/Sub as far as it matters.
type envelopeOf struct {
	Message struct {
		Data        []byte    `json:"data"`
		MessageID   string    `json:"messageId"`
		PublishTime time.Time `json:"publishTime"`
	} `json:"message"`
}

// IsArtifactRegistry reports whether a body is a message of Artifact Registry,
// in the envelope of Pub/Sub or without.
func IsArtifactRegistry(body []byte) bool {
	_, _, ok := open(body)
	return ok
}

func open(body []byte) (m message, e envelopeOf, ok bool) {
	data := body
	if json.Unmarshal(body, &e) == nil && len(e.Message.Data) > 0 {
		data = e.Message.Data
	}
	err := json.Unmarshal(data, &m)
	return m, e, err == nil && (m.Action == "INSERT" || m.Action == "DELETE") && (m.Digest != "" || m.Tag != "")
}

// ParseArtifactRegistry returns the tag in a message of Artifact Registry. Its
// errors are those of Parse.
func ParseArtifactRegistry(_ http.Header, body []byte) ([]events.Change, error) {
	m, e, ok := open(body)
	if !ok {
		return nil, source.Malformed(what, "it is no message of Artifact Registry")
	}
	if m.Action != "INSERT" || m.Tag == "" {
		return nil, source.Ignored("no tag was pushed")
	}
	_, digest, _ := strings.Cut(m.Digest, "@")
	c, err := change(m.Tag, digest)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	c.Delivery, c.Time = e.Message.MessageID, e.Message.PublishTime
	return []events.Change{c}, nil
}
