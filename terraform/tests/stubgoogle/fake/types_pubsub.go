package fake

import (
	"errors"
	"strings"
)

const (
	pubsub      = "pubsub.googleapis.com"
	pubsubAgent = "service-" + projectNumber + "@gcp-sa-pubsub.iam.gserviceaccount.com"
	pubsubName  = `^[A-Za-z][A-Za-z0-9._~+%-]{2,254}$`
)

// pubsubTypes are topics, subscriptions and roles on them.
func pubsubTypes() []spec {
	return []spec{
		{
			name: "google_pubsub_topic", id: "projects/{project}/topics/{name}", api: pubsub,
			body: of(
				req("name", text).like(pubsubName), project(), ownLabels(), opt("kms_key_name", text),
				opt("message_retention_duration", text).like(duration),
				maybe("message_storage_policy", req("allowed_persistence_regions", texts), opt("enforce_in_transit", flag)),
				maybe("schema_settings", req("schema", text), opt("encoding", text).one("ENCODING_UNSPECIFIED", "JSON", "BINARY")),
			),
			needs: func(v values) []need {
				if key := v.text("kms_key_name"); key != "" {
					return []need{keyGrant(key, pubsubAgent)}
				}
				return nil
			},
		},
		{
			name: "google_pubsub_subscription", id: "projects/{project}/subscriptions/{name}", api: pubsub,
			body: subscription(), check: checkSubscription,
			needs: func(v values) []need {
				needs := []need{{"google_pubsub_topic " + topicID(v, v.text("topic")), "the topic does not exist yet"}}
				if dead := v.text("dead_letter_policy.0.dead_letter_topic"); dead != "" {
					needs = append(needs, need{"google_pubsub_topic " + topicID(v, dead), "the dead-letter topic does not exist yet"})
				}
				return needs
			},
		},
		{
			name: "google_pubsub_topic_iam_member", id: "{topic}/{role}/{member}", api: pubsub,
			body: member(req("topic", text), project()),
		},
		{
			name: "google_pubsub_subscription_iam_member", id: "{subscription}/{role}/{member}", api: pubsub,
			body: member(req("subscription", text), project()),
		},
	}
}

// topicID is the full name of a topic.
func topicID(v values, topic string) string {
	if strings.HasPrefix(topic, "projects/") {
		return topic
	}
	return v.expand("projects/{project}/topics/" + topic)
}

func subscription() body {
	return of(
		req("name", text).like(pubsubName), req("topic", text), project(), ownLabels(),
		may("ack_deadline_seconds", number).in(10, 600), opt("filter", text).like(`^[\s\S]{0,256}$`),
		opt("message_retention_duration", text).like(duration).or("604800s"), opt("retain_acked_messages", flag),
		opt("enable_message_ordering", flag), opt("enable_exactly_once_delivery", flag),
		maybe("expiration_policy", req("ttl", text).like(`^$|`+duration)),
		maybe("dead_letter_policy", opt("dead_letter_topic", text), opt("max_delivery_attempts", number).in(5, 100)),
		maybe("retry_policy", may("minimum_backoff", text).like(duration), may("maximum_backoff", text).like(duration)),
		maybe("push_config",
			req("push_endpoint", text).like(`^https?://`), opt("attributes", labels),
			maybe("oidc_token", req("service_account_email", text), opt("audience", text)),
			maybe("no_wrapper", req("write_metadata", flag)),
		),
		maybe("bigquery_config", req("table", text), opt("use_topic_schema", flag), opt("write_metadata", flag)),
		maybe("cloud_storage_config", req("bucket", text), opt("filename_prefix", text), opt("filename_suffix", text)),
	)
}

func checkSubscription(v values) error {
	n := 0
	for _, kind := range []string{"push_config", "bigquery_config", "cloud_storage_config"} {
		n += len(v.list(kind))
	}
	if n > 1 {
		return errors.New("push_config, bigquery_config and cloud_storage_config exclude each other")
	}
	if v.at("enable_exactly_once_delivery") == true && len(v.list("push_config")) > 0 {
		return errors.New("enable_exactly_once_delivery does not go with push_config")
	}
	return nil
}
