output "contexts_bucket" {
  description = "Bucket to upload contexts to."
  value       = module.storage.contexts
}

output "ledger_bucket" {
  description = "Bucket with the records of builds."
  value       = module.storage.ledger
}

output "builds_topic" {
  description = "Topic of finished builds, to subscribe to."
  value       = module.bus.builds
}

output "changes_topic" {
  description = "Topic of changes."
  value       = module.bus.changes
}

output "subscriptions" {
  description = "Subscriptions to their full names."
  value       = module.bus.subscriptions
}

output "images" {
  description = "What references of images begin with: tenants', Kiln's own (system), base images (hub), layers (cache-<tenant>)."
  value       = module.registry.prefixes
}

output "secrets" {
  description = "Secrets that need a value, to their full names."
  value       = module.secrets.ids
}

output "webhook_urls" {
  description = "Addresses for the webhooks of forges."
  value       = { for forge in var.forges : forge => module.control.uris["ingest"] }
}

output "services" {
  description = "Addresses of the services."
  value       = module.control.uris
}

output "cluster" {
  description = "The cluster and what lets kubectl reach it; null if there is none."
  value       = one([for c in module.cluster : { name = c.name, credentials_command = c.credentials_command }])
}

output "dispatcher_email" {
  description = "Email of the account that the dispatcher runs as."
  value       = module.identity.emails["dispatcher"]
}

output "manifests" {
  description = "Manifests of the dispatcher's and the tenants' namespaces, for kubectl apply. Empty without a cluster."
  value       = join("---\n", concat(module.cluster[*].manifests, [for t in module.tenant : t.manifests]))
}

output "dispatcher_flags" {
  description = "What a dispatcher in the cluster needs to know; where it is a service, it knows."
  value       = var.launcher == "kubernetes" ? concat(local.flags, ["--launcher=kubernetes", "--pull=pubsub://${var.project_id}/${module.plan.names.subscriptions["dispatch"]}"]) : []
}

output "grants" {
  description = "The IAM matrix: every right that is granted, with the reason."
  value       = module.plan.grants
}

output "warnings" {
  description = "What to know."
  value       = module.plan.warnings
}
