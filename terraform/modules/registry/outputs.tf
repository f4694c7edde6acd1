output "repositories" {
  description = "Names of the repositories: the tenants', cache-<tenant>, system, hub."
  value       = local.repositories
}

output "prefixes" {
  description = "What references of images in the repositories begin with: host/project/repository."
  value       = { for k, name in local.repositories : k => "${var.region}-docker.pkg.dev/${var.project_id}/${name}" }
}
