// Package put reads what Kiln's own bucket says when an object was stored: a
// CloudEvent of type source.changed whose data is a change of kind object.
package put

import (
	"net/http"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

// Parse returns the one change of a request. The error is a
// *source.IgnoredError for an empty object and for another type of event, and
// a *source.MalformedError for what is no such event.
func Parse(h http.Header, body []byte) ([]events.Change, error) {
	const what = "event of the bucket"
	e, err := events.DecodeHTTP(h, body)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	c, err := source.ChangeOf(e)
	if err != nil {
		return nil, err
	}
	if c.Kind != events.KindObject {
		return nil, source.Malformed(what, "it is about a change of kind %s", c.Kind)
	}
	if c.Size == 0 {
		return nil, source.Ignored("object %s/%s is empty", c.Location, c.Name)
	}
	return []events.Change{c}, nil
}
