output "contexts_bucket" {
  description = "Bucket to upload contexts to."
  value       = module.storage.contexts
}

output "ledger_bucket" {
  description = "Bucket with the records of builds."
  value       = module.storage.ledger
}

output "dispatch_subscription" {
  description = "Subscription that the dispatcher pulls."
  value       = module.bus.subscriptions["dispatch"]
}

output "builds_topic" {
  description = "Topic that the dispatcher publishes finished builds to."
  value       = module.bus.builds
}
