output "channels" {
  description = "Full names of the notification channels that alerts are sent to."
  value       = local.channels
}

output "alerts" {
  description = "Titles of the alerts."
  value = concat(
    [google_monitoring_alert_policy.dead.display_name],
    google_monitoring_alert_policy.lag[*].display_name,
    google_monitoring_alert_policy.errors[*].display_name,
    google_monitoring_alert_policy.silence[*].display_name,
    google_monitoring_alert_policy.refused[*].display_name,
  )
}
