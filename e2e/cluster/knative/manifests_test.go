package knative

import (
	"bytes"
	"strings"
	"testing"
)

// TestSplit proves that types come first, that what a node of tests cannot use is
// left out, and that Deployments are made for it.
func TestSplit(t *testing.T) {
	const text = `# a comment
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: d}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: h}
---
# nothing
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: request-reply}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: eventing-webhook}
spec:
  replicas: 3
  template:
    spec:
      containers:
        - name: w
          resources: {limits: {cpu: 200m}}
          livenessProbe: {periodSeconds: 1}
          readinessProbe: {initialDelaySeconds: 20}
`
	var first, second bytes.Buffer
	if err := split(text, &first, &second); err != nil {
		t.Fatal(err)
	}
	if got := first.String(); strings.Count(got, "kind:") != 1 || !strings.Contains(got, "CustomResourceDefinition") {
		t.Errorf("first comes\n%s", got)
	}
	got := second.String()
	if strings.Count(got, "\nkind: ") != 2 || !strings.Contains(got, "kind: ConfigMap") {
		t.Errorf("then comes\n%s", got)
	}
	for part, want := range map[string]bool{
		"replicas: 1": true, "--disable-ha": true, "initialDelaySeconds: 1": true, "cpu: 10m": true, "limits": false, "livenessProbe": false, "request-reply": false,
	} {
		if strings.Contains(got, part) != want {
			t.Errorf("%q is there: %t\n%s", part, !want, got)
		}
	}
	if err := split("kind: Deployment\nmetadata: {name: x}\nspec: {template: {spec: {}}}\n", &first, &second); err == nil {
		t.Error("a Deployment without a container is taken")
	}
}
