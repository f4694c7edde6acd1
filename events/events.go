// Package events is the contract between the parts of Kiln and with everybody
// who listens to it: what a change, a request to build and a result are, how
// they are written as JSON, and the CloudEvents that carry them.
//
// The package is pure. It does no input or output, reads no clock and knows no
// other package of Kiln. Every type version is part of the event type; within
// a version fields are only added, so a reader ignores what it does not know.
package events

// The CloudEvent types that Kiln sends. TypeSourceChanged is also received.
const (
	TypeSourceChanged   = "dev.kilnhook.source.changed.v1"   // an object was stored or a ref moved; data is a [Change]
	TypeBuildRequested  = "dev.kilnhook.build.requested.v1"  // a trigger matched a change; data is a [Lifecycle]
	TypeBuildQueued     = "dev.kilnhook.build.queued.v1"     // an executor was asked for; data is a [Lifecycle]
	TypeBuildStarted    = "dev.kilnhook.build.started.v1"    // an executor runs; data is a [Lifecycle]
	TypeBuildFinished   = "dev.kilnhook.build.finished.v1"   // the one terminal event; data is a [Finished]
	TypeTriggerRejected = "dev.kilnhook.trigger.rejected.v1" // a change was seen and not built; data is a [Rejected]
)

// TypeBuildRun is the CloudEvent that hands a build to an executor; data is a
// [Request]. It is a command to one receiver and never published.
const TypeBuildRun = "dev.kilnhook.build.run.v1"

// Types lists every CloudEvent type of this version, in the order of a build's life.
func Types() []string {
	return []string{
		TypeSourceChanged, TypeBuildRequested, TypeBuildQueued,
		TypeBuildStarted, TypeBuildFinished, TypeTriggerRejected,
	}
}

// Names of the extension attributes. Filters of brokers and topics see
// attributes only, never data, so everything one would filter on is here.
const (
	ExtBuildID      = "buildid"      // the build
	ExtTenant       = "tenant"       // whose build it is
	ExtTrigger      = "trigger"      // the trigger's name
	ExtOutcome      = "outcome"      // of build.finished: success, failed, cancelled or error
	ExtImageDigest  = "imagedigest"  // of build.finished with outcome success: "sha256:…"
	ExtCommit       = "commit"       // the commit that was built, of a git change
	ExtPartitionKey = "partitionkey" // the build's group: events of one group are kept in order
	ExtSequence     = "sequence"     // the build's sequence in its group, 20 digits, zero padded
	ExtCausationID  = "causationid"  // the delivery that caused this, as its sender named it
	ExtTraceParent  = "traceparent"  // W3C trace context
	ExtDataRef      = "dataref"      // where the data is, of an event that is too large to carry it
)

// Limits on what an event carries.
const (
	MaxMessage   = 2 << 10 // bytes of UTF-8 in a result's message
	MaxReason    = 256     // bytes of UTF-8 in a result's reason
	MaxAttribute = 1024    // bytes of one attribute's value, as Pub/Sub allows
)
