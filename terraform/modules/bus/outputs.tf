output "changes" {
  description = "Full name of the topic for changes, once those may publish to it who need it."
  value       = google_pubsub_topic.this["changes"].id
  depends_on  = [google_pubsub_topic_iam_member.this]
}

output "builds" {
  description = "Full name of the topic for finished builds, once those may publish to it who need it."
  value       = google_pubsub_topic.this["builds"].id
  depends_on  = [google_pubsub_topic_iam_member.this]
}

output "subscriptions" {
  description = "Subscriptions to their full names."
  value       = merge({ for k, s in google_pubsub_subscription.this : k => s.id }, { dead = google_pubsub_subscription.dead.id })
}
