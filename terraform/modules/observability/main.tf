# What an operator must know: dead letters, lag, builds that fail for reasons
# of ours, a dispatcher that says nothing.

locals {
  # Where the dispatcher logs.
  source = var.cluster == null ? join(" OR ", [
    for name in values(var.services) : "(resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${name}\")"
  ]) : "resource.type=\"k8s_container\" AND resource.labels.cluster_name=\"${var.cluster}\" AND resource.labels.container_name=\"dispatcher\""
  logs = local.source != ""

  metric = "${var.install}-builds-finished"
  title  = "Kiln (${var.install})"
}

resource "google_monitoring_notification_channel" "email" {
  for_each = var.emails

  project      = var.project_id
  type         = "email"
  display_name = "${local.title} ${each.value}"
  labels       = { email_address = each.value }
}

locals {
  channels = concat([for c in google_monitoring_notification_channel.email : c.name], var.channels)
}

# The dispatcher logs one line a build.
resource "google_logging_metric" "builds" {
  count = local.logs ? 1 : 0

  project     = var.project_id
  name        = local.metric
  description = "Finished builds by outcome"
  filter      = "(${local.source}) AND jsonPayload.msg=\"build finished\""

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
    labels {
      key         = "outcome"
      value_type  = "STRING"
      description = "success, failed, cancelled or error"
    }
  }
  label_extractors = { outcome = "EXTRACT(jsonPayload.outcome)" }
}

resource "google_monitoring_alert_policy" "dead" {
  project               = var.project_id
  display_name          = "${local.title}: dead letters"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "There are dead letters"
    condition_threshold {
      filter          = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${var.dead}\" AND metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Messages were refused too often. Look at them with `gcloud pubsub subscriptions pull ${var.dead} --project=${var.project_id} --limit=10`, mend what refused them, publish them again to their topic, and acknowledge them. They are kept for seven days at most."
  }
}

resource "google_monitoring_alert_policy" "lag" {
  count = length(var.subscriptions) > 0 ? 1 : 0

  project               = var.project_id
  display_name          = "${local.title}: messages wait"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels
  user_labels           = var.labels

  dynamic "conditions" {
    for_each = var.subscriptions
    content {
      display_name = "The oldest message of ${conditions.value} is old"
      condition_threshold {
        filter          = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${conditions.value}\" AND metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
        comparison      = "COMPARISON_GT"
        threshold_value = var.thresholds.unacked_seconds
        duration        = "300s"
        aggregations {
          alignment_period   = "60s"
          per_series_aligner = "ALIGN_MAX"
        }
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Who should answer does not, or answers with an error. Its log says why; messages are kept and tried again meanwhile."
  }
}

resource "google_monitoring_alert_policy" "errors" {
  count = local.logs ? 1 : 0

  project               = var.project_id
  display_name          = "${local.title}: builds end in error"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "Of the builds of an hour too many ended in error"
    condition_threshold {
      filter             = "metric.type = \"logging.googleapis.com/user/${google_logging_metric.builds[0].name}\" AND metric.labels.outcome = \"error\" AND resource.type = \"${var.cluster == null ? "cloud_run_revision" : "k8s_container"}\""
      denominator_filter = "metric.type = \"logging.googleapis.com/user/${google_logging_metric.builds[0].name}\" AND resource.type = \"${var.cluster == null ? "cloud_run_revision" : "k8s_container"}\""
      comparison         = "COMPARISON_GT"
      threshold_value    = var.thresholds.failed_ratio
      duration           = "0s"
      aggregations {
        alignment_period     = "3600s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
      denominator_aggregations {
        alignment_period     = "3600s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Outcome `error` is not the fault of a Dockerfile, which is `failed`: the registry, the cluster or the rights are. The class in the event says which."
  }
}

resource "google_monitoring_alert_policy" "silence" {
  count = local.logs && var.thresholds.silence_seconds > 0 ? 1 : 0

  project               = var.project_id
  display_name          = "${local.title}: no builds"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "No build has finished"
    condition_absent {
      filter   = "metric.type = \"logging.googleapis.com/user/${google_logging_metric.builds[0].name}\" AND resource.type = \"${var.cluster == null ? "cloud_run_revision" : "k8s_container"}\""
      duration = "${var.thresholds.silence_seconds}s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }
}

resource "google_monitoring_alert_policy" "refused" {
  count = local.logs ? 1 : 0

  project               = var.project_id
  display_name          = "${local.title}: something needs an operator"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "The dispatcher asks for an operator, or cannot keep a request"
    condition_matched_log {
      filter = "(${local.source}) AND (jsonPayload.msg=\"request needs an operator\" OR jsonPayload.msg=\"keep unreadable request\")"
    }
  }
  alert_strategy {
    auto_close = "86400s"
    notification_rate_limit {
      period = "3600s"
    }
  }
}

resource "google_monitoring_dashboard" "this" {
  project = var.project_id
  dashboard_json = jsonencode({
    displayName = local.title
    mosaicLayout = {
      columns = 12
      tiles = [for i, chart in concat(local.charts, local.logs ? local.log_charts : []) : {
        xPos = (i % 2) * 6, yPos = floor(i / 2) * 4, width = 6, height = 4
        widget = {
          title = chart.title
          xyChart = { dataSets = [{
            plotType = "LINE"
            timeSeriesQuery = { timeSeriesFilter = {
              filter      = chart.filter
              aggregation = { alignmentPeriod = "60s", perSeriesAligner = chart.aligner, crossSeriesReducer = "REDUCE_SUM", groupByFields = [chart.by] }
            } }
          }] }
        }
      }]
    }
  })
}

locals {
  watched = join(" OR ", [for s in concat(values(var.subscriptions), [var.dead]) : "resource.labels.subscription_id = \"${s}\""])

  charts = [
    {
      title   = "Messages that wait"
      filter  = "resource.type = \"pubsub_subscription\" AND metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND (${local.watched})"
      aligner = "ALIGN_MAX"
      by      = "resource.label.subscription_id"
    },
    {
      title   = "Age of the oldest message"
      filter  = "resource.type = \"pubsub_subscription\" AND metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND (${local.watched})"
      aligner = "ALIGN_MAX"
      by      = "resource.label.subscription_id"
    },
  ]
  log_charts = [{
    title   = "Finished builds"
    filter  = "metric.type = \"logging.googleapis.com/user/${local.metric}\""
    aligner = "ALIGN_SUM"
    by      = "metric.label.outcome"
  }]
}
