# Three topics: what changed, what was built, and what could not be delivered.

resource "google_pubsub_topic" "this" {
  for_each = { changes = var.names.changes, builds = var.names.builds, dead = var.names.dead }

  project      = var.project_id
  name         = each.value
  labels       = var.labels
  kms_key_name = var.kms_key

  dynamic "message_storage_policy" {
    for_each = length(var.regions) > 0 ? [var.regions] : []
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }
}

resource "google_pubsub_topic_iam_member" "this" {
  for_each = { for k, g in var.grants : k => g if g.kind == "topic" }

  project = var.project_id
  topic   = google_pubsub_topic.this[each.value.target].id
  role    = each.value.role
  member  = var.members[each.value.principal]
}

locals {
  # From the members, which are there once their rights on the project are.
  push_email = trimprefix(lookup(var.members, "push", ""), "serviceAccount:")
}

# Our own subscriptions: "dispatch" to changes, all others to builds. Nothing
# expires, nothing is lost before the retention is over, and what is refused
# too often goes to the dead letters.
resource "google_pubsub_subscription" "this" {
  for_each = var.names.subscriptions

  project = var.project_id
  name    = each.value
  labels  = var.labels
  topic   = google_pubsub_topic.this[each.key == "dispatch" ? "changes" : "builds"].id
  filter  = lookup(var.filters, each.key, null)

  ack_deadline_seconds       = var.delivery.ack_deadline_seconds
  message_retention_duration = "${var.retention.messages_seconds}s"
  # Builds of one ref have one ordering key. Changes have none: the register
  # of the ref puts them in order.
  enable_message_ordering = each.key != "dispatch"

  expiration_policy {
    ttl = ""
  }
  retry_policy {
    minimum_backoff = "${var.delivery.minimum_backoff_seconds}s"
    maximum_backoff = "${var.delivery.maximum_backoff_seconds}s"
  }
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.this["dead"].id
    max_delivery_attempts = var.delivery.max_attempts
  }
  dynamic "push_config" {
    for_each = contains(keys(var.push), each.key) ? [var.push[each.key]] : []
    content {
      push_endpoint = push_config.value.endpoint
      oidc_token {
        service_account_email = local.push_email
        audience              = push_config.value.audience
      }
    }
  }

  # Without these two Pub/Sub drops nothing, but moves nothing either.
  depends_on = [google_pubsub_topic_iam_member.this]
}

# Dead letters wait here to be looked at and replayed. Without a subscription
# they would be gone.
resource "google_pubsub_subscription" "dead" {
  project = var.project_id
  name    = var.names.dead
  labels  = var.labels
  topic   = google_pubsub_topic.this["dead"].id

  ack_deadline_seconds       = 600
  message_retention_duration = "${var.retention.messages_seconds}s"
  retain_acked_messages      = true
  expiration_policy {
    ttl = ""
  }
}

resource "google_pubsub_subscription_iam_member" "this" {
  for_each = { for k, g in var.grants : k => g if g.kind == "subscription" }

  project      = var.project_id
  subscription = google_pubsub_subscription.this[each.value.target].name
  role         = each.value.role
  member       = var.members[each.value.principal]
}

# The other way in. Its location must be the bucket's.
resource "google_eventarc_trigger" "uploads" {
  count = var.eventarc == null ? 0 : 1

  project         = var.project_id
  name            = var.names.eventarc
  location        = lower(var.eventarc.location)
  labels          = var.labels
  service_account = local.push_email

  matching_criteria {
    attribute = "type"
    value     = "google.cloud.storage.object.v1.finalized"
  }
  matching_criteria {
    attribute = "bucket"
    value     = var.eventarc.bucket
  }
  destination {
    cloud_run_service {
      service = var.eventarc.service
      region  = var.eventarc.region
      path    = var.eventarc.path
    }
  }
}
