package events

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// Source is the CloudEvents source of everything an installation says about a
// tenant: "/kiln/<install>/<tenant>". Empty names become "default".
func Source(install, tenant string) string {
	return "/kiln/" + segment(install) + "/" + segment(tenant)
}

// segment makes one path segment of a name.
func segment(name string) string {
	if name == "" {
		return "default"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '-'
	}, name)
}

// FinishedID is the id of the terminal event of a build, the same whenever and
// by whomever it is sent.
func FinishedID(buildID string) string { return buildID + ".finished" }

// SchemaURL is the dataschema attribute of events of a type.
func SchemaURL(eventType string) string {
	return "https://kilnhook.dev/schemas/" + SchemaName(eventType)
}

// SourceChangedEvent says that an object was stored or a ref moved. Its id is
// derived from the change, its delivery and its time, so that the same move
// made twice is two events while a repeated delivery is one. Credentials in
// the clone URL are removed.
func SourceChangedEvent(install, tenant string, c Change) (event.Event, error) {
	if err := c.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("make %s event: %w", TypeSourceChanged, err)
	}
	c.CloneURL = redactURLs(c.CloneURL)
	sum := sha256.Sum256([]byte(netstrings(c.Key(), c.Delivery, c.Time.UTC().Format(time.RFC3339Nano))))
	e := newEvent(TypeSourceChanged, install, tenant, "sha256:"+hex.EncodeToString(sum[:]), c.Time)
	e.SetSubject(cleanAttribute(c.Name))
	setExtensions(&e, map[string]string{
		ExtTenant: tenant, ExtCommit: c.Revision(), ExtCausationID: c.Delivery,
		ExtPartitionKey: c.Location + "/" + c.Name,
	})
	return withData(e, c)
}

// RequestedEvent says that a build was requested.
func RequestedEvent(req Request) (event.Event, error) {
	return lifecycleEvent(TypeBuildRequested, req.BuildID+".requested", req, req.RequestedAt)
}

// QueuedEvent says that an executor was asked for, for the request's attempt.
func QueuedEvent(req Request, at time.Time) (event.Event, error) {
	return lifecycleEvent(TypeBuildQueued, req.BuildID+".queued."+strconv.Itoa(req.Attempt), req, at)
}

// StartedEvent says that an executor runs, for the request's attempt. Those of a
// build's parts are one event.
func StartedEvent(req Request, at time.Time) (event.Event, error) {
	req.BuildID = req.Whole()
	return lifecycleEvent(TypeBuildStarted, req.BuildID+".started."+strconv.Itoa(req.Attempt), req, at)
}

// FinishedEvent is the one terminal event of a build. Its id and, for the same
// request, result and moved tags, all of its content are the same every time
// it is made; its time is the result's FinishedAt. moved are the tags that now
// name the digest.
func FinishedEvent(req Request, res Result, moved []string) (event.Event, error) {
	if err := res.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("make %s event of build %s: %w", TypeBuildFinished, req.BuildID, err)
	}
	e := buildEvent(TypeBuildFinished, FinishedID(req.BuildID), req, res.FinishedAt)
	setExtensions(&e, map[string]string{ExtOutcome: string(res.Outcome)})
	if res.Outcome == OutcomeSuccess && res.Digest != "" {
		setExtensions(&e, map[string]string{ExtImageDigest: res.Digest})
		if req.Image != "" {
			e.SetSubject(cleanAttribute(req.Image + "@" + res.Digest))
		}
	}
	return withData(e, NewFinished(req, res, moved))
}

// RejectedEvent says that a change was seen and will not be built. Its id is
// derived from trigger, change and reason.
func RejectedEvent(install string, r Rejected, c Change, at time.Time) (event.Event, error) {
	r.Reason = CleanText(r.Reason, MaxMessage)
	if c.Kind != "" {
		r.Source = sourceInfo(c, 0)
	}
	id := BuildID("rejected", r.Trigger, c.Key(), c.Delivery, r.Reason) + ".rejected"
	e := newEvent(TypeTriggerRejected, install, r.Tenant, id, at)
	subject := r.Trigger
	if subject == "" {
		subject = c.Location
	}
	if subject != "" {
		e.SetSubject(cleanAttribute(subject))
	}
	setExtensions(&e, map[string]string{
		ExtTenant: r.Tenant, ExtTrigger: r.Trigger, ExtCommit: c.Revision(), ExtCausationID: c.Delivery,
	})
	return withData(e, r)
}

// lifecycleEvent is an event about a build that has no result yet.
func lifecycleEvent(eventType, id string, req Request, at time.Time) (event.Event, error) {
	e := buildEvent(eventType, id, req, at)
	return withData(e, Lifecycle{
		Build: buildInfo(req), Source: sourceInfo(req.Change, req.Sequence), Image: imageInfo(req),
		Dockerfile: req.Dockerfile, Target: req.Target, ArgNames: slices.Sorted(maps.Keys(req.Args)),
	})
}

// buildEvent sets what all events about a build share.
func buildEvent(eventType, id string, req Request, at time.Time) event.Event {
	e := newEvent(eventType, req.Install, req.Tenant, id, at)
	subject := req.Image
	if subject == "" {
		subject = req.Trigger
	}
	e.SetSubject(cleanAttribute(subject))
	setExtensions(&e, map[string]string{
		ExtBuildID: req.BuildID, ExtTenant: req.Tenant, ExtTrigger: req.Trigger,
		ExtCommit: req.Change.Revision(), ExtPartitionKey: req.Group,
		ExtSequence:    fmt.Sprintf("%020d", req.Sequence),
		ExtCausationID: req.Change.Delivery, ExtTraceParent: req.TraceParent,
	})
	return e
}

func newEvent(eventType, install, tenant, id string, at time.Time) event.Event {
	e := event.New()
	e.SetType(eventType)
	e.SetSource(Source(install, tenant))
	e.SetID(id)
	if !at.IsZero() {
		e.SetTime(at.UTC())
	}
	e.SetDataSchema(SchemaURL(eventType))
	return e
}

// setExtensions sets the attributes that have a value.
func setExtensions(e *event.Event, values map[string]string) {
	for name, value := range values {
		if value = cleanAttribute(value); value != "" {
			e.SetExtension(name, value)
		}
	}
}

// withData adds the data and checks the whole against the CloudEvents
// specification.
func withData(e event.Event, data any) (event.Event, error) {
	if err := e.SetData(event.ApplicationJSON, data); err != nil {
		return event.Event{}, fmt.Errorf("encode data of %s event %s: %w", e.Type(), e.ID(), err)
	}
	if err := e.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("make %s event %s: %w", e.Type(), e.ID(), err)
	}
	return e, nil
}
