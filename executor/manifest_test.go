package main

import (
	"io"
	"os"
	"testing"

	"sigs.k8s.io/yaml"
)

// The Job in knative/config starts this program: its arguments must be ours.
func TestJobManifestHasOurFlags(t *testing.T) {
	raw, err := os.ReadFile("../knative/config/job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var job struct {
		Kind string
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct{ Args []string }
				}
			}
		}
	}
	if err := yaml.Unmarshal(raw, &job); err != nil {
		t.Fatal(err)
	}
	if job.Kind != "Job" || len(job.Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("knative/config/job.yaml is not a Job of one container: %+v", job)
	}
	var c config
	flags := newFlags(&c, io.Discard)
	if err := flags.Parse(job.Spec.Template.Spec.Containers[0].Args); err != nil {
		t.Fatal(err)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	if c.context == "" || len(c.destinations) != 1 {
		t.Errorf("the Job builds %q and pushes to %q", c.context, c.destinations)
	}
}
