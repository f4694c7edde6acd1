locals {
  own = var.network == null ? 1 : 0

  network = local.own == 0 ? var.network : {
    network    = google_compute_network.this[0].id
    subnetwork = google_compute_subnetwork.this[0].id
    pods       = "pods"
    services   = "services"
  }
}

resource "google_compute_network" "this" {
  count = local.own

  project                 = var.project_id
  name                    = var.name
  auto_create_subnetworks = false
}

resource "google_compute_subnetwork" "this" {
  count = local.own

  project                  = var.project_id
  region                   = var.region
  name                     = var.name
  network                  = google_compute_network.this[0].id
  ip_cidr_range            = var.ranges.nodes
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = var.ranges.pods
  }
  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = var.ranges.services
  }
}

# Nodes have no addresses of their own. Builds reach the world through this.
resource "google_compute_router" "this" {
  count = local.own

  project = var.project_id
  region  = var.region
  name    = var.name
  network = google_compute_network.this[0].id
}

resource "google_compute_router_nat" "this" {
  count = local.own

  project                            = var.project_id
  region                             = var.region
  name                               = var.name
  router                             = google_compute_router.this[0].name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

resource "google_container_cluster" "this" {
  project             = var.project_id
  location            = var.region
  name                = var.name
  enable_autopilot    = true
  deletion_protection = var.deletion_protection
  resource_labels     = var.labels
  network             = local.network.network
  subnetwork          = local.network.subnetwork

  ip_allocation_policy {
    cluster_secondary_range_name  = local.network.pods
    services_secondary_range_name = local.network.services
  }
  release_channel {
    channel = var.release_channel
  }
  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = false
  }
  # kubectl comes in by name, and IAM decides who may.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = true
    }
    ip_endpoints_config {
      enabled = length(var.authorized_networks) > 0
    }
  }
  dynamic "master_authorized_networks_config" {
    for_each = length(var.authorized_networks) > 0 ? [var.authorized_networks] : []
    content {
      gcp_public_cidrs_access_enabled = false
      dynamic "cidr_blocks" {
        for_each = master_authorized_networks_config.value
        content {
          display_name = cidr_blocks.key
          cidr_block   = cidr_blocks.value
        }
      }
    }
  }
  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }
  cluster_autoscaling {
    auto_provisioning_defaults {
      service_account   = trimprefix(var.node_member, "serviceAccount:")
      oauth_scopes      = ["https://www.googleapis.com/auth/cloud-platform"]
      boot_disk_kms_key = var.kms_key
    }
  }
  binary_authorization {
    evaluation_mode = var.binary_authorization ? "PROJECT_SINGLETON_POLICY_ENFORCE" : "DISABLED"
  }
  dynamic "database_encryption" {
    for_each = var.kms_key[*]
    content {
      state    = "ENCRYPTED"
      key_name = database_encryption.value
    }
  }
}

# The pool of workload identities is there once a cluster is.
resource "google_service_account_iam_member" "dispatcher" {
  service_account_id = var.dispatcher
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${google_container_cluster.this.workload_identity_config[0].workload_pool}[${var.control_namespace}/dispatcher]"
}

# The dispatcher's namespace, for kubectl apply: no provider of Kubernetes is used,
# so that a plan needs no cluster.
locals {
  manifests = [
    {
      apiVersion = "v1"
      kind       = "Namespace"
      metadata = {
        name = var.control_namespace
        labels = {
          "app.kubernetes.io/part-of"          = "kiln"
          "pod-security.kubernetes.io/enforce" = "restricted"
        }
      }
    },
    {
      apiVersion = "v1"
      kind       = "ServiceAccount"
      metadata = {
        name        = "dispatcher"
        namespace   = var.control_namespace
        labels      = { "app.kubernetes.io/part-of" = "kiln" }
        annotations = { "iam.gke.io/gcp-service-account" = var.dispatcher_email }
      }
    },
  ]
}
