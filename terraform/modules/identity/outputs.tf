output "members" {
  description = "Principals of the module plan to members of IAM policies."
  value       = local.members
  depends_on  = [google_project_iam_member.this, google_service_account_iam_member.this]
}

output "emails" {
  description = "Principals to the emails of their service accounts."
  value       = { for principal, account in google_service_account.this : principal => account.email }
}

output "account_names" {
  description = "Principals to the full names of their service accounts."
  value       = { for principal, account in google_service_account.this : principal => account.name }
}

output "kms_key" {
  description = "Key that encrypts everything, once Google's agents may use it; or null."
  value       = var.kms_key
  depends_on  = [google_kms_crypto_key_iam_member.this]
}
