locals {
  days = 24 * 60 * 60
}

# What the tenants build.
resource "google_artifact_registry_repository" "images" {
  for_each = var.names.repositories

  project                = var.project_id
  location               = var.region
  repository_id          = each.value
  format                 = "DOCKER"
  description            = "Images of ${each.key}, built by Kiln"
  labels                 = var.labels
  kms_key_name           = var.kms_key
  cleanup_policy_dry_run = var.cleanup_dry_run

  docker_config {
    immutable_tags = var.immutable_tags
  }
  # Builds push by digest and tag afterwards: what never got a tag, or lost it,
  # goes; the newest stay whatever happened to their tags.
  cleanup_policies {
    id     = "delete-untagged"
    action = "DELETE"
    condition {
      tag_state  = "UNTAGGED"
      older_than = "${var.retention.untagged_days * local.days}s"
    }
  }
  cleanup_policies {
    id     = "keep-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = var.retention.keep_images
    }
  }
  vulnerability_scanning_config {
    enablement_config = var.scanning ? "INHERITED" : "DISABLED"
  }
}

# Kiln's own images. They are put there by hand, so nothing is cleaned up.
resource "google_artifact_registry_repository" "system" {
  project       = var.project_id
  location      = var.region
  repository_id = var.names.system
  format        = "DOCKER"
  description   = "Kiln's own images"
  labels        = var.labels
  kms_key_name  = var.kms_key
}

# Base images, pulled through.
resource "google_artifact_registry_repository" "hub" {
  project                = var.project_id
  location               = var.region
  repository_id          = var.names.hub
  format                 = "DOCKER"
  mode                   = "REMOTE_REPOSITORY"
  description            = "Base images of Docker Hub"
  labels                 = var.labels
  kms_key_name           = var.kms_key
  cleanup_policy_dry_run = var.cleanup_dry_run

  remote_repository_config {
    description = "Docker Hub"
    docker_repository {
      public_repository = "DOCKER_HUB"
    }
  }
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "${90 * local.days}s"
    }
  }
  vulnerability_scanning_config {
    enablement_config = "DISABLED"
  }
}

# Layers for --cache-repo, for each tenant its own: who writes to a cache decides
# what others build from it. They may be lost at any time.
resource "google_artifact_registry_repository" "cache" {
  for_each = var.names.caches

  project                = var.project_id
  location               = var.region
  repository_id          = each.value
  format                 = "DOCKER"
  description            = "Layer cache of ${each.key}"
  labels                 = var.labels
  kms_key_name           = var.kms_key
  cleanup_policy_dry_run = var.cleanup_dry_run

  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "${var.retention.cache_days * local.days}s"
    }
  }
  vulnerability_scanning_config {
    enablement_config = "DISABLED"
  }
}

locals {
  repositories = merge(
    { for name, r in google_artifact_registry_repository.images : name => r.name },
    { for name, r in google_artifact_registry_repository.cache : "cache-${name}" => r.name },
    {
      system = google_artifact_registry_repository.system.name
      hub    = google_artifact_registry_repository.hub.name
    },
  )
}

resource "google_artifact_registry_repository_iam_member" "this" {
  for_each = { for k, g in var.grants : k => g if g.kind == "repository" }

  project    = var.project_id
  location   = var.region
  repository = local.repositories[each.value.target]
  role       = each.value.role
  member     = var.members[each.value.principal]
}
