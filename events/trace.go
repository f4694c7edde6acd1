package events

import (
	"crypto/sha256"
	"encoding/hex"
)

// TraceID is the trace of a build whose event came without one.
func TraceID(buildID string) [16]byte {
	sum := sha256.Sum256([]byte("trace " + buildID))
	return [16]byte(sum[:16])
}

// SpanID is the span of a part of a build; the part "build" is all of it.
func SpanID(buildID, part string) [8]byte {
	sum := sha256.Sum256([]byte(buildID + " " + part))
	return [8]byte(sum[:8])
}

// NewTraceParent is the W3C trace context of a build whose event came without
// one. It follows from the build's id, so it is the same however often the event
// comes.
func NewTraceParent(buildID string) string {
	traceID, spanID := TraceID(buildID), SpanID(buildID, "build")
	return "00-" + hex.EncodeToString(traceID[:]) + "-" + hex.EncodeToString(spanID[:]) + "-01"
}
