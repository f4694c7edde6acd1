package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What becomes of the older builds of a group when a newer one is requested.
const (
	SupersedeQueue            = "queue"              // they run first
	SupersedeCancelPending    = "cancel-pending"     // those that have not started are cancelled
	SupersedeCancelInProgress = "cancel-in-progress" // all are cancelled; the default for branches and objects
	SupersedeKeepAll          = "keep-all"           // none is touched; the default for tags
)

// Priorities of builds, from the most urgent down.
const (
	PriorityInteractive = "interactive" // a person waits for it
	PriorityPush        = "push"        // somebody pushed or uploaded; the default
	PriorityRebuild     = "rebuild"     // a base image moved
	PriorityScheduled   = "scheduled"   // it was time
)

// Priorities lists them, the most urgent first.
func Priorities() []string {
	return []string{PriorityInteractive, PriorityPush, PriorityRebuild, PriorityScheduled}
}

// Resources are what a build needs. Zero is whatever the launcher gives.
type Resources struct {
	CPUMillis int64 `json:"cpuMillis,omitempty"` // thousandths of a CPU
	Memory    int64 `json:"memory,omitempty"`    // bytes
	Disk      int64 `json:"disk,omitempty"`      // bytes
}

// Report says who is told of a build besides those who listen to events.
type Report struct {
	Status bool     `json:"status,omitempty"` // the forge, on the commit
	Notify []string `json:"notify,omitempty"` // names of notifications that the installation configures
}

// Request is everything needed to run one build. It holds no secret.
type Request struct {
	BuildID  string // see BuildID
	Install  string // name of this installation of Kiln
	Tenant   string // whose build it is
	Trigger  string // name of the trigger that matched
	Sequence uint64 // grows with every change of the same ref or object, from 1
	Group    string // builds of one group supersede each other: trigger and ref, or trigger and object
	Change   Change // what caused the build

	Context        string            // where the executor gets the files, in its own spelling ("git://…", "tar:///…")
	ContextSubPath string            // directory below the context's root that is the context; "" is the root
	Dockerfile     string            // path below the context; "" is the executor's default
	Target         string            // stage to build; "" is the last
	Args           map[string]string // build arguments
	Labels         map[string]string // labels of the image
	Image          string            // repository to push to, without a tag; "" pushes nothing
	Tags           []string          // tags to move when the build succeeded

	Platform       string        // "os/arch[/variant]" to build for; "" is the executor's own, or Platforms
	Platforms      []string      // several to build for, in ascending order, each as a part of its own; see Parts
	PartOf         string        // the build that this is one platform of; "" for a whole build
	Resources      Resources     // what the build needs
	Priority       string        // one of the Priority constants; "" is PriorityPush
	PendingTimeout time.Duration // how long it may wait for an executor to start; 0 is the launcher's default
	Report         Report        // who is told

	Timeout     time.Duration // of the whole build; 0 is the launcher's default
	Supersede   string        // one of the Supersede constants; "" is SupersedeKeepAll
	RequestedAt time.Time     // when the dispatcher accepted the change
	Attempt     int           // 1 for the first launch, 2 for the launch after an executor was lost, …
	Nonce       uint64        // 0, plus 1 for every time the same change was built again
	Cause       string        // why it is built again: "base docker.io/library/golang:1@sha256:…"; "" for a change
	TraceParent string        // W3C trace context of the delivery, if it had one
}

// requestJSON is the JSON form of a Request.
type requestJSON struct {
	BuildID        string            `json:"buildId"`
	Install        string            `json:"install"`
	Tenant         string            `json:"tenant"`
	Trigger        string            `json:"trigger"`
	Sequence       uint64            `json:"sequence"`
	Group          string            `json:"group"`
	Change         Change            `json:"change"`
	Context        string            `json:"context"`
	ContextSubPath string            `json:"contextSubPath,omitempty"`
	Dockerfile     string            `json:"dockerfile,omitempty"`
	Target         string            `json:"target,omitempty"`
	Args           map[string]string `json:"args,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Image          string            `json:"image,omitempty"`
	Tags           []string          `json:"tags,omitempty"`
	TimeoutSeconds float64           `json:"timeoutSeconds,omitempty"`
	Platform       string            `json:"platform,omitempty"`
	Platforms      []string          `json:"platforms,omitempty"`
	PartOf         string            `json:"partOf,omitempty"`
	Resources      Resources         `json:"resources,omitzero"`
	Priority       string            `json:"priority,omitempty"`
	PendingSeconds float64           `json:"pendingTimeoutSeconds,omitempty"`
	Report         Report            `json:"report,omitzero"`
	Supersede      string            `json:"supersede,omitempty"`
	RequestedAt    time.Time         `json:"requestedAt,omitzero"`
	Attempt        int               `json:"attempt"`
	Nonce          uint64            `json:"nonce,omitempty"`
	Cause          string            `json:"cause,omitempty"`
	TraceParent    string            `json:"traceparent,omitempty"`
}

// MarshalJSON writes the request with camelCase names and the timeout as
// timeoutSeconds.
func (r Request) MarshalJSON() ([]byte, error) {
	return json.Marshal(requestJSON{
		BuildID: r.BuildID, Install: r.Install, Tenant: r.Tenant, Trigger: r.Trigger,
		Sequence: r.Sequence, Group: r.Group, Change: r.Change,
		Context: r.Context, ContextSubPath: r.ContextSubPath, Dockerfile: r.Dockerfile,
		Target: r.Target, Args: r.Args, Labels: r.Labels, Image: r.Image, Tags: r.Tags,
		Platform: r.Platform, Platforms: r.Platforms, PartOf: r.PartOf, Resources: r.Resources, Priority: r.Priority, PendingSeconds: r.PendingTimeout.Seconds(), Report: r.Report,
		TimeoutSeconds: r.Timeout.Seconds(), Supersede: r.Supersede,
		RequestedAt: r.RequestedAt, Attempt: r.Attempt, Nonce: r.Nonce, Cause: r.Cause, TraceParent: r.TraceParent,
	})
}

// maxTimeoutSeconds keeps a timeout within what a time.Duration can hold.
const maxTimeoutSeconds = 1 << 32

// UnmarshalJSON reads what MarshalJSON wrote and ignores unknown fields.
func (r *Request) UnmarshalJSON(data []byte) error {
	var j requestJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	for name, seconds := range map[string]float64{"timeoutSeconds": j.TimeoutSeconds, "pendingTimeoutSeconds": j.PendingSeconds} {
		if seconds < 0 || seconds > maxTimeoutSeconds {
			return fmt.Errorf("%s %g is not between 0 and %d", name, seconds, maxTimeoutSeconds)
		}
	}
	*r = Request{
		BuildID: j.BuildID, Install: j.Install, Tenant: j.Tenant, Trigger: j.Trigger,
		Sequence: j.Sequence, Group: j.Group, Change: j.Change,
		Context: j.Context, ContextSubPath: j.ContextSubPath, Dockerfile: j.Dockerfile,
		Target: j.Target, Args: j.Args, Labels: j.Labels, Image: j.Image, Tags: j.Tags,
		Platform: j.Platform, Platforms: j.Platforms, PartOf: j.PartOf, Resources: j.Resources, Priority: j.Priority,
		PendingTimeout: time.Duration(j.PendingSeconds * float64(time.Second)), Report: j.Report,
		Timeout: time.Duration(j.TimeoutSeconds * float64(time.Second)), Supersede: j.Supersede,
		RequestedAt: j.RequestedAt, Attempt: j.Attempt, Nonce: j.Nonce, Cause: j.Cause, TraceParent: j.TraceParent,
	}
	return nil
}

// DeriveBuildID returns the build id that belongs to the request's trigger,
// change, sequence and nonce.
func (r Request) DeriveBuildID() string {
	nonce := strconv.FormatUint(r.Nonce, 10)
	c := r.Change
	if c.Kind == KindGit {
		seq := strconv.FormatUint(r.Sequence, 10)
		return BuildID(r.Trigger, c.Kind, c.Location, c.Name, seq, c.Revision(), nonce)
	}
	return BuildID(r.Trigger, c.Kind, c.Location, c.Name, c.Generation, nonce)
}

// Validate reports the first thing about the request that an executor or a
// finisher could not work with.
func (r Request) Validate() error {
	if !IsBuildID(r.BuildID) {
		return fmt.Errorf("build id %q is not 26 characters of 0-9a-v", r.BuildID)
	}
	if r.Trigger == "" {
		return errors.New("request names no trigger")
	}
	if r.Context == "" {
		return errors.New("request has no context")
	}
	if err := r.validPlatforms(); err != nil {
		return err
	}
	if r.Timeout < 0 || r.PendingTimeout < 0 {
		return fmt.Errorf("timeout %s or pending timeout %s is negative", r.Timeout, r.PendingTimeout)
	}
	if err := ValidPriority(r.Priority); err != nil {
		return err
	}
	if err := ValidSupersede(r.Supersede); err != nil {
		return err
	}
	return r.Change.Validate()
}

// ValidPriority reports whether priority is one of the Priority constants or empty.
func ValidPriority(priority string) error {
	if priority == "" || slices.Contains(Priorities(), priority) {
		return nil
	}
	return fmt.Errorf("priority %q is none of %s", priority, strings.Join(Priorities(), ", "))
}

// ValidSupersede reports whether policy is one of the Supersede constants or empty.
func ValidSupersede(policy string) error {
	switch policy {
	case "", SupersedeQueue, SupersedeCancelPending, SupersedeCancelInProgress, SupersedeKeepAll:
		return nil
	}
	return fmt.Errorf("supersede policy %q is none of %s, %s, %s, %s", policy,
		SupersedeQueue, SupersedeCancelPending, SupersedeCancelInProgress, SupersedeKeepAll)
}
