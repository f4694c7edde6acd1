output "contexts_bucket" {
  description = "Bucket to upload contexts to."
  value       = module.storage.contexts
}

output "ledger_bucket" {
  description = "Bucket with the records of builds."
  value       = module.storage.ledger
}

output "dispatcher_flags" {
  description = "Flags for the dispatcher."
  value = [
    "--ledger=gs://${module.storage.ledger}",
    "--bus=pubsub://${var.project_id}/${module.plan.names.builds}",
    "--pull=pubsub://${var.project_id}/${module.plan.names.subscriptions["dispatch"]}",
  ]
}

output "builds_topic" {
  description = "Topic that the dispatcher publishes finished builds to."
  value       = module.bus.builds
}
