package fake

import (
	"encoding/json"
	"fmt"
)

const (
	monitoring = "monitoring.googleapis.com"
	logging    = "logging.googleapis.com"
)

// monitoringTypes are metrics of logs, alerts and dashboards.
func monitoringTypes() []spec {
	aggregations := many("aggregations", opt("alignment_period", text).like(duration), opt("per_series_aligner", text), opt("cross_series_reducer", text), opt("group_by_fields", texts))
	trigger := maybe("trigger", opt("count", number), opt("percent", float))
	return []spec{
		{
			name: "google_logging_metric", id: "{name}", api: logging,
			body: of(
				req("name", text), req("filter", text), project(), opt("description", text), opt("disabled", flag), opt("bucket_name", text), opt("value_extractor", text), opt("label_extractors", labels),
				maybe("metric_descriptor",
					req("metric_kind", text).one("DELTA", "GAUGE", "CUMULATIVE"), req("value_type", text).one("BOOL", "INT64", "DOUBLE", "STRING", "DISTRIBUTION", "MONEY"), opt("unit", text), opt("display_name", text),
					bagOf("labels", req("key", text), opt("description", text), opt("value_type", text).one("BOOL", "INT64", "STRING")),
				),
			),
		},
		{
			name: "google_monitoring_notification_channel", id: "projects/{project}/notificationChannels/{display_name}", api: monitoring,
			set: map[string]string{"name": "projects/{project}/notificationChannels/{display_name}"},
			body: of(
				req("type", text), opt("display_name", text), opt("description", text), project(), opt("enabled", flag), opt("force_delete", flag),
				opt("labels", labels), opt("user_labels", labels), out("name", text), out("verification_status", text),
			),
		},
		{
			name: "google_monitoring_alert_policy", id: "projects/{project}/alertPolicies/{display_name}", api: monitoring,
			body: of(
				req("display_name", text).like(`^.{1,512}$`), req("combiner", text).one("AND", "OR", "AND_WITH_MATCHING_RESOURCE"), project(), opt("enabled", flag).or(true), opt("notification_channels", texts),
				opt("severity", text).one("CRITICAL", "ERROR", "WARNING"), opt("user_labels", labels), out("name", text), out("creation_record", texts),
				some("conditions",
					req("display_name", text), out("name", text),
					maybe("condition_threshold",
						req("comparison", text).one("COMPARISON_GT", "COMPARISON_GE", "COMPARISON_LT", "COMPARISON_LE", "COMPARISON_EQ", "COMPARISON_NE"), req("duration", text).like(duration),
						opt("filter", text), opt("threshold_value", float), opt("denominator_filter", text),
						opt("evaluation_missing_data", text).one("EVALUATION_MISSING_DATA_INACTIVE", "EVALUATION_MISSING_DATA_ACTIVE", "EVALUATION_MISSING_DATA_NO_OP"),
						aggregations, trigger, block{name: "denominator_aggregations", body: aggregations.body},
					),
					maybe("condition_absent", req("duration", text).like(duration), opt("filter", text), aggregations, trigger),
					maybe("condition_matched_log", req("filter", text), opt("label_extractors", labels)),
				),
				maybe("documentation", opt("content", text), opt("mime_type", text), opt("subject", text), many("links", opt("display_name", text), opt("url", text))),
				maybe("alert_strategy", opt("auto_close", text).like(duration), opt("notification_prompts", texts), maybe("notification_rate_limit", opt("period", text).like(duration)), many("notification_channel_strategy", opt("notification_channel_names", texts), opt("renotify_interval", text))),
			),
			check: checkAlert,
		},
		{
			name: "google_monitoring_dashboard", id: "projects/{project}/dashboards/1", api: monitoring,
			body: of(req("dashboard_json", text), project()),
			check: func(v values) error {
				if s := v.text("dashboard_json"); s != "" && !json.Valid([]byte(s)) {
					return fmt.Errorf("dashboard_json is not JSON")
				}
				return nil
			},
		},
	}
}

// checkAlert refuses conditions that are not exactly one, and a rate limit
// where the alert is not about a log.
func checkAlert(v values) error {
	logs := false
	for i := range v.list("conditions") {
		p := fmt.Sprintf("conditions.%d.", i)
		n := 0
		for _, kind := range []string{"condition_threshold", "condition_absent", "condition_matched_log"} {
			n += len(v.list(p + kind))
		}
		if n != 1 {
			return fmt.Errorf("conditions %d: there are %d conditions in it, not one", i, n)
		}
		logs = logs || len(v.list(p+"condition_matched_log")) == 1
	}
	if limited := len(v.list("alert_strategy.0.notification_rate_limit")) == 1; limited != logs {
		return fmt.Errorf("alert_strategy: notification_rate_limit is for conditions about logs, which need it")
	}
	return nil
}
