output "contexts_bucket" {
  description = "Bucket to upload contexts to."
  value       = module.kiln.contexts_bucket
}

output "builds_topic" {
  description = "Topic of finished builds, to subscribe to."
  value       = module.kiln.builds_topic
}

output "images" {
  description = "What references of images begin with."
  value       = module.kiln.images
}

output "secrets" {
  description = "Secrets that need a value, to their full names."
  value       = module.kiln.secrets
}

output "webhook_urls" {
  description = "Addresses for the webhooks of forges."
  value       = module.kiln.webhook_urls
}

output "warnings" {
  description = "What to know."
  value       = module.kiln.warnings
}

output "cluster" {
  description = "The cluster and what lets kubectl reach it."
  value       = module.kiln.cluster
}

output "manifests" {
  description = "Manifests of the namespaces, for kubectl apply."
  value       = module.kiln.manifests
}

output "dispatcher_flags" {
  description = "Flags for the dispatcher in the cluster."
  value       = module.kiln.dispatcher_flags
}
