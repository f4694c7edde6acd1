# Who there is: our service accounts, Google's agents, and the rights that are
# on nothing smaller than the project.

data "google_project" "this" {
  project_id = var.project_id
}

# Asking makes the agent if it is not there yet. The others' emails are made up
# of the number; docs/first-deployment.md says how to call them into being.
data "google_storage_project_service_account" "this" {
  project = var.project_id
}

resource "google_service_account" "this" {
  for_each = var.accounts

  project      = var.project_id
  account_id   = each.value
  display_name = "Kiln ${each.key}"
}

locals {
  number = data.google_project.this.number

  members = merge(
    { for principal, account in google_service_account.this : principal => account.member },
    {
      everybody      = "allUsers"
      agent-storage  = data.google_storage_project_service_account.this.member
      agent-pubsub   = "serviceAccount:service-${local.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
      agent-registry = "serviceAccount:service-${local.number}@gcp-sa-artifactregistry.iam.gserviceaccount.com"
      agent-secrets  = "serviceAccount:service-${local.number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
      agent-run      = "serviceAccount:service-${local.number}@serverless-robot-prod.iam.gserviceaccount.com"
      agent-cluster  = "serviceAccount:service-${local.number}@container-engine-robot.iam.gserviceaccount.com"
    },
  )
}

resource "google_project_iam_member" "this" {
  for_each = { for k, g in var.grants : k => g if g.kind == "project" }

  project = var.project_id
  role    = each.value.role
  member  = local.members[each.value.principal]
}

resource "google_service_account_iam_member" "this" {
  for_each = { for k, g in var.grants : k => g if g.kind == "account" }

  service_account_id = google_service_account.this[each.value.target].name
  role               = each.value.role
  member             = local.members[each.value.principal]
}

resource "google_kms_crypto_key_iam_member" "this" {
  for_each = { for k, g in var.grants : k => g if g.kind == "key" }

  crypto_key_id = var.kms_key
  role          = each.value.role
  member        = local.members[each.value.principal]
}
