package events

import "time"

// Kinds of a progress line.
const (
	ProgressStep   = "step"   // a step changed state
	ProgressOutput = "output" // a RUN printed a line
	ProgressBytes  = "bytes"  // something grew: Current of Total
	ProgressNote   = "note"   // text for people: a warning, a choice that was made
	ProgressResult = "result" // the last line: Text is the digest, or Error says why there is none
	ProgressPhase  = "phase"  // a step began or ended a phase; phases of one step may overlap and outlast it
	ProgressLayer  = "layer"  // a layer of the image is known
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

	Platform string          `json:"platform,omitempty"` // which it is about, in a build for several
	Cache    string          `json:"cache,omitempty"`    // of a step that is over: one of the Cache constants
	Reason   string          `json:"reason,omitempty"`   // why Cache is not CacheHit
	Inputs   *ProgressInputs `json:"inputs,omitempty"`   // of a step whose cache key is known
	Layer    *ProgressBlob   `json:"layer,omitempty"`    // of ProgressLayer
}

// What a cache did for a step.
const (
	CacheHit  = "hit"  // it had the step's layer
	CacheMiss = "miss" // it was asked in vain
	CacheOff  = "off"  // it was not asked
)

// ProgressInputs are hashes of what a step's cache key is made of. Steps of two
// builds whose keys differ differ in at least one of them.
type ProgressInputs struct {
	Before      string `json:"before"`            // everything up to the step before
	Instruction string `json:"instruction"`       // what the step says, with its variables
	Content     string `json:"content,omitempty"` // the files, stages and images that it reads
}

// ProgressBlob is a layer of the image.
type ProgressBlob struct {
	Digest   string            `json:"digest"`
	Size     int64             `json:"size"`               // compressed bytes
	Contents *ProgressContents `json:"contents,omitempty"` // absent if they are not known
}

// ProgressContents says what is in a layer.
type ProgressContents struct {
	Files   int            `json:"files"`             // all but directories and whiteouts
	Removed int            `json:"removed,omitempty"` // whiteouts
	Bytes   int64          `json:"bytes"`             // of regular files, uncompressed
	Largest []ProgressFile `json:"largest,omitempty"` // regular files, the largest first
}

// ProgressFile is a regular file in a layer.
type ProgressFile struct {
	Path string `json:"path"` // without a slash before it
	Size int64  `json:"size"` // bytes
}
