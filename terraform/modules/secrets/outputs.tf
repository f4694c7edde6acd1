output "ids" {
  description = "Full names of the secrets, once those may read them who need them."
  value       = { for k, s in google_secret_manager_secret.this : k => s.id }
  depends_on  = [google_secret_manager_secret_iam_member.this]
}
