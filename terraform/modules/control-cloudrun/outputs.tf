output "uris" {
  description = "Addresses of the services, without a path."
  value       = { for k, s in google_cloud_run_v2_service.this : k => s.uri }
}

output "names" {
  description = "Names of the services, once those may call them who need them."
  value       = { for k, s in google_cloud_run_v2_service.this : k => s.name }
  depends_on  = [google_cloud_run_v2_service_iam_member.this]
}
