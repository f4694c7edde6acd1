// Package api is what the one-machine stack and its clients say to each other
// over HTTP: the JSON of /api/builds and /healthz, and the file that tells
// clients where the stack listens.
package api

import (
	"encoding/json"
	"time"

	"github.com/kilnhook/kiln/events"
)

// States of a build.
const (
	StateQueued    = "queued"    // waits for its turn
	StateRunning   = "running"   // an executor works on it
	StateFinishing = "finishing" // its outcome is being announced
	StatePending   = "pending"   // requested, and not handed to a launcher yet
	StateFinished  = "finished"  // has its one outcome
)

// Build is one build as the API shows it.
type Build struct {
	ID       string           `json:"id"`
	State    string           `json:"state"`              // one of the State constants
	Position int              `json:"position,omitempty"` // in the queue, from 1
	Request  events.Request   `json:"request"`
	Since    time.Time        `json:"since,omitzero"`   // when it entered a state before finished
	Result   *events.Result   `json:"result,omitempty"` // once it is finished
	Event    *json.RawMessage `json:"event,omitempty"`  // build.finished as structured JSON; of one build only, once published
}

// Finished reports whether the build has its outcome.
func (b Build) Finished() bool { return b.State == StateFinished }

// List is a page of builds, newest first.
type List struct {
	Builds []Build `json:"builds"`
	Next   string  `json:"next,omitempty"` // parameter "after" of the next page; empty on the last
}

// Health is what /healthz says.
type Health struct {
	Status  string `json:"status"` // "ok"
	Version string `json:"version"`
	Install string `json:"install"` // name of the installation, in the source of its events
	Queued  int    `json:"queued"`
	Running int    `json:"running"`
}

// Check is one finding of /api/doctor.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`           // what was found
	Advice string `json:"advice,omitempty"` // what to do, if it is not in order
}

// Address says where a stack listens. It is written as JSON into its data
// directory, for clients of the same user.
type Address struct {
	HTTP string `json:"http"` // "http://127.0.0.1:8765"
	S3   string `json:"s3"`   // "http://127.0.0.1:8766"
	PID  int    `json:"pid"`
}

// Error is the body of an answer that is no success.
type Error struct {
	Error string `json:"error"` // what was wrong, and what to do
}
