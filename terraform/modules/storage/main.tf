resource "google_storage_bucket" "contexts" {
  project                     = var.project_id
  name                        = var.contexts
  location                    = var.location
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  # A build reads the generation that was announced, also when a newer one has
  # arrived meanwhile.
  versioning {
    enabled = true
  }
  soft_delete_policy {
    retention_duration_seconds = var.retention.soft_delete_seconds
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age        = var.retention.contexts_days
      with_state = "ANY"
    }
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }
  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }
}

# Records are created once or swapped by whoever saw the last value, by
# generation. So there is no retention policy, which would forbid the swap, and
# no versioning, which would keep every value of every register.
resource "google_storage_bucket" "ledger" {
  project                     = var.project_id
  name                        = var.ledger
  location                    = var.location
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  soft_delete_policy {
    retention_duration_seconds = var.retention.soft_delete_seconds
  }
  # Registers (refs/, objs/, tags/, bases/ and others) are kept for ever,
  # and so is what is open.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = var.retention.ledger_days
      matches_prefix = ["builds/", "data/", "index/", "poison/", "refused/", "same/"]
    }
  }
  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }
}

locals {
  buckets = {
    contexts = google_storage_bucket.contexts.name
    ledger   = google_storage_bucket.ledger.name
  }
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = { for k, g in var.grants : k => g if g.kind == "bucket" }

  bucket = local.buckets[each.value.target]
  role   = each.value.role
  member = lookup(var.members, each.value.principal, each.value.principal)

  # What is granted below a prefix only is granted by a condition on the names
  # of objects.
  dynamic "condition" {
    for_each = each.value.prefix == "" ? [] : [each.value.prefix]
    content {
      title       = substr("below ${condition.value}", 0, 100)
      description = each.value.why
      expression  = "resource.name.startsWith(\"projects/_/buckets/${local.buckets[each.value.target]}/objects/${condition.value}\")"
    }
  }
}

resource "google_storage_notification" "uploads" {
  count = var.notify ? 1 : 0

  bucket             = google_storage_bucket.contexts.name
  topic              = var.topic
  payload_format     = "JSON_API_V1"
  event_types        = ["OBJECT_FINALIZE"]
  object_name_prefix = var.watched_prefix == "" ? null : var.watched_prefix

  lifecycle {
    precondition {
      condition     = var.topic != null
      error_message = "notify needs the topic of the module bus."
    }
  }
}
