package events

import (
	"fmt"
	"strings"
	"time"
)

// Outcome is how a build ended.
type Outcome string

// The four outcomes.
const (
	OutcomeSuccess   Outcome = "success"   // the image was built, and pushed if the request says so
	OutcomeFailed    Outcome = "failed"    // the build itself is at fault, or ran out of something
	OutcomeCancelled Outcome = "cancelled" // somebody or a newer build stopped it
	OutcomeError     Outcome = "error"     // the build could not be run, or its result not be trusted
)

// Class narrows an outcome that is not a success. It is empty on success.
type Class string

// The classes.
const (
	ClassNone       Class = ""
	ClassBuild      Class = "build"       // a Dockerfile instruction failed
	ClassConfig     Class = "config"      // a trigger, template or flag is wrong
	ClassSource     Class = "source"      // the context could not be had
	ClassOOM        Class = "oom"         // out of memory
	ClassDisk       Class = "disk"        // out of disk
	ClassTimeout    Class = "timeout"     // longer than the request allows
	ClassInfra      Class = "infra"       // the world's fault; a retry may help
	ClassInfraStart Class = "infra-start" // the executor never started
	ClassPush       Class = "push"        // the image could not be pushed, or is not where it should be
	ClassPolicy     Class = "policy"      // a rule of the installation forbids it
	ClassSuperseded Class = "superseded"  // a newer build of the group took its place
	ClassDeleted    Class = "deleted"     // the job or its ref was deleted
)

// Result is what became of a build. It holds no secret and no log.
type Result struct {
	Outcome Outcome `json:"outcome"`
	Class   Class   `json:"class,omitempty"`
	Reason  string  `json:"reason,omitempty"`  // a short constant phrase, at most MaxReason bytes
	Message string  `json:"message,omitempty"` // for people, at most MaxMessage bytes

	Digest     string   `json:"digest,omitempty"`     // of the manifest or index, "sha256:…"
	MediaType  string   `json:"mediaType,omitempty"`  // of the manifest or index
	Size       int64    `json:"size,omitempty"`       // bytes of config and layers, compressed
	Repository string   `json:"repository,omitempty"` // where it was pushed, without a tag
	Tags       []string `json:"tags,omitempty"`       // tags the request asks for

	Layers    []LayerInfo    `json:"layers,omitempty"`    // from the base up
	Bases     []BaseInfo     `json:"bases,omitempty"`     // base images as they were resolved
	Platform  string         `json:"platform,omitempty"`  // "linux/amd64", "linux/arm/v7"
	Platforms []PlatformInfo `json:"platforms,omitempty"` // of an index, with the digests of their manifests
	Isolation string         `json:"isolation,omitempty"` // how RUN was kept apart: "overlay", "inplace"
	Cache     CacheInfo      `json:"cache,omitzero"`

	StartedAt  time.Time        `json:"startedAt,omitzero"`
	FinishedAt time.Time        `json:"finishedAt,omitzero"`
	DurationMS map[string]int64 `json:"durationMs,omitempty"` // milliseconds by phase: "fetch", "build", "push"
	ExitCode   int              `json:"exitCode,omitempty"`   // of the executor, or of the RUN that failed
}

// LayerInfo describes one layer of the image.
type LayerInfo struct {
	Digest    string `json:"digest"`              // of the compressed blob
	Size      int64  `json:"size"`                // compressed bytes
	CreatedBy string `json:"createdBy,omitempty"` // the instruction
}

// BaseInfo is a base image as it was resolved.
type BaseInfo struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
}

// CacheInfo counts the layers that came from the cache and those that did not.
type CacheInfo struct {
	Hits   int `json:"hits"`
	Misses int `json:"misses"`
}

// Clean returns the result fit to be stored and sent: the message and reason
// bounded, of valid UTF-8 and without credentials in URLs, no values of build
// arguments in what layers were created by, the class empty on success, and no
// digest unless the build succeeded. Cleaning twice is cleaning once.
func (r Result) Clean() Result {
	r.Message = CleanText(r.Message, MaxMessage)
	r.Reason = CleanText(r.Reason, MaxReason)
	layers := make([]LayerInfo, len(r.Layers))
	for i, l := range r.Layers {
		l.CreatedBy = CleanText(withoutArgs(l.CreatedBy), MaxReason)
		layers[i] = l
	}
	if r.Layers != nil {
		r.Layers = layers
	}
	if r.Outcome == OutcomeSuccess {
		r.Class = ClassNone
	} else {
		r.Digest, r.MediaType, r.Size, r.Platforms = "", "", 0, nil
	}
	return r
}

// Validate reports the first thing about the result that cannot be believed.
func (r Result) Validate() error {
	switch r.Outcome {
	case OutcomeSuccess, OutcomeFailed, OutcomeCancelled, OutcomeError:
	default:
		return fmt.Errorf("outcome %q is none of success, failed, cancelled, error", r.Outcome)
	}
	switch r.Class {
	case ClassNone, ClassBuild, ClassConfig, ClassSource, ClassOOM, ClassDisk, ClassTimeout, ClassInfra,
		ClassInfraStart, ClassPush, ClassPolicy, ClassSuperseded, ClassDeleted:
	default:
		return fmt.Errorf("class %q is unknown", r.Class)
	}
	if r.Digest != "" && !IsDigest(r.Digest) {
		return fmt.Errorf("digest %q is not sha256: and 64 hex digits", r.Digest)
	}
	return nil
}

// IsDigest reports whether s is a sha256 digest in the form of the OCI image
// specification.
func IsDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// withoutArgs removes from a history line the values of the build arguments
// that a RUN saw, which builders put in front of the shell as "|2 A=1 B=2".
// Values may hold spaces, so where they end is told by the shell that follows;
// without one, all of the line goes.
func withoutArgs(createdBy string) string {
	rest, run := strings.CutPrefix(createdBy, "RUN ")
	if !strings.HasPrefix(rest, "|") {
		return createdBy
	}
	const shell = "/bin/sh -c "
	i := strings.LastIndex(rest, " "+shell)
	if i < 0 {
		return "RUN"
	}
	if rest = rest[i+1:]; run {
		return "RUN " + rest
	}
	return rest
}
