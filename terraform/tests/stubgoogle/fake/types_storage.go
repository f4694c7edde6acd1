package fake

import (
	"errors"
	"strings"
)

// gcsAgent is the account that Cloud Storage acts as.
const gcsAgent = "service-" + projectNumber + "@gs-project-accounts.iam.gserviceaccount.com"

const (
	keyRole = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
	storage = "storage.googleapis.com"
)

// keyGrant is the need for an agent's role on a key.
func keyGrant(key, agent string) need {
	return need{
		"google_kms_crypto_key_iam_member " + key + "/" + keyRole + "/serviceAccount:" + agent,
		agent + " may not use the key yet",
	}
}

// storageTypes are buckets, roles on them and their notifications.
func storageTypes() []spec {
	return []spec{
		{
			name: "google_storage_bucket", id: "{name}", api: storage,
			set:   map[string]string{"url": "gs://{name}", "self_link": "https://www.googleapis.com/storage/v1/b/{name}"},
			body:  bucket(),
			check: checkBucket,
			needs: func(v values) []need {
				if key := v.text("encryption.0.default_kms_key_name"); key != "" {
					return []need{keyGrant(key, gcsAgent)}
				}
				return nil
			},
		},
		{
			name: "google_storage_bucket_iam_member", id: "b/{bucket}/{role}/{member}/{condition}", api: storage,
			body: member(req("bucket", text)),
		},
		{
			name: "google_storage_notification", id: "{bucket}/notificationConfigs/1", api: storage,
			set: map[string]string{"notification_id": "1"},
			body: of(
				req("bucket", text), req("payload_format", text).one("JSON_API_V1", "NONE"),
				req("topic", text).like(`^(//pubsub\.googleapis\.com/)?projects/[^/]+/topics/[^/]+$`),
				opt("custom_attributes", labels), opt("event_types", bag), opt("object_name_prefix", text),
				out("notification_id", text), out("self_link", text),
			),
			check: func(v values) error {
				for _, e := range v.list("event_types") {
					switch e {
					case "OBJECT_FINALIZE", "OBJECT_METADATA_UPDATE", "OBJECT_DELETE", "OBJECT_ARCHIVE", nil:
					default:
						return errors.New("event_types: no such type of event")
					}
				}
				return nil
			},
			needs: func(v values) []need {
				topic := strings.TrimPrefix(v.text("topic"), "//pubsub.googleapis.com/")
				return []need{{
					"google_pubsub_topic_iam_member " + topic + "/roles/pubsub.publisher/serviceAccount:" + gcsAgent,
					"Cloud Storage may not publish to the topic yet",
				}}
			},
		},
	}
}

func bucket() body {
	return of(
		req("name", text).like(`^[a-z0-9][a-z0-9_.-]{1,220}[a-z0-9]$`), req("location", text), project(),
		opt("force_destroy", flag), opt("storage_class", text).or("STANDARD"), ownLabels(),
		may("uniform_bucket_level_access", flag), may("public_access_prevention", text).one("inherited", "enforced"),
		opt("default_event_based_hold", flag), opt("enable_object_retention", flag), opt("requester_pays", flag),
		may("rpo", text).one("DEFAULT", "ASYNC_TURBO"),
		out("self_link", text), out("url", text), out("project_number", number), out("time_created", text), out("updated", text),
		maybe("versioning", req("enabled", flag)),
		maybe("autoclass", req("enabled", flag), may("terminal_storage_class", text).one("NEARLINE", "ARCHIVE")),
		maybe("encryption", req("default_kms_key_name", text)),
		maybe("logging", req("log_bucket", text), may("log_object_prefix", text)),
		maybe("retention_policy", opt("is_locked", flag), req("retention_period", text)),
		maybe("soft_delete_policy", opt("retention_duration_seconds", number).or(604800), out("effective_time", text)),
		maybe("hierarchical_namespace", req("enabled", flag)),
		many("lifecycle_rule",
			once("action", req("type", text).one("Delete", "SetStorageClass", "AbortIncompleteMultipartUpload"), opt("storage_class", text)),
			once("condition",
				opt("age", number), opt("send_age_if_zero", flag), opt("created_before", text), opt("custom_time_before", text),
				opt("days_since_custom_time", number), opt("days_since_noncurrent_time", number), opt("noncurrent_time_before", text),
				opt("num_newer_versions", number), may("with_state", text).one("LIVE", "ARCHIVED", "ANY", ""),
				opt("matches_storage_class", texts), opt("matches_prefix", texts), opt("matches_suffix", texts),
			),
		),
	)
}

func checkBucket(v values) error {
	for _, r := range v.list("lifecycle_rule") {
		rule, _ := r.(map[string]any)
		if condition, ok := values(rule).at("condition.0").(map[string]any); ok && len(condition) == 0 {
			return errors.New("lifecycle_rule: a condition without a condition")
		}
	}
	if s := v.text("soft_delete_policy.0.retention_duration_seconds"); s != "" && s != "0" && (len(s) < 6 || s < "604800" && len(s) == 6) {
		return errors.New("soft_delete_policy: retention_duration_seconds is 0 or from 604800 to 7776000")
	}
	return nil
}
