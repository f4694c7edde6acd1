// Package gcs reads what Google Cloud Storage says about an object that was
// stored: as the CloudEvent that Eventarc posts, and as the notification that
// a Pub/Sub push subscription posts.
//
// Neither is signed over its body. Who may post is the business of the
// platform in front (an OIDC token that it checked) or of a bearer token.
package gcs

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

// Types of event that Parse knows.
const (
	TypeFinalized = "google.cloud.storage.object.v1.finalized" // of Eventarc
	typePrefix    = "google.cloud.storage.object.v1."
	typePubSub    = "google.cloud.pubsub.topic.v1.messagePublished" // Pub/Sub through Eventarc
	finalize      = "OBJECT_FINALIZE"                               // of a notification
)

// object is the resource of the JSON API as far as it matters. Sizes and
// generations are strings in one of Google's forms and numbers in another.
type object struct {
	Bucket      string            `json:"bucket"`
	Name        string            `json:"name"`
	Generation  source.Decimal    `json:"generation"`
	Size        source.Decimal    `json:"size"`
	ContentType string            `json:"contentType"`
	TimeCreated time.Time         `json:"timeCreated"`
	Updated     time.Time         `json:"updated"`
	Metadata    map[string]string `json:"metadata"`
}

// push is what a push subscription posts.
type push struct {
	Message *message `json:"message"`
}

type message struct {
	MessageID   string            `json:"messageId"`
	MessageID2  string            `json:"message_id"`
	PublishTime time.Time         `json:"publishTime"`
	Attributes  map[string]string `json:"attributes"`
	Data        []byte            `json:"data"` // base64
}

// Parse returns the one change that a request tells of. The error is a
// *source.IgnoredError for other events than finalisation and for an empty
// object (writers that stream finalise one before the real one), and a
// *source.MalformedError for what is no such request.
func Parse(h http.Header, body []byte) ([]events.Change, error) {
	if !events.IsCloudEvent(h) {
		return parsePush(body)
	}
	e, err := events.DecodeHTTP(h, body)
	if err != nil {
		return nil, source.Malformed("Cloud Storage event", "%w", err)
	}
	switch typ := e.Type(); {
	case typ == typePubSub:
		return parsePush(e.Data())
	case typ == TypeFinalized:
		o, err := decodeObject(e.Data())
		if err != nil {
			return nil, err
		}
		return o.change(e.ID(), e.Time())
	case strings.HasPrefix(typ, typePrefix):
		return nil, source.Ignored("object was %s, not finalized", strings.TrimPrefix(typ, typePrefix))
	default:
		return nil, source.Malformed("Cloud Storage event", "type is %s", events.CleanText(typ, 100))
	}
}

// parsePush reads a notification in its envelope.
func parsePush(body []byte) ([]events.Change, error) {
	const what = "Pub/Sub notification"
	var p push
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if p.Message == nil {
		return nil, source.Malformed(what, "there is no message in it")
	}
	m := *p.Message
	id := m.MessageID
	if id == "" {
		id = m.MessageID2
	}
	typ, ok := m.Attributes["eventType"]
	if !ok {
		return nil, source.Malformed(what, "attribute eventType is missing: the topic carries something else")
	}
	if typ != finalize {
		return nil, source.Ignored("event is %s, not %s", typ, finalize)
	}
	o, err := m.object()
	if err != nil {
		return nil, err
	}
	at, err := time.Parse(time.RFC3339Nano, m.Attributes["eventTime"])
	if err != nil {
		at = m.PublishTime
	}
	return o.change(id, at)
}

// object is what the message tells of: its data if it has any, and its
// attributes, which must not contradict it.
func (m message) object() (object, error) {
	const what = "Pub/Sub notification"
	bucket, name, generation := m.Attributes["bucketId"], m.Attributes["objectId"], m.Attributes["objectGeneration"]
	if m.Attributes["payloadFormat"] == "NONE" || len(m.Data) == 0 {
		if strings.Trim(generation, "0123456789") != "" {
			return object{}, source.Malformed(what, "attribute objectGeneration %q is not a number", events.CleanText(generation, 40))
		}
		return object{Bucket: bucket, Name: name, Generation: source.Decimal(generation)}, nil
	}
	o, err := decodeObject(m.Data)
	if err != nil {
		return object{}, err
	}
	if bucket != "" && o.Bucket != bucket || name != "" && o.Name != name || generation != "" && string(o.Generation) != generation {
		return object{}, source.Malformed(what, "attributes and data speak of different objects")
	}
	return o, nil
}

func decodeObject(data []byte) (object, error) {
	var o object
	if err := json.Unmarshal(data, &o); err != nil {
		return object{}, source.Malformed("Cloud Storage object", "%w", err)
	}
	return o, nil
}

// change makes a change of an object that was finalised.
func (o object) change(delivery string, at time.Time) ([]events.Change, error) {
	const what = "Cloud Storage object"
	if o.Bucket == "" {
		return nil, source.Malformed(what, "bucket is missing")
	}
	var size int64
	if o.Size != "" {
		var err error
		if size, err = strconv.ParseInt(string(o.Size), 10, 64); err != nil {
			return nil, source.Malformed(what, "size %s is too large", o.Size)
		}
		if size == 0 {
			return nil, source.Ignored("object gs://%s/%s is empty", o.Bucket, o.Name)
		}
	}
	for _, t := range []time.Time{o.Updated, o.TimeCreated} {
		if !t.IsZero() {
			at = t
		}
	}
	c := events.Change{
		Kind: events.KindObject, Location: "gs://" + o.Bucket, Name: o.Name, Generation: string(o.Generation),
		Size: size, Metadata: maps.Clone(o.Metadata), ContentType: o.ContentType, Delivery: delivery, Time: at,
	}
	if err := c.Validate(); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	return []events.Change{c}, nil
}
