package terraform_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

const image = "europe-west1-docker.pkg.dev/acme-builds/kiln-system/"

// An example with values for its variables.
type example struct {
	dir  string
	vars map[string]any
}

func examples() map[string]example {
	key := "projects/acme-keys/locations/europe-west1/keyRings/builds/cryptoKeys/kiln"
	return map[string]example{
		"bucket-only": {"examples/bucket-only", map[string]any{
			"project_id":        "acme-builds",
			"dispatcher_member": "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/home/subject/dispatcher",
		}},
		"cloud-run-only": {"examples/cloud-run-only", map[string]any{
			"project_id": "acme-builds", "deletion_protection": false, "alert_emails": []string{"ops@example.com"}, "notify_url": "https://chat.example.com/kiln",
			"images": map[string]string{"dispatcher": image + "dispatcher:1", "git_push": image + "git-push:1", "build_finished": image + "build-finished:1"},
		}},
		"gke-autopilot": {"examples/gke-autopilot", map[string]any{
			"project_id": "acme-builds", "deletion_protection": false, "git_push_image": image + "git-push:1", "kms_key": key,
		}},
		"multi-tenant": {"examples/multi-tenant", map[string]any{
			"project_id": "acme-builds", "deletion_protection": false, "git_push_image": image + "git-push:1",
			"network": map[string]string{
				"network": "projects/acme-net/global/networks/shared", "subnetwork": "projects/acme-net/regions/europe-west1/subnetworks/builds",
				"pods": "pods", "services": "services",
			},
		}},
		"root": {".", map[string]any{
			"project_id": "acme-builds", "region": "us-central1", "bucket_location": "US", "deletion_protection": false, "use_eventarc": true,
			"images": map[string]string{"dispatcher": image + "dispatcher:1", "bucket_upload": image + "bucket-upload:1"},
		}},
	}
}

// TestExamples plans every example, applies it to an empty project, checks what
// was made, finds nothing more to do, and destroys it.
func TestExamples(t *testing.T) {
	for name, e := range examples() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := grow(t)
			tr.set(e.dir, e.vars)
			if e.dir == "." {
				tr.provider(e.vars)
			}
			tr.init(e.dir)
			tr.must(e.dir, "validate", "-no-color")
			tr.must(e.dir, "plan", "-input=false", "-no-color", "-out=plan")
			onlyCreates(t, tr, e.dir)
			tr.must(e.dir, "apply", "-input=false", "-no-color", "plan")
			w := tr.state(e.dir)
			for what, check := range checks() {
				for _, problem := range check(w) {
					t.Errorf("%s: %s", what, problem)
				}
			}
			for _, th := range w.things {
				if p := th.at("deletion_protection"); p != nil && p != e.vars["deletion_protection"] {
					t.Errorf("%s: deletion_protection is %v", th.Address, p)
				}
			}
			golden(t, filepath.Join("testdata", "iam", name+".txt"), w.matrix())
			if out, err := tr.run(e.dir, "plan", "-input=false", "-no-color", "-detailed-exitcode"); err != nil {
				t.Errorf("there is something left to do: %v\n%s", err, out)
			}
			tr.must(e.dir, "destroy", "-input=false", "-no-color", "-auto-approve")
			if left := tr.state(e.dir).things; len(left) > 0 {
				t.Errorf("%d things are left", len(left))
			}
		})
	}
}

// applied are examples to what an apply of them makes.
var applied = struct {
	sync.Mutex
	worlds map[string]world
}{worlds: map[string]world{}}

// made applies an example once for all tests that look at it.
func made(t *testing.T, name string) world {
	t.Helper()
	applied.Lock()
	defer applied.Unlock()
	if w, ok := applied.worlds[name]; ok {
		return w
	}
	tr, e := grow(t), examples()[name]
	tr.set(e.dir, e.vars)
	tr.init(e.dir)
	tr.must(e.dir, "apply", "-input=false", "-no-color", "-auto-approve")
	w := tr.state(e.dir)
	applied.worlds[name] = w
	return w
}

// provider configures the provider where the module has no example around it.
func (tr tree) provider(vars map[string]any) {
	tr.t.Helper()
	text := fmt.Sprintf("provider \"google\" {\n  project = %q\n  region  = %q\n}\n", vars["project_id"], vars["region"])
	if err := os.WriteFile(filepath.Join(tr.root, "provider.tf"), []byte(text), 0o600); err != nil {
		tr.t.Fatal(err)
	}
}

// onlyCreates checks that a plan makes things and that it knows what they are
// called before anything is made: a for_each over what is not known fails, and
// a name that is not known cannot be reviewed.
func onlyCreates(t *testing.T, tr tree, dir string) {
	t.Helper()
	raw, err := tr.output(dir, "show", "-json", "plan")
	if err != nil {
		t.Fatal(err)
	}
	var plan struct {
		Changes []struct {
			Address string `json:"address"`
			Mode    string `json:"mode"`
			Type    string `json:"type"`
			Change  struct {
				Actions []string       `json:"actions"`
				After   map[string]any `json:"after"`
			} `json:"change"`
		} `json:"resource_changes"`
	}
	if err := json.Unmarshal(raw, &plan); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{
		"google_storage_bucket": "name", "google_pubsub_topic": "name", "google_pubsub_subscription": "name", "google_service_account": "account_id",
		"google_secret_manager_secret": "secret_id", "google_artifact_registry_repository": "repository_id", "google_cloud_run_v2_service": "name", "google_container_cluster": "name",
	}
	n := 0
	for _, c := range plan.Changes {
		if c.Mode != "managed" {
			continue
		}
		n++
		if !slices.Equal(c.Change.Actions, []string{"create"}) {
			t.Errorf("%s: %v in an empty project", c.Address, c.Change.Actions)
		}
		if attribute, ok := names[c.Type]; ok && c.Change.After[attribute] == nil {
			t.Errorf("%s: %s is not known when it is planned", c.Address, attribute)
		}
	}
	if n < 20 {
		t.Errorf("the plan makes %d things only", n)
	}
}

// golden compares with a file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; review and run: go test -run %s -update\n%s", file, strings.Split(t.Name(), "/")[0], difference(string(want), got))
	}
}

// difference lists lines that only one text has.
func difference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out strings.Builder
	for _, l := range a {
		if !slices.Contains(b, l) {
			fmt.Fprintf(&out, "- %s\n", l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			fmt.Fprintf(&out, "+ %s\n", l)
		}
	}
	return out.String()
}
