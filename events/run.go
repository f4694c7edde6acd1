package events

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/cloudevents/sdk-go/v2/event"
)

// RunEvent asks whoever receives it to run a build: its data is the whole
// Request. It is for a Knative JobSink, which makes a Job of every event, and is
// never published. Its id is "<buildId>.run.<attempt>", so that one attempt is
// one Job however often it is sent.
func RunEvent(req Request) (event.Event, error) {
	if err := req.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("make %s event of build %s: %w", TypeBuildRun, req.BuildID, err)
	}
	return withData(buildEvent(TypeBuildRun, req.BuildID+".run."+strconv.Itoa(req.Attempt), req, req.RequestedAt), req)
}

// ParseRequest reads a request as it is handed to an executor: as JSON of its
// own, or as the data of a RunEvent in structured mode. The error says which
// field no executor could work with.
func ParseRequest(data []byte) (Request, error) {
	var probe struct {
		SpecVersion string          `json:"specversion"`
		Type        string          `json:"type"`
		Data        json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(data, &probe); err != nil {
		return Request{}, fmt.Errorf("read request: %w", err)
	}
	if probe.SpecVersion != "" {
		if probe.Type != TypeBuildRun {
			return Request{}, fmt.Errorf("read request: the event is of type %q, not %s", probe.Type, TypeBuildRun)
		}
		data = probe.Data
	}
	var req Request
	if err := json.Unmarshal(data, &req); err != nil {
		return Request{}, fmt.Errorf("read request: %w", err)
	}
	if err := req.Validate(); err != nil {
		return Request{}, fmt.Errorf("read request: %w", err)
	}
	return req, nil
}
