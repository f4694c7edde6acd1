resource "google_cloud_run_v2_service" "this" {
  for_each = var.services

  project             = var.project_id
  location            = var.region
  name                = each.value.name
  labels              = var.labels
  deletion_protection = var.deletion_protection
  custom_audiences    = each.value.audiences
  # Pub/Sub and Scheduler of the same project count as internal. Forges come
  # from outside.
  ingress = each.value.public ? "INGRESS_TRAFFIC_ALL" : "INGRESS_TRAFFIC_INTERNAL_ONLY"

  template {
    labels                           = var.labels
    service_account                  = each.value.email
    timeout                          = "${each.value.timeout}s"
    max_instance_request_concurrency = each.value.concurrency
    # A whole Linux kernel, which builds need: mounts, namespaces.
    execution_environment = "EXECUTION_ENVIRONMENT_GEN2"
    encryption_key        = var.kms_key

    scaling {
      min_instance_count = each.value.min
      max_instance_count = each.value.max
    }

    containers {
      image = each.value.image
      args  = each.value.args

      ports {
        container_port = 8080
      }
      resources {
        limits            = { cpu = each.value.cpu, memory = each.value.memory }
        cpu_idle          = !each.value.busy
        startup_cpu_boost = true
      }
      dynamic "startup_probe" {
        for_each = each.value.health[*]
        content {
          period_seconds    = 5
          failure_threshold = 12
          http_get {
            path = startup_probe.value
          }
        }
      }
      dynamic "liveness_probe" {
        for_each = each.value.health[*]
        content {
          period_seconds    = 30
          timeout_seconds   = 5
          failure_threshold = 3
          http_get {
            path = liveness_probe.value
          }
        }
      }
      dynamic "env" {
        for_each = each.value.env
        content {
          name  = env.key
          value = env.value
        }
      }
      dynamic "env" {
        for_each = each.value.env_secrets
        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = env.value
              version = "latest"
            }
          }
        }
      }
      dynamic "volume_mounts" {
        for_each = concat(keys(each.value.files), keys(each.value.scratch))
        content {
          name       = local.volumes[volume_mounts.value]
          mount_path = contains(keys(each.value.files), volume_mounts.value) ? dirname(volume_mounts.value) : volume_mounts.value
        }
      }
    }

    dynamic "volumes" {
      for_each = each.value.files
      content {
        name = local.volumes[volumes.key]
        secret {
          secret = volumes.value
          items {
            path    = basename(volumes.key)
            version = "latest"
          }
        }
      }
    }
    dynamic "volumes" {
      for_each = each.value.scratch
      content {
        name = local.volumes[volumes.key]
        empty_dir {
          medium     = "MEMORY"
          size_limit = volumes.value
        }
      }
    }
  }
}

locals {
  # Names of volumes are made of the paths. Each file needs a directory of its
  # own, since a mount hides what was there.
  volumes = merge([for s in var.services : { for p in concat(keys(s.files), keys(s.scratch)) : p => replace(trim(lower(p), "/"), "/[^a-z0-9]+/", "-") }]...)
}

resource "google_cloud_run_v2_service_iam_member" "this" {
  for_each = { for k, g in var.grants : k => g if g.kind == "service" }

  project  = var.project_id
  location = var.region
  name     = google_cloud_run_v2_service.this[each.value.target].name
  role     = each.value.role
  member   = var.members[each.value.principal]
}
