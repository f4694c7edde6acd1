// Package launch runs builds as Kubernetes Jobs.
//
// A build is one Job with a name that follows from its id, so that launching
// twice is launching once. The request travels in an annotation of the pod, from
// which the executor reads it through the downward API; it holds no secret. What
// became of the build comes back as the container's termination message. Nothing
// is stored besides: the Job is the state of a build in flight, the ledger its
// memory.
//
// Job makes the object and outcome reads its end; both are pure. Launcher
// carries them out.
package launch
