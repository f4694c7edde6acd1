package main_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/cluster/knative"
	"github.com/kilnhook/kiln/e2e/internal/process"
)

// profilesAreValid proves that the API server takes every profile, with Knative's
// own webhooks and types, and knows every field.
func (i *install) profilesAreValid(t *testing.T) {
	types, err := knative.ServingTypes(t.Context(), "serving")
	check(t, err)
	i.pipe(t, types, "apply", "--server-side", "-f", "-")
	i.kubectl(t, "wait", "--for=condition=Established", "--timeout=60s", "crd/services.serving.knative.dev")
	for _, profile := range []string{"base", "eventing", "knative", "jobsink", "kueue", "restricted"} {
		t.Run(profile, func(t *testing.T) {
			var objects bytes.Buffer
			n := 0
			for doc := range strings.SplitSeq(i.kubectl(t, "kustomize", "../../knative/config/"+profile), "\n---\n") {
				// Kueue's module cannot be had, so its types are not there.
				if strings.HasPrefix(doc, "apiVersion: kueue.x-k8s.io/") {
					continue
				}
				objects.WriteString("---\n" + doc + "\n")
				n++
			}
			out := i.pipe(t, objects.Bytes(), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
			if got := strings.Count(out, "(server dry run)"); got != n {
				t.Errorf("%d of %d objects are valid:\n%s", got, n, out)
			}
		})
	}
	// What the check is worth: a field that nobody knows is refused.
	cmd := i.Kubectl(t.Context(), "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
	cmd.Stdin = strings.NewReader("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x, namespace: kiln}\nspec: {template: {spec: {container: []}}}\n")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "container") {
		t.Errorf("a field that is not known: %v, %s", err, out)
	}
}

// pipe runs kubectl on objects and returns what it printed.
func (i *install) pipe(t *testing.T, objects []byte, args ...string) string {
	t.Helper()
	cmd := i.Kubectl(t.Context(), args...)
	cmd.Stdin = bytes.NewReader(objects)
	out, err := process.Run(t.Context(), cmd, nil)
	check(t, err)
	return string(out)
}
