package events

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/cloudevents/sdk-go/v2/event"
)

// Names of the extension attributes of TypeBuildRun: where the executor puts the
// result, and the bearer token for this one build that lets it.
const (
	ExtResultURL   = "resulturl"
	ExtResultToken = "resulttoken"
)

// Order is a request as it is handed to an executor.
type Order struct {
	Request     Request
	ResultURL   string // where the executor puts its Result; "" is nowhere
	ResultToken string // what it shows there
}

// RunEvent asks whoever receives it to run a build: its data is the whole
// Request. It is for a Knative JobSink, which makes a Job of every event, and is
// never published. Its id is RunID, so that one attempt is one Job however often
// it is sent.
func RunEvent(o Order) (event.Event, error) {
	req := o.Request
	if err := req.Runnable(); err != nil {
		return event.Event{}, fmt.Errorf("make %s event of build %s: %w", TypeBuildRun, req.BuildID, err)
	}
	e := buildEvent(TypeBuildRun, RunID(req.BuildID, req.Attempt), req, req.RequestedAt)
	setExtensions(&e, map[string]string{ExtResultURL: o.ResultURL, ExtResultToken: o.ResultToken})
	return withData(e, req)
}

// RunID is the id of the RunEvent of an attempt at a build: "<buildId>.run.<attempt>".
func RunID(buildID string, attempt int) string { return buildID + ".run." + strconv.Itoa(attempt) }

// ParseOrder reads a request as it is handed to an executor: as JSON of its own,
// or as a RunEvent in structured mode. The error says which field no executor
// could work with.
func ParseOrder(data []byte) (Order, error) {
	var envelope struct {
		SpecVersion string          `json:"specversion"`
		Type        string          `json:"type"`
		Data        json.RawMessage `json:"data"`
		ResultURL   string          `json:"resulturl"`
		ResultToken string          `json:"resulttoken"`
	}
	if err := json.Unmarshal(data, &envelope); err != nil {
		return Order{}, fmt.Errorf("read request: %w", err)
	}
	var o Order
	if envelope.SpecVersion != "" {
		if envelope.Type != TypeBuildRun {
			return Order{}, fmt.Errorf("read request: the event is of type %q, not %s", envelope.Type, TypeBuildRun)
		}
		data, o.ResultURL, o.ResultToken = envelope.Data, envelope.ResultURL, envelope.ResultToken
	}
	if err := json.Unmarshal(data, &o.Request); err != nil {
		return Order{}, fmt.Errorf("read request: %w", err)
	}
	if err := o.Request.Runnable(); err != nil {
		return Order{}, fmt.Errorf("read request: %w", err)
	}
	return o, nil
}
