package jobsink

import (
	"crypto/md5" //nolint:gosec // it is how a JobSink makes names, not a secret
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"

	"knative.dev/pkg/kmeta"

	"github.com/kilnhook/kiln/events"
)

// labelJob is the label that Kubernetes gives the pods of a Job: its name.
const labelJob = "batch.kubernetes.io/job-name"

// Sink is a JobSink: who knows its name knows the Job of every event.
type Sink struct{ Namespace, Name string }

// ParseURL reads which JobSink a URL is of: its path is /NAMESPACE/NAME.
func ParseURL(address string) (Sink, error) {
	u, err := url.Parse(address)
	if err != nil {
		return Sink{}, fmt.Errorf("URL of a JobSink: %w", err)
	}
	namespace, name, ok := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return Sink{}, fmt.Errorf("the URL of a JobSink ends with /NAMESPACE/NAME, and %s does not", address)
	}
	return Sink{Namespace: namespace, Name: name}, nil
}

// JobName is the name of the Job that the JobSink makes of an attempt at a build. It
// follows from source and id of the event, so that an event is one Job; only on the Job
// itself does a JobSink put labels, and none of them says which event it is of.
func (s Sink) JobName(req events.Request, attempt int) string {
	sum := md5.Sum([]byte(events.Source(req.Install, req.Tenant) + events.RunID(req.BuildID, attempt))) //nolint:gosec // see above
	return kmeta.ChildName(s.Name+"-", hex.EncodeToString(sum[:]))
}

// Selector is the label selector of the pods of a build's Jobs, of which there are as
// many as attempts.
func (s Sink) Selector(req events.Request, attempts int) string {
	var names []string
	for attempt := range attempts {
		names = append(names, s.JobName(req, attempt+1))
	}
	return labelJob + " in (" + strings.Join(names, ",") + ")"
}
