// Package pubsub opens what a Pub/Sub push subscription posts: a message in the
// JSON envelope, or, where the subscription has no wrapper, its data as the body
// and its attributes as headers. What the message carries is a CloudEvent or a
// notification of Cloud Storage, and is for another parser.
//
// Nothing is signed over the body. Who may post is the business of the platform
// in front (an OIDC token that it checked) or of a bearer token.
package pubsub

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

const what = "Pub/Sub push"

// TypeMessagePublished is the type of the event that Eventarc makes of a
// message. Its data is the envelope.
const TypeMessagePublished = "google.cloud.pubsub.topic.v1.messagePublished"

// Headers of a push without a wrapper, where the subscription writes metadata.
const (
	headerSubscription = "X-Goog-Pubsub-Subscription-Name"
	headerMessageID    = "X-Goog-Pubsub-Message-Id"
	headerPublishTime  = "X-Goog-Pubsub-Publish-Time"
)

// attributePrefix begins the attributes of a message that are attributes of a
// CloudEvent.
const attributePrefix = "ce-"

// Parser reads what a message carries.
type Parser func(h http.Header, body []byte) ([]events.Change, error)

// push is the envelope.
type push struct {
	Subscription string   `json:"subscription"`
	Message      *message `json:"message"`
}

type message struct {
	MessageID   string            `json:"messageId,omitempty"`
	PublishTime time.Time         `json:"publishTime,omitzero"`
	Attributes  map[string]string `json:"attributes"`
	Data        []byte            `json:"data"` // base64
}

// Envelope writes a message that was pulled as a push of its subscription would
// have brought it.
func Envelope(subscription, id string, at time.Time, attributes map[string]string, data []byte) ([]byte, error) {
	text, err := json.Marshal(push{Subscription: subscription, Message: &message{
		MessageID: id, PublishTime: at, Attributes: attributes, Data: data,
	}})
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	return text, nil
}

// TraceParent is the W3C trace context that a message in an envelope carries: that
// of the event in it, or of the client that published it. Empty if it has none.
func TraceParent(body []byte) string {
	var p push
	if err := json.Unmarshal(body, &p); err != nil || p.Message == nil {
		return ""
	}
	if value := p.Message.Attributes[attributePrefix+events.ExtTraceParent]; value != "" {
		return value
	}
	return p.Message.Attributes["googclient_traceparent"]
}

// IsPush reports whether a request is one of a push subscription, by its
// envelope or by its headers. Such a sender repeats whatever is not answered
// with success.
func IsPush(h http.Header, body []byte) bool {
	if bare(h) {
		return true
	}
	var p struct { // no more than that, so that a broken message is still one
		Subscription string         `json:"subscription"`
		Message      map[string]any `json:"message"`
	}
	return json.Unmarshal(body, &p) == nil && p.Message != nil && p.Subscription != ""
}

// bare reports whether a push comes without a wrapper.
func bare(h http.Header) bool { return h.Get(headerSubscription) != "" || h.Get(headerMessageID) != "" }

// Parse returns what the parser makes of the message in a request. The parser
// is given a CloudEvent as a request of its own, a notification of Cloud Storage
// in its envelope, and any other CloudEvent that is posted as it is. The error
// is that of the parser, or a *source.MalformedError for what is neither.
func Parse(parse Parser, h http.Header, body []byte) ([]events.Change, error) {
	if events.IsCloudEvent(h) {
		e, err := events.DecodeHTTP(h, body)
		if err != nil {
			return nil, source.Malformed("CloudEvent", "%w", err)
		}
		if e.Type() != TypeMessagePublished {
			return parse(h, body)
		}
		return parseEnvelope(parse, e.Data())
	}
	if bare(h) && h.Get("eventType") != "" {
		envelope, err := wrap(h, body)
		if err != nil {
			return nil, err
		}
		return parse(http.Header{}, envelope)
	}
	return parseEnvelope(parse, body)
}

// parseEnvelope opens an envelope.
func parseEnvelope(parse Parser, body []byte) ([]events.Change, error) {
	var p push
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if p.Message == nil {
		return nil, source.Malformed(what, "there is no message in it")
	}
	if p.Message.Attributes[attributePrefix+"specversion"] != "" {
		event, err := p.Message.event()
		if err != nil {
			return nil, err
		}
		return parse(structured(), event)
	}
	if h := (http.Header{"Content-Type": {p.Message.contentType()}}); events.IsCloudEvent(h) {
		return parse(h, p.Message.Data)
	}
	return parse(http.Header{}, body)
}

// structured is the header of a CloudEvent that is all JSON.
func structured() http.Header { return http.Header{"Content-Type": {"application/cloudevents+json"}} }

// contentType is that of the data, as the publisher says.
func (m message) contentType() string {
	if ct := m.Attributes["Content-Type"]; ct != "" {
		return ct
	}
	return m.Attributes["content-type"]
}

// event writes the message as a CloudEvent that is all JSON.
func (m message) event() ([]byte, error) {
	fields := map[string]any{}
	for name, value := range m.Attributes {
		name, ok := strings.CutPrefix(name, attributePrefix)
		if !ok {
			continue
		}
		if name == "" || name == "data" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return nil, source.Malformed(what, "attribute %s%s cannot be one of a CloudEvent", attributePrefix, events.CleanText(name, 40))
		}
		fields[name] = value
	}
	if ct := m.contentType(); ct != "" {
		fields["datacontenttype"] = ct
	}
	if len(m.Data) > 0 {
		fields["data_base64"] = m.Data
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	return text, nil
}

// wrap puts a notification of Cloud Storage that came without an envelope into
// one.
func wrap(h http.Header, body []byte) ([]byte, error) {
	m := message{MessageID: h.Get(headerMessageID), Attributes: map[string]string{}, Data: body}
	if at, err := time.Parse(time.RFC3339Nano, h.Get(headerPublishTime)); err == nil && at.Year() > 0 {
		m.PublishTime = at
	}
	for _, name := range []string{"eventType", "payloadFormat", "bucketId", "objectId", "objectGeneration", "eventTime"} {
		if value := h.Get(name); value != "" {
			m.Attributes[name] = value
		}
	}
	text, err := json.Marshal(push{Subscription: h.Get(headerSubscription), Message: &m})
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	return text, nil
}
