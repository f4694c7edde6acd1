// Package progress says what a build is doing: a build sends events to a Sink.
// Package view shows them.
package progress

import (
	"slices"
	"time"
)

// Kind says what an event is about.
type Kind string

// The kinds of events.
const (
	KindStep   Kind = "step"   // a step changed its state
	KindOutput Kind = "output" // a line that a RUN printed
	KindBytes  Kind = "bytes"  // how far a transfer is
	KindNote   Kind = "note"   // something a person should know
	KindResult Kind = "result" // the end: digest or error
	KindPhase  Kind = "phase"  // a step began or ended a phase; phases of one step may overlap and outlast it
	KindLayer  Kind = "layer"  // a layer of the image is known
)

// Phase says what a step does at the moment.
type Phase string

// The phases of a build.
const (
	PhaseLoad     Phase = "load" // context, Dockerfile and base images
	PhasePull     Phase = "pull"
	PhaseExtract  Phase = "extract"
	PhaseCopy     Phase = "copy"
	PhaseAdd      Phase = "add"
	PhaseRun      Phase = "run"
	PhaseWorkdir  Phase = "workdir"
	PhaseSnapshot Phase = "snapshot"
	PhaseLayer    Phase = "layer"
	PhasePush     Phase = "push"
	PhaseExport   Phase = "export"
)

// State is the state of a step.
type State string

// The states of a step. All but StateStarted are final.
const (
	StateStarted State = "started"
	StateDone    State = "done"
	StateCached  State = "cached"
	StateFailed  State = "failed"
)

// Event is one thing that happened. Its JSON form is a public contract: one
// object a line with --progress=json.
type Event struct {
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	ID      string    `json:"id,omitempty"`      // of the step: "2.3"
	Name    string    `json:"name,omitempty"`    // of the step: "[builder 2/4] RUN make"
	Phase   Phase     `json:"phase,omitempty"`   // what the step does
	State   State     `json:"state,omitempty"`   // of KindStep and KindResult
	Stream  int       `json:"stream,omitempty"`  // 1 stdout, 2 stderr; of KindOutput
	Text    string    `json:"text,omitempty"`    // a line without newline, a note, or the digest or error of KindResult
	Current int64     `json:"current,omitempty"` // bytes so far
	Total   int64     `json:"total,omitempty"`   // bytes in all; 0 if unknown
	MS      int64     `json:"ms,omitempty"`      // how long a finished step took, in milliseconds
	Error   string    `json:"error,omitempty"`   // of a failed step
	Pos     string    `json:"pos,omitempty"`     // "Dockerfile:7"
	Cache   Cache     `json:"cache,omitempty"`   // of a step that is over and has an operation
	Reason  string    `json:"reason,omitempty"`  // why Cache is not CacheHit
	Inputs  *Inputs   `json:"inputs,omitempty"`  // of a step whose key is known
	Layer   *Layer    `json:"layer,omitempty"`   // of KindLayer
}

// Cache says what the cache did for a step.
type Cache string

// What a cache can do for a step.
const (
	CacheHit  Cache = "hit"  // it had the step's layer
	CacheMiss Cache = "miss" // it was asked in vain
	CacheOff  Cache = "off"  // it was not asked
)

// Inputs are hashes of what a step's key is made of, 12 hex digits each. Steps of
// two builds whose keys differ differ in at least one of them.
type Inputs struct {
	Before      string `json:"before"`            // everything up to the step before
	Instruction string `json:"instruction"`       // what the step says, with its variables
	Content     string `json:"content,omitempty"` // the files, stages and images that it reads
}

// Layer is a layer of the image.
type Layer struct {
	Digest   string    `json:"digest"`
	Size     int64     `json:"size"`               // compressed bytes
	Contents *Contents `json:"contents,omitempty"` // nil if they are not known
}

// MaxLargest is how many files Contents names.
const MaxLargest = 10

// Contents says what is in a layer.
type Contents struct {
	Files   int    `json:"files"`             // all but directories and whiteouts
	Removed int    `json:"removed,omitempty"` // whiteouts
	Bytes   int64  `json:"bytes"`             // of regular files, uncompressed
	Largest []File `json:"largest,omitempty"` // regular files, the largest first, at most MaxLargest
}

// File is a regular file in a layer.
type File struct {
	Path string `json:"path"` // without a slash before it
	Size int64  `json:"size"` // bytes
}

// Add counts a regular file.
func (c *Contents) Add(path string, size int64) {
	c.Files++
	c.Bytes += size
	at := len(c.Largest)
	for at > 0 && c.Largest[at-1].Size < size {
		at--
	}
	if size == 0 || at == MaxLargest {
		return
	}
	c.Largest = slices.Insert(c.Largest, at, File{path, size})
	c.Largest = c.Largest[:min(len(c.Largest), MaxLargest)]
}

// Stopped is the error of a step that did not fail itself.
const Stopped = "stopped with the rest of the build"

// Sink takes events. It may be called by several goroutines at once and must
// not block for long. A nil Sink is valid and drops what Send gives it.
type Sink func(Event)

// Send passes e on.
func (s Sink) Send(e Event) {
	if s != nil {
		s(e)
	}
}
