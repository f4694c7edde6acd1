package launch

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/kilnhook/kiln/events"
)

const buildID = "b4fqlqs6nuner3bfunf5738b7r"

func request() events.Request {
	return events.Request{
		Install: "prod", Tenant: "acme", Trigger: "app", Sequence: 7, Group: "app/refs/heads/main", Attempt: 1,
		BuildID: buildID, Context: "git://github.com/acme/shop.git#199eddf46df50de8d02e99bf1c5fdb4101338224",
		Image: "registry.example.com/acme/app", Tags: []string{"main"}, Timeout: 90*time.Second + time.Millisecond,
		Args: map[string]string{"QUOTED": `a "b" 'c' $(d)`},
		Change: events.Change{
			Kind: events.KindGit, Location: "github.com/acme/shop", Name: "refs/heads/main",
			Before: "a10867b14bb761a232cd80139fbd4c0d33264240", After: "199eddf46df50de8d02e99bf1c5fdb4101338224",
		},
	}
}

// TestJob proves what the Job of a build is in every profile, against golden files.
func TestJob(t *testing.T) {
	for _, profile := range []Profile{ProfileOverlay, ProfileDefault, ProfileInPlace, ProfileRestricted} {
		t.Run(string(profile), func(t *testing.T) {
			job, err := Template{
				Image: "registry.example.com/kiln/executor:1", Profile: profile, Flags: []string{"--cache"},
				Credentials: "registry", Disk: resource.MustParse("20Gi"), Queue: "builds",
			}.Job(request(), "acme-builds")
			if err != nil {
				t.Fatal(err)
			}
			got, err := yaml.Marshal(job)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "job."+string(profile)+".yaml")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestJobSuspended proves that only a Job that shall wait says so, whose queue is
// named for Kueue.
func TestJobSuspended(t *testing.T) {
	for _, wait := range []bool{false, true} {
		o, err := ParseOptions(fmt.Appendf(nil, "image: x\nqueue: builds\nsuspend: %t\n", wait))
		if err != nil {
			t.Fatal(err)
		}
		job, err := o.Template.Job(request(), "ns")
		if err != nil {
			t.Fatal(err)
		}
		if got := job.Spec.Suspend; (got != nil && *got) != wait || !wait && got != nil {
			t.Errorf("suspend: %t makes %v", wait, got)
		}
		if job.Labels["kueue.x-k8s.io/queue-name"] != "builds" || job.Labels["kueue.x-k8s.io/priority-class"] != events.PriorityPush {
			t.Errorf("labels %v", job.Labels)
		}
	}
}

// TestJobCarriesRequest proves that the executor reads back the request as it
// was, through the annotation that the downward API shows it.
func TestJobCarriesRequest(t *testing.T) {
	job, err := Template{Image: "x"}.Job(request(), "ns")
	if err != nil {
		t.Fatal(err)
	}
	got, err := events.ParseOrder([]byte(job.Spec.Template.Annotations[AnnotationRequest]))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got.Request)
	b, _ := json.Marshal(request())
	if string(a) != string(b) {
		t.Errorf("got  %s\nwant %s", a, b)
	}
	if *job.Spec.ActiveDeadlineSeconds != 91 {
		t.Errorf("deadline of %d s", *job.Spec.ActiveDeadlineSeconds)
	}
	if len(job.Name) > 63-len("-abcde") {
		t.Errorf("name %s leaves pods no suffix", job.Name)
	}
}

// A build for several platforms is a Job for each, on nodes of that platform, and
// none for the whole.
func TestJobsOfPlatforms(t *testing.T) {
	req := request()
	req.Platform, req.Platforms = "", []string{"linux/amd64", "linux/arm/v7"}
	if _, err := (Template{Image: "x"}).Job(req, "ns"); err == nil || !strings.Contains(err.Error(), "linux/amd64, linux/arm/v7") {
		t.Errorf("a Job of the whole: %v", err)
	}
	names := map[string]bool{}
	for i, arch := range []string{"amd64", "arm"} {
		part := req.Parts()[i]
		job, err := Template{Image: "x"}.Job(part, "ns")
		if err != nil {
			t.Fatal(err)
		}
		names[job.Name] = true
		pod := job.Spec.Template
		if pod.Spec.NodeSelector["kubernetes.io/arch"] != arch || pod.Spec.NodeSelector["kubernetes.io/os"] != "linux" {
			t.Errorf("%s runs on %v", part.Platform, pod.Spec.NodeSelector)
		}
		if pod.Labels[LabelBuild] != part.BuildID || pod.Labels[LabelPartOf] != req.BuildID || job.Labels[LabelPartOf] != req.BuildID {
			t.Errorf("labels %v", pod.Labels)
		}
	}
	if len(names) != 2 {
		t.Errorf("Jobs %v", names)
	}
}

func TestLabel(t *testing.T) {
	for name, want := range map[string]string{
		"app": "app", "a/b": "a-b", "-x-": "x", "": "", "é": "", "a..": "a", strings.Repeat("a", 70): strings.Repeat("a", 63),
	} {
		if got := label(name); got != want {
			t.Errorf("label(%q) is %q, want %q", name, got, want)
		}
	}
}
