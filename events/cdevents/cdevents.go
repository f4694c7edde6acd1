// Package cdevents says in the vocabulary of CDEvents 0.5.1 what events of Kiln
// say: a mirror for those who read that. It is pure.
//
//	build.queued     dev.cdevents.build.queued
//	build.started    dev.cdevents.build.started
//	build.finished   dev.cdevents.build.finished, and
//	  success        dev.cdevents.artifact.published, if an image was pushed
//	  otherwise      dev.cdevents.taskrun.finished, as build.finished has no
//	                 outcome in CDEvents
package cdevents

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
)

// specVersion is the version of CDEvents.
const specVersion = "0.5.1"

// The types of events.
const (
	typeBuildQueued       = "dev.cdevents.build.queued.0.3.0"
	typeBuildStarted      = "dev.cdevents.build.started.0.3.0"
	typeBuildFinished     = "dev.cdevents.build.finished.0.3.0"
	typeArtifactPublished = "dev.cdevents.artifact.published.0.3.0"
	typeTaskRunFinished   = "dev.cdevents.taskrun.finished.0.3.0"
)

// cdEvent is a CDEvent.
type cdEvent struct {
	Context               cdContext `json:"context"`
	Subject               subject   `json:"subject"`
	CustomData            *outcome  `json:"customData,omitempty"`
	CustomDataContentType string    `json:"customDataContentType,omitempty"`
}

type cdContext struct {
	SpecVersion string `json:"specversion"`
	ID          string `json:"id"`
	ChainID     string `json:"chainId"`
	Source      string `json:"source"`
	Type        string `json:"type"`
	Timestamp   string `json:"timestamp"` // RFC 3339
	Links       []link `json:"links,omitempty"`
}

// link names the event that led to this one.
type link struct {
	LinkType string `json:"linkType"`
	LinkKind string `json:"linkKind"`
	Target   target `json:"target"`
}

type target struct {
	ContextID string `json:"contextId"`
}

type subject struct {
	ID      string            `json:"id"`
	Source  string            `json:"source"`
	Content map[string]string `json:"content"`
}

// outcome is what Kiln adds to the end of a build.
type outcome struct {
	Outcome events.Outcome `json:"outcome"`
	Class   events.Class   `json:"class,omitempty"`
	Reason  string         `json:"reason,omitempty"`
}

// Mirror returns what an event of Kiln is in CDEvents: none if it has no
// counterpart. Their ids follow from the event's, so that they are the same
// however often they are made.
func Mirror(e event.Event) ([]event.Event, error) {
	switch e.Type() {
	case events.TypeBuildQueued:
		return one(e, typeBuildQueued)
	case events.TypeBuildStarted:
		return one(e, typeBuildStarted)
	case events.TypeBuildFinished:
		return finished(e)
	}
	return nil, nil
}

// one mirrors an event about a build of which there is nothing more to say.
func one(e event.Event, typ string) ([]event.Event, error) {
	m, err := encode(e, typ, cdEvent{Subject: subject{ID: buildID(e), Content: map[string]string{}}})
	if err != nil {
		return nil, err
	}
	return []event.Event{m}, nil
}

// finished mirrors the end of a build.
func finished(e event.Event) ([]event.Event, error) {
	var data events.Finished
	if err := json.Unmarshal(e.Data(), &data); err != nil {
		return nil, fmt.Errorf("mirror %s: %w", e.ID(), err)
	}
	ended := cdEvent{
		Subject:               subject{ID: buildID(e), Content: map[string]string{}},
		CustomData:            &outcome{Outcome: data.Outcome, Class: data.Class, Reason: data.Reason},
		CustomDataContentType: event.ApplicationJSON,
	}
	second, secondType := cdEvent{}, ""
	switch pushed := data.Image != nil && data.Image.Digest != ""; {
	case data.Outcome == events.OutcomeSuccess && pushed:
		id := packageURL(*data.Image)
		ended.Subject.Content["artifactId"] = id
		second, secondType = cdEvent{Subject: subject{ID: id, Content: map[string]string{}}}, typeArtifactPublished
	case data.Outcome != events.OutcomeSuccess:
		content := map[string]string{"taskName": data.Build.Trigger, "outcome": cdOutcome(data.Outcome)}
		if data.Message != "" {
			content["errors"] = data.Message
		}
		second, secondType = cdEvent{Subject: subject{ID: buildID(e), Content: content}}, typeTaskRunFinished
	}
	m, err := encode(e, typeBuildFinished, ended)
	if err != nil || secondType == "" {
		return []event.Event{m}, err
	}
	n, err := encode(e, secondType, second)
	return []event.Event{m, n}, err
}

// cdOutcome is an outcome in the words of CDEvents.
func cdOutcome(o events.Outcome) string {
	switch o {
	case events.OutcomeFailed:
		return "failure"
	case events.OutcomeCancelled:
		return "cancel"
	}
	return string(o) // success and error are called so
}

func buildID(e event.Event) string {
	id, _ := e.Extensions()[events.ExtBuildID].(string)
	return id
}

// encode completes a CDEvent with what it has from the event that it mirrors, and
// wraps it as the binding of CDEvents to CloudEvents says: id, source, type, time
// and subject are the same in both.
func encode(e event.Event, typ string, c cdEvent) (event.Event, error) {
	words := strings.Split(typ, ".") // dev, cdevents, subject, predicate, …
	id := buildID(e) + "." + words[2] + "." + words[3]
	if attempt, ok := strings.CutPrefix(e.ID(), buildID(e)+"."+words[3]+"."); ok {
		id += "." + attempt
	}
	c.Context = cdContext{
		SpecVersion: specVersion, ID: id, ChainID: chainID(buildID(e)), Source: e.Source(), Type: typ,
		Timestamp: e.Time().UTC().Format("2006-01-02T15:04:05.000Z"),
	}
	if cause, ok := e.Extensions()[events.ExtCausationID].(string); ok && cause != "" {
		c.Context.Links = []link{{LinkType: "RELATION", LinkKind: "TRIGGER", Target: target{ContextID: cause}}}
	}
	c.Subject.Source = e.Source()
	out := event.New()
	out.SetID(id)
	out.SetSource(e.Source())
	out.SetType(typ)
	out.SetTime(e.Time().UTC().Truncate(1e6)) // as in the timestamp
	out.SetSubject(c.Subject.ID)
	for _, name := range []string{
		events.ExtBuildID, events.ExtTenant, events.ExtTrigger, events.ExtPartitionKey, events.ExtSequence,
		events.ExtCausationID, events.ExtTraceParent,
	} {
		if value, ok := e.Extensions()[name].(string); ok {
			out.SetExtension(name, value)
		}
	}
	if err := out.SetData(event.ApplicationJSON, c); err != nil {
		return event.Event{}, fmt.Errorf("mirror %s as %s: %w", e.ID(), typ, err)
	}
	if err := out.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("mirror %s as %s: %w", e.ID(), typ, err)
	}
	return out, nil
}

// chainID names all events of a build: a UUID of version 8 made of the build's id.
func chainID(buildID string) string {
	sum := sha256.Sum256([]byte("cdevents chain\n" + buildID))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// packageURL is the purl of an image: type oci, the last part of the repository,
// the digest, and the whole repository as a qualifier.
func packageURL(i events.ImageInfo) string {
	purl := "pkg:oci/" + strings.ToLower(path.Base(i.Repository)) + "@" + url.QueryEscape(i.Digest) +
		"?repository_url=" + url.QueryEscape(i.Repository)
	if len(i.TagsMoved) > 0 {
		purl += "&tag=" + url.QueryEscape(i.TagsMoved[0])
	}
	return purl
}
