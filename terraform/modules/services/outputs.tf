output "project_id" {
  description = "Id of the project, once its services are enabled: what takes it from here waits for them."
  value       = var.project_id
  depends_on  = [google_project_service.this]
}
