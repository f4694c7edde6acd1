package fake

import (
	"errors"
	"fmt"
)

const (
	artifacts      = "artifactregistry.googleapis.com"
	artifactsAgent = "service-" + projectNumber + "@gcp-sa-artifactregistry.iam.gserviceaccount.com"
	secretManager  = "secretmanager.googleapis.com"
	secretsAgent   = "service-" + projectNumber + "@gcp-sa-secretmanager.iam.gserviceaccount.com"
)

// registryTypes are repositories of Artifact Registry and roles on them.
func registryTypes() []spec {
	return []spec{
		{
			name: "google_artifact_registry_repository", id: "projects/{project}/locations/{location}/repositories/{repository_id}", api: artifacts,
			set: map[string]string{"name": "{repository_id}", "registry_uri": "{location}-docker.pkg.dev/{project}/{repository_id}"},
			body: of(
				req("repository_id", text).like(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`), req("format", text).one("DOCKER", "MAVEN", "NPM", "APT", "YUM", "PYTHON", "GO", "KFP", "GENERIC"),
				may("location", text), project(), opt("description", text), opt("kms_key_name", text), ownLabels(),
				opt("mode", text).one("STANDARD_REPOSITORY", "VIRTUAL_REPOSITORY", "REMOTE_REPOSITORY").or("STANDARD_REPOSITORY"),
				opt("cleanup_policy_dry_run", flag), out("name", text), out("create_time", text), out("update_time", text), out("registry_uri", text),
				maybe("docker_config", opt("immutable_tags", flag)),
				bagOf("cleanup_policies",
					req("id", text), opt("action", text).one("DELETE", "KEEP"),
					maybe("condition",
						opt("tag_state", text).one("TAGGED", "UNTAGGED", "ANY").or("ANY"), opt("older_than", text).like(`^[0-9]+[smhd]$`), opt("newer_than", text).like(`^[0-9]+[smhd]$`),
						opt("tag_prefixes", texts), opt("version_name_prefixes", texts), opt("package_name_prefixes", texts),
					),
					maybe("most_recent_versions", opt("keep_count", number), opt("package_name_prefixes", texts)),
				),
				maybe("remote_repository_config",
					opt("description", text), opt("disable_upstream_validation", flag),
					maybe("docker_repository", opt("public_repository", text).one("DOCKER_HUB"), maybe("custom_repository", opt("uri", text))),
					maybe("common_repository", req("uri", text)),
				),
				maybe("vulnerability_scanning_config", opt("enablement_config", text).one("INHERITED", "DISABLED")),
			),
			check: checkRepository,
			needs: func(v values) []need {
				if key := v.text("kms_key_name"); key != "" {
					return []need{keyGrant(key, artifactsAgent)}
				}
				return nil
			},
		},
		{
			name: "google_artifact_registry_repository_iam_member", id: "{repository}/{role}/{member}", api: artifacts,
			body: member(req("repository", text), may("location", text), project()),
		},
	}
}

func checkRepository(v values) error {
	remote := len(v.list("remote_repository_config")) > 0
	if mode := v.text("mode"); remote != (mode == "REMOTE_REPOSITORY") {
		return fmt.Errorf("mode %q does not go with what remote_repository_config says", mode)
	}
	for i := range v.list("cleanup_policies") {
		p := fmt.Sprintf("cleanup_policies.%d.", i)
		if len(v.list(p+"condition"))+len(v.list(p+"most_recent_versions")) != 1 {
			return errors.New("cleanup_policies: each has either condition or most_recent_versions")
		}
		if len(v.list(p+"most_recent_versions")) == 1 && v.text(p+"action") != "KEEP" {
			return errors.New("cleanup_policies: most_recent_versions goes with KEEP")
		}
	}
	return nil
}

// secretTypes are secrets, without their values, and roles on them.
func secretTypes() []spec {
	encrypted := maybe("customer_managed_encryption", req("kms_key_name", text))
	return []spec{
		{
			name: "google_secret_manager_secret", id: "projects/{project}/secrets/{secret_id}", api: secretManager,
			set: map[string]string{"name": "projects/{project}/secrets/{secret_id}"},
			body: of(
				req("secret_id", text).like(`^[A-Za-z0-9_-]{1,255}$`), project(), ownLabels(), opt("annotations", labels),
				may("expire_time", text), opt("ttl", text).like(duration), opt("version_aliases", labels), opt("version_destroy_ttl", text).like(duration),
				out("name", text), out("create_time", text),
				once("replication", maybe("auto", encrypted), maybe("user_managed", some("replicas", req("location", text), encrypted))),
				many("topics", req("name", text)),
				maybe("rotation", opt("next_rotation_time", text), opt("rotation_period", text).like(duration)),
			),
			check: func(v values) error {
				if len(v.list("replication.0.auto"))+len(v.list("replication.0.user_managed")) != 1 {
					return errors.New("replication: either auto or user_managed")
				}
				return nil
			},
			needs: func(v values) []need {
				if key := v.text("replication.0.user_managed.0.replicas.0.customer_managed_encryption.0.kms_key_name"); key != "" {
					return []need{keyGrant(key, secretsAgent)}
				}
				return nil
			},
		},
		{
			name: "google_secret_manager_secret_iam_member", id: "{secret_id}/{role}/{member}", api: secretManager,
			body: member(req("secret_id", text), project()),
		},
	}
}
