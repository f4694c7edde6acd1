output "names" {
  description = "Name of everything."
  value       = local.names

  precondition {
    condition     = local.names.ledger != local.names.contexts
    error_message = "The ledger is the watched bucket (${local.names.contexts}): every record of a build would start a build. Give ledger_bucket another name."
  }
  precondition {
    condition     = !contains(var.output_buckets, local.names.contexts)
    error_message = "The watched bucket (${local.names.contexts}) is in output_buckets: every build would start the next. Write somewhere else."
  }
  precondition {
    condition     = length(local.misnamed) == 0
    error_message = "Too long, or of the wrong form: ${join("; ", local.misnamed)}. Shorten install, the tenant's name or the project's, or name the bucket yourself."
  }
  precondition {
    condition     = length(local.reserved) == 0
    error_message = "Names of buckets may not begin with goog or hold google: ${join(", ", local.reserved)}."
  }
  precondition {
    condition     = length(setintersection(keys(var.subscribers), ["dispatch", "notify", "dead"])) == 0
    error_message = "subscribers may not be called dispatch, notify or dead: these are Kiln's own."
  }
  precondition {
    condition     = length(setintersection(flatten([for t in local.tenants : tolist(t.secrets)]), concat(["triggers", "notify"], tolist(var.forges)))) == 0
    error_message = "A tenant's secrets may not be triggers, notify or a forge's webhook secret: builds could forge events."
  }
}

output "location" {
  description = "Location of the buckets."
  value       = local.location
}

output "services" {
  description = "APIs that must be enabled."
  value = toset([for s in concat(
    ["cloudresourcemanager", "iam", "iamcredentials", "logging", "monitoring", "pubsub", "serviceusage", "storage", "sts"],
    local.here ? ["artifactregistry", "secretmanager"] : [],
    length(local.services) > 0 ? ["run"] : [],
    var.use_eventarc ? ["eventarc"] : [],
    var.launcher == "kubernetes" ? ["compute", "container"] : [],
    var.kms_key == null ? [] : ["cloudkms"],
  ) : "${s}.googleapis.com"])
}

output "accounts" {
  description = "Service accounts of the control plane: principal to account id. Executors' are in tenants."
  value       = local.accounts
}

output "tenants" {
  description = "Settings of every tenant, with its rights in grants."
  value = {
    for name, t in local.tenants : name => merge(t, {
      account_id = lookup(local.executors, t.account, null)
      grants     = { for k, r in local.grants : k => r if r.principal == t.account }
    })
  }
}

output "grants" {
  description = "The IAM matrix: every right that is granted, by a name of its own."
  value       = local.grants
}

output "control_grants" {
  description = "The IAM matrix without the executors', which the tenants' modules grant."
  value       = { for k, r in local.grants : k => r if !contains(keys(local.executors), r.principal) }
}

output "retention" {
  description = "How long things are kept, checked."
  value       = var.retention
}

output "delivery" {
  description = "How messages are delivered, checked."
  value       = var.delivery
}

output "watched_prefix" {
  description = "Only uploads below this prefix are announced."
  value       = var.watched_prefix
}

output "kms_key" {
  description = "Key that encrypts, or null."
  value       = var.kms_key
}

output "warnings" {
  description = "What to know before this is applied."
  value = compact([
    var.launcher != "kubernetes" ? "Builds run as children of the dispatcher, with its rights: a build can read the ledger's bucket and overwrite it. Trust who builds, or use launcher = \"kubernetes\"." : "",
    var.use_eventarc ? "Eventarc's own subscription keeps messages for 24 hours and has no dead letters." : "",
    var.retention.soft_delete_seconds == 0 ? "Deleted objects are gone at once." : "",
  ])
}
