package terraform_test

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// A mutation is a mistake that somebody could make, and what must find it.
type mutation struct {
	file, old, text string
	example         string // that is applied; empty if validate must find it
	found           string // what is said: by terraform, or by a check
}

// mutations prove that the checks can fail.
func mutations() map[string]mutation {
	const cr, mt, bo = "cloud-run-only", "multi-tenant", "bucket-only"
	return map[string]mutation{
		"misspelt argument": {
			file: "modules/bus/main.tf", old: "  ack_deadline_seconds       = var", text: "  ack_deadline_second        = var",
			found: `An argument named "ack_deadline_second" is not expected here`,
		},
		"misspelt block": {
			file: "modules/storage/main.tf", old: "  versioning {", text: "  version {",
			found: `Blocks of type "version" are not expected here`,
		},
		"misspelt argument of a block": {
			file: "modules/registry/main.tf", old: "    immutable_tags = var.immutable_tags", text: "    immutable_tag = var.immutable_tags",
			found: `An argument named "immutable_tag" is not expected here`,
		},
		"missing argument": {
			file: "modules/storage/main.tf", old: "  payload_format     = \"JSON_API_V1\"\n", text: "",
			found: `The argument "payload_format" is required`,
		},
		"missing block": {
			file: "modules/secrets/main.tf", old: "  replication {\n    user_managed {", text: "  rotation {\n    user_managed {",
			found: `Blocks of type "user_managed" are not expected here`,
		},
		"block too often": {
			file: "modules/bus/main.tf", old: "  retry_policy {", text: "  retry_policy {\n    minimum_backoff = \"1s\"\n  }\n  retry_policy {",
			found: "there are 2 blocks, and at most 1 may be",
		},
		"value that there is not": {
			file: "modules/storage/main.tf", old: `"JSON_API_V1"`, text: `"JSON"`,
			found: `"JSON" is none of JSON_API_V1, NONE`,
		},
		"unknown type": {
			file: "modules/secrets/main.tf", old: `resource "google_secret_manager_secret_iam_member" "this" {`, text: "resource \"google_secret_manager_secret_version\" \"v\" {\n  secret = \"s\"\n}\nresource \"google_secret_manager_secret_iam_member\" \"this\" {",
			found: `does not support resource type "google_secret_manager_secret_version"`,
		},
		"unknown attribute": {
			file: "modules/control-cloudrun/outputs.tf", old: "s.uri }", text: "s.url }",
			found:   `does not have an attribute named "url"`, // in a for expression terraform says so when it plans
			example: cr,
		},
		"cycle": {
			file: "services.tf", old: `"--bus=${local.topic["builds"]}"`, text: `"--bus=${module.bus.subscriptions["dispatch"]}"`,
			found: "Cycle:",
		},

		"Cloud Storage may not publish": {
			file: "modules/plan/iam.tf", old: `{ principal = "agent-storage", kind = "topic", target = "changes", role = "roles/pubsub.publisher"`, text: `{ principal = "agent-storage", kind = "topic", target = "changes", role = "roles/pubsub.viewer"`,
			example: bo, found: "Cloud Storage may not publish to the topic yet",
		},
		"notification before the right": {
			file: "modules/bus/outputs.tf", old: "  value       = google_pubsub_topic.this[\"changes\"].id\n  depends_on  = [google_pubsub_topic_iam_member.this]", text: "  value       = \"projects/${var.project_id}/topics/${var.names.changes}\"",
			example: bo, found: "Cloud Storage may not publish to the topic yet",
		},
		"services not waited for": {
			file: "modules/services/outputs.tf", old: "  depends_on  = [google_project_service.this]", text: "",
			example: bo, found: "the service is not enabled yet",
		},
		"Pub/Sub may not publish dead letters": {
			file: "modules/plan/iam.tf", old: `[{ principal = "agent-pubsub", kind = "topic", target = "dead"`, text: `[{ principal = "agent-pubsub", kind = "topic", target = "builds"`,
			example: bo, found: "Pub/Sub may not publish to kiln-dead",
		},
		"Pub/Sub may not take dead letters out": {
			file: "modules/plan/iam.tf", old: "target = s, role = \"roles/pubsub.subscriber\", prefix = \"\", why = \"take dead letters out\"", text: "target = s, role = \"roles/pubsub.viewer\", prefix = \"\", why = \"take dead letters out\"",
			example: bo, found: "Pub/Sub may not take dead letters out of kiln-dispatch",
		},
		"dead letters to the wrong topic": {
			file: "modules/bus/main.tf", old: `dead_letter_topic     = google_pubsub_topic.this["dead"].id`, text: `dead_letter_topic     = google_pubsub_topic.this["builds"].id`,
			example: bo, found: "kiln-dispatch puts dead letters in",
		},
		"nothing keeps dead letters": {
			file: "modules/bus/main.tf", old: "  topic   = google_pubsub_topic.this[\"dead\"].id\n", text: "  topic   = google_pubsub_topic.this[\"builds\"].id\n",
			example: bo, found: "no subscription keeps dead letters",
		},
		"messages kept for a day": {
			file: "modules/bus/main.tf", old: "  message_retention_duration = \"${var.retention.messages_seconds}s\"\n  # Builds", text: "  message_retention_duration = \"86400s\"\n  # Builds",
			example: bo, found: `kiln-dispatch keeps messages for "86400s"`,
		},
		"notification on the ledger": {
			file: "modules/storage/main.tf", old: "  bucket             = google_storage_bucket.contexts.name", text: "  bucket             = google_storage_bucket.ledger.name",
			example: bo, found: "acme-builds-kiln-ledger announces on kiln-changes",
		},
		"ledger forgets what is new": {
			file: "modules/storage/main.tf", old: `["builds/", "data/",`, text: `["builds/", "refs/", "data/",`,
			example: bo, found: "deletes refs/, which decides what is new",
		},
		"public bucket": {
			file: "modules/storage/main.tf", old: "resource \"google_storage_bucket\" \"contexts\" {", text: "resource \"google_storage_bucket_iam_member\" \"all\" {\n  bucket = google_storage_bucket.contexts.name\n  role   = \"roles/storage.objectViewer\"\n  member = \"allUsers\"\n}\nresource \"google_storage_bucket\" \"contexts\" {",
			example: bo, found: "only the forges' door is public",
		},
		"public dispatcher": {
			file: "modules/plan/iam.tf", old: `{ principal = "push", kind = "service", target = "dispatcher"`, text: `{ principal = "everybody", kind = "service", target = "dispatcher"`,
			example: cr, found: "only the forges' door is public",
		},
		"token for somebody else": {
			file: "services.tf", old: "    audiences = [local.audience]", text: "    audiences = []",
			example: cr, found: "tokens of kiln-dispatch are for https://dispatcher.kiln.acme-builds, which kiln-dispatcher is not",
		},
		"secret that its reader may not read": {
			file: "modules/plan/iam.tf", old: `target = "triggers", role = "roles/secretmanager.secretAccessor"`, text: `target = "triggers", role = "roles/secretmanager.viewer"`,
			example: cr, found: "the service may not read the secret yet",
		},
		"executor overwrites records": {
			file: "modules/plan/iam.tf", old: `target = "ledger", role = "roles/storage.objectCreator", prefix = "builds/"`, text: `target = "ledger", role = "roles/storage.objectUser", prefix = "builds/"`,
			example: mt, found: "An executor may create records in the ledger and do nothing else to it",
		},
		"executor reads everybody's sources": {
			file: "modules/tenant/main.tf", old: `for_each = each.value.prefix == "" ? [] : [each.value.prefix]`, text: `for_each = []`,
			example: mt, found: "one of several tenants reads the whole bucket",
		},
		"executor of another namespace": {
			file: "modules/tenant/main.tf", old: "[${var.settings.namespace}/executor]", text: "[default/executor]",
			example: mt, found: "acts [serviceAccount:acme-builds.svc.id.goog[default/executor]]",
		},
		"topic without the key": {
			file: "modules/bus/main.tf", old: "  kms_key_name = var.kms_key\n", text: "",
			example: "gke-autopilot", found: "google_pubsub_topic.this[\"dead\"]: there is a key: true; it is encrypted with \"\"",
		},
		"key before the right": {
			file: "modules/identity/outputs.tf", old: "  depends_on  = [google_kms_crypto_key_iam_member.this]", text: "",
			example: "gke-autopilot", found: "may not use the key yet",
		},
		"identity before the cluster": {
			file: "modules/cluster-autopilot/outputs.tf", old: "google_container_cluster.this.workload_identity_config[0].workload_pool", text: `"${var.project_id}.svc.id.goog"`,
			example: mt, found: "the pool of workload identities is made with the first cluster",
		},
	}
}

// TestMutations makes every mistake in a copy and sees it found.
func TestMutations(t *testing.T) {
	for name, m := range mutations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := grow(t)
			tr.change(m.file, m.old, m.text)
			if out := attempt(tr, m.example); !said(out, m.found) {
				t.Errorf("nobody said %q:\n%s", m.found, out)
			}
		})
	}
}

// attempt validates the root module, or applies an example and runs the checks,
// and returns all that is said against it.
func attempt(tr tree, name string) string {
	tr.t.Helper()
	if name == "" {
		if out, err := tr.run(".", "init", "-input=false", "-backend=false", "-no-color"); err != nil {
			return out
		}
		out, err := tr.run(".", "validate", "-no-color")
		if err == nil {
			return "valid"
		}
		return out
	}
	e := examples()[name]
	tr.set(e.dir, e.vars)
	tr.init(e.dir)
	if out, err := tr.run(e.dir, "apply", "-input=false", "-no-color", "-auto-approve"); err != nil {
		return out
	}
	w := tr.state(e.dir)
	var all []string
	for _, check := range checks() {
		all = append(all, check(w)...)
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// TestFirstDeployment does what docs/first-deployment.md says with Terraform:
// repositories and secrets first, then everything, and in the end removes it
// all, which deletion_protection does not allow before it is turned off.
func TestFirstDeployment(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/first-deployment.md")
	if err != nil {
		t.Fatal(err)
	}
	tr := grow(t)
	e := examples()["cloud-run-only"]
	delete(e.vars, "deletion_protection")
	tr.set(e.dir, e.vars)
	tr.init(e.dir)
	// does runs a command of the document.
	does := func(command string) (string, error) {
		t.Helper()
		if !strings.Contains(string(document), "terraform "+command) {
			t.Fatalf("the document does not say: terraform %s", command)
		}
		return tr.run(e.dir, append(strings.Fields(command), "-input=false", "-auto-approve", "-no-color")...)
	}
	if out, err := does("apply -target=module.kiln.module.registry -target=module.kiln.module.secrets"); err != nil {
		t.Fatal(out)
	}
	w := tr.state(e.dir)
	if len(w.of("artifact_registry_repository")) != 4 || len(w.of("secret_manager_secret")) != 3 || len(w.of("cloud_run_v2_service")) != 0 {
		t.Errorf("first there are\n%s", w.matrix())
	}
	if out, err := does("apply"); err != nil {
		t.Fatal(out)
	}
	w = tr.state(e.dir)
	for _, b := range w.of("storage_bucket") {
		if b.at("force_destroy") != false {
			t.Errorf("%s is destroyed with what is in it", b.text("name"))
		}
	}
	if names := subscribers(w); !slices.Contains(names, "kiln-to-deploy") || !strings.Contains(string(document), "pull kiln-to-deploy") {
		t.Errorf("the document pulls another subscription than %v", names)
	}
	if out, err := tr.run(e.dir, "destroy", "-input=false", "-no-color", "-auto-approve"); err == nil || !said(out, "deletion_protection is true") {
		t.Errorf("it was destroyed: %v\n%s", err, out)
	}
	for _, command := range []string{"apply -var deletion_protection=false", "destroy -var deletion_protection=false"} {
		if out, err := does(command); err != nil {
			t.Fatal(out)
		}
	}
	if left := tr.state(e.dir).things; len(left) > 0 {
		t.Errorf("%d things are left", len(left))
	}
}

// subscribers are the names of all subscriptions.
func subscribers(w world) []string {
	var names []string
	for _, s := range w.of("pubsub_subscription") {
		names = append(names, s.text("name"))
	}
	return names
}
