// Package notify writes events for people: as the JSON that the webhook of a chat
// takes, by a template. It is pure.
package notify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"text/template"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
)

// maxBody is the largest request that a template may write, in bytes.
const maxBody = 64 << 10

// Template writes requests. It is safe for concurrent use.
type Template struct{ t *template.Template }

// view is what a template sees.
type view struct {
	Type, ID, Source, Subject string
	Attributes                map[string]string // all of them, by name
	Data                      any               // the data, as JSON has it
}

// Parse reads a template of text/template. It sees .Type, .ID, .Source, .Subject,
// .Attributes and .Data of an event, and has the function json, which writes a
// value as JSON, quotes and all. An attribute that is not there is empty. What it
// writes is one JSON value, or nothing if the event is of no interest.
func Parse(text string) (*Template, error) {
	t, err := template.New("notification").Option("missingkey=zero").Funcs(template.FuncMap{"json": encode}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read template of notifications: %w", err)
	}
	return &Template{t: t}, nil
}

func encode(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

// Render writes the request for an event: its header and body, or no body if
// nothing is to be sent.
func (t *Template) Render(e event.Event) (http.Header, []byte, error) {
	v := view{Type: e.Type(), ID: e.ID(), Source: e.Source(), Subject: e.Subject(), Attributes: events.Attributes(e)}
	if len(e.Data()) > 0 {
		if err := json.Unmarshal(e.Data(), &v.Data); err != nil {
			return nil, nil, fmt.Errorf("render notification of %s: %w", e.ID(), err)
		}
	}
	var buf bytes.Buffer
	if err := t.t.Execute(&buf, v); err != nil {
		return nil, nil, fmt.Errorf("render notification of %s: %w", e.ID(), err)
	}
	body := bytes.TrimSpace(buf.Bytes())
	switch {
	case len(body) == 0:
		return nil, nil, nil
	case len(body) > maxBody:
		return nil, nil, fmt.Errorf("render notification of %s: it has %d bytes, more than %d", e.ID(), len(body), maxBody)
	case !json.Valid(body):
		return nil, nil, fmt.Errorf("render notification of %s: %w; write values with the function json", e.ID(), errNotJSON)
	}
	return http.Header{"Content-Type": {"application/json"}}, body, nil
}

var errNotJSON = errors.New("the template wrote what is not JSON")
