package events

import "time"

// Kinds of a progress line.
const (
	ProgressStep   = "step"   // a step changed state
	ProgressOutput = "output" // a RUN printed a line
	ProgressBytes  = "bytes"  // something grew: Current of Total
	ProgressNote   = "note"   // text for people: a warning, a choice that was made
	ProgressResult = "result" // the last line: Text is the digest, or Error says why there is none
)

// States of a step.
const (
	StepStarted = "started"
	StepDone    = "done"
	StepCached  = "cached"
	StepFailed  = "failed"
)

// Progress is one line of what an executor says while it works, as JSON, one
// object a line. Fields that do not apply to the kind are absent.
type Progress struct {
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`              // one of the Progress constants
	ID      string    `json:"id,omitempty"`      // the step: "2.3" is the third step of the second stage
	Name    string    `json:"name,omitempty"`    // for people: "[builder 2/4] RUN make"
	Phase   string    `json:"phase,omitempty"`   // load, pull, extract, copy, add, run, workdir, snapshot, layer, push, export
	State   string    `json:"state,omitempty"`   // one of the Step constants
	Stream  int       `json:"stream,omitempty"`  // 1 for standard output, 2 for standard error
	Text    string    `json:"text,omitempty"`    // a line without its newline
	Current int64     `json:"current,omitempty"` // bytes done
	Total   int64     `json:"total,omitempty"`   // bytes in all; 0 if unknown
	MS      int64     `json:"ms,omitempty"`      // milliseconds the step took
	Error   string    `json:"error,omitempty"`   // why it failed
	Pos     string    `json:"pos,omitempty"`     // "Dockerfile:7"

	Platform string `json:"platform,omitempty"` // which it is about, in a build for several
}
