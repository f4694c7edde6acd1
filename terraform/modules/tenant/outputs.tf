output "email" {
  description = "Email of the account that the tenant's builds run as."
  value       = google_service_account.executor.email
}

output "manifests" {
  description = "Manifests of the tenant's namespace, for kubectl apply."
  value       = join("---\n", [for m in local.manifests : yamlencode(m)])
}
