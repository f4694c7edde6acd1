output "name" {
  description = "Name of the cluster."
  value       = google_container_cluster.this.name
}

output "workload_pool" {
  description = "Pool of workload identities, once it is there."
  value       = google_container_cluster.this.workload_identity_config[0].workload_pool
}

output "credentials_command" {
  description = "What lets kubectl reach the cluster."
  value       = "gcloud container clusters get-credentials ${google_container_cluster.this.name} --location=${var.region} --project=${var.project_id} --dns-endpoint"
}

output "manifests" {
  description = "Manifests of the dispatcher's namespace, for kubectl apply."
  value       = join("---\n", [for m in local.manifests : yamlencode(m)])
}
