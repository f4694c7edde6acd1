// Package request reads a request that somebody kept in a file: as it was sent,
// as JSON with headers and body, or its JSON body alone.
package request

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
)

// Request is one that was sent to a door.
type Request struct {
	Path   string // one of dispatch.Doors
	Header http.Header
	Body   []byte
}

// Parse reads a file. Where it does not say to which door the request was
// sent, the headers tell, or the fields of the body.
func Parse(data []byte) (Request, error) {
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		return parseJSON(trimmed)
	}
	return parseHTTP(data)
}

// kept is the JSON form.
type kept struct {
	Path    string                     `json:"path"`
	Headers map[string]json.RawMessage `json:"headers"`
	Body    json.RawMessage            `json:"body"`
}

func parseJSON(data []byte) (Request, error) {
	var k kept
	if err := json.Unmarshal(data, &k); err != nil {
		return Request{}, err
	}
	if k.Headers == nil || k.Body == nil {
		return bare(data)
	}
	r := Request{Path: k.Path, Header: http.Header{}, Body: k.Body}
	for name, raw := range k.Headers {
		var one string
		var many []string
		if json.Unmarshal(raw, &one) != nil && json.Unmarshal(raw, &many) != nil {
			return r, fmt.Errorf("header %s is neither text nor a list of texts", name)
		}
		if many == nil {
			many = []string{one}
		}
		for _, v := range many {
			r.Header.Add(name, v)
		}
	}
	var text string
	if json.Unmarshal(k.Body, &text) == nil {
		r.Body = []byte(text)
	}
	return r.complete(), nil
}

func parseHTTP(data []byte) (Request, error) {
	in := bufio.NewReader(bytes.NewReader(data))
	r := Request{}
	if first, _, ok := strings.Cut(string(data), "\n"); ok && strings.HasPrefix(first, "POST ") {
		if _, err := in.ReadString('\n'); err != nil {
			return r, err
		}
		path, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(first, "POST ")), " ")
		r.Path, _, _ = strings.Cut(path, "?")
	}
	h, err := textproto.NewReader(in).ReadMIMEHeader()
	if err != nil {
		return r, fmt.Errorf("it is neither JSON nor headers, an empty line and a body: %w", err)
	}
	r.Header = http.Header(h)
	if r.Body, err = io.ReadAll(in); err != nil {
		return r, err
	}
	return r.complete(), nil
}

// complete finds the door, and says that the body is JSON if nothing else does.
func (r Request) complete() Request {
	if r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	known := false
	for _, door := range dispatch.Doors() {
		known = known || r.Path == door
	}
	if !known {
		r.Path = dispatch.DoorOf(r.Header)
	}
	return r
}

// bare is a body whose headers were not kept: what its fields say it is.
func bare(body []byte) (Request, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return Request{}, err
	}
	has := func(names ...string) bool {
		for _, name := range names {
			if _, ok := fields[name]; !ok {
				return false
			}
		}
		return true
	}
	r := Request{Header: http.Header{"Content-Type": {"application/json"}}, Body: body}
	switch {
	case has("specversion", "type", "source"):
		r.Header.Set("Content-Type", "application/cloudevents+json")
	case has("kind", "location", "name"):
		h := map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "1", "Ce-Source": "/file", "Ce-Type": events.TypeSourceChanged}
		for name, value := range h {
			r.Header.Set(name, value)
		}
	case has("object_kind"), has("event_name", "project"):
		r.Header.Set("X-Gitlab-Event", "Push Hook")
	case has("push", "repository"):
		r.Header.Set("X-Event-Key", "repo:push")
	case has("changes", "repository"):
		r.Header.Set("X-Event-Key", "repo:refs_changed")
	case has("ref", "before", "after", "compare_url"):
		r.Header.Set("X-Gitea-Event", "push")
	case has("ref", "before", "after", "repository"):
		r.Header.Set("X-Github-Event", "push")
	case has("Records"), has("TopicArn"), has("detail-type"):
		r.Path = dispatch.DoorS3
		return r, nil
	case has("events"):
		r.Path = dispatch.DoorRegistry
		return r, nil
	case has("message"), has("action", "digest"):
		r.Path = dispatch.DoorEvents
		return r, nil
	default:
		return r, errors.New(`its fields do not tell what it is: put it as {"headers": {…}, "body": {…}}`)
	}
	return r.complete(), nil
}
