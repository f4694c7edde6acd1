# Secrets without values: a value given here would be in the state, for
# everybody who reads that. Values are added by hand, see
# docs/first-deployment.md.

resource "google_secret_manager_secret" "this" {
  for_each = var.secrets

  project   = var.project_id
  secret_id = each.value
  labels    = var.labels

  replication {
    user_managed {
      replicas {
        location = var.region
        dynamic "customer_managed_encryption" {
          for_each = var.kms_key[*]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }
}

resource "google_secret_manager_secret_iam_member" "this" {
  for_each = { for k, g in var.grants : k => g if g.kind == "secret" }

  project   = var.project_id
  secret_id = google_secret_manager_secret.this[each.value.target].id
  role      = each.value.role
  member    = var.members[each.value.principal]
}
