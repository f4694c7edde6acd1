# One tenant in a cluster: an identity for its builds with the rights that the
# module plan gives it, and the manifests of its namespace.

resource "google_service_account" "executor" {
  project      = var.project_id
  account_id   = var.settings.account_id
  display_name = "Kiln builds of ${var.name}"
}

resource "google_service_account_iam_member" "executor" {
  service_account_id = google_service_account.executor.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.workload_pool}[${var.settings.namespace}/executor]"
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = { for k, g in var.settings.grants : k => g if g.kind == "bucket" }

  bucket = var.buckets[each.value.target]
  role   = each.value.role
  member = google_service_account.executor.member

  dynamic "condition" {
    for_each = each.value.prefix == "" ? [] : [each.value.prefix]
    content {
      title       = substr("below ${condition.value}", 0, 100)
      description = each.value.why
      expression  = "resource.name.startsWith(\"projects/_/buckets/${var.buckets[each.value.target]}/objects/${condition.value}\")"
    }
  }
}

resource "google_artifact_registry_repository_iam_member" "this" {
  for_each = { for k, g in var.settings.grants : k => g if g.kind == "repository" }

  project    = var.project_id
  location   = var.region
  repository = var.repositories[each.value.target]
  role       = each.value.role
  member     = google_service_account.executor.member
}

resource "google_secret_manager_secret_iam_member" "this" {
  for_each = { for k, g in var.settings.grants : k => g if g.kind == "secret" }

  project   = var.project_id
  secret_id = var.secrets[each.value.target]
  role      = each.value.role
  member    = google_service_account.executor.member
}

resource "google_project_iam_member" "this" {
  for_each = { for k, g in var.settings.grants : k => g if g.kind == "project" }

  project = var.project_id
  role    = each.value.role
  member  = google_service_account.executor.member
}

# No provider of Kubernetes is used, so that a plan needs no cluster: kubectl
# applies these.
locals {
  meta = { namespace = var.settings.namespace, labels = { "app.kubernetes.io/part-of" = "kiln" } }

  manifests = [
    {
      apiVersion = "v1"
      kind       = "Namespace"
      metadata = {
        name = var.settings.namespace
        labels = {
          "app.kubernetes.io/part-of"          = "kiln"
          "kilnhook.dev/tenant"                = var.name
          "pod-security.kubernetes.io/enforce" = var.pod_security
          "pod-security.kubernetes.io/warn"    = "restricted"
        }
      }
    },
    {
      apiVersion = "v1"
      kind       = "ServiceAccount"
      metadata = merge(local.meta, {
        name        = "executor"
        annotations = { "iam.gke.io/gcp-service-account" = google_service_account.executor.email }
      })
      automountServiceAccountToken = false
    },
    {
      apiVersion = "v1"
      kind       = "ResourceQuota"
      metadata   = merge(local.meta, { name = "builds" })
      spec = {
        hard = {
          "count/jobs.batch"           = tostring(var.quota.builds * 10) # finished ones count until their TTL
          "pods"                       = tostring(var.quota.builds)
          "requests.cpu"               = var.quota.cpu
          "requests.memory"            = var.quota.memory
          "requests.ephemeral-storage" = var.quota.storage
        }
      }
    },
    # The dispatcher makes, watches and deletes Jobs here. It reads no secrets.
    {
      apiVersion = "rbac.authorization.k8s.io/v1"
      kind       = "Role"
      metadata   = merge(local.meta, { name = "dispatcher" })
      rules = [
        { apiGroups = ["batch"], resources = ["jobs"], verbs = ["create", "get", "list", "watch", "delete"] },
        { apiGroups = [""], resources = ["pods"], verbs = ["get", "list", "watch"] },
        { apiGroups = [""], resources = ["pods/log"], verbs = ["get"] },
      ]
    },
    {
      apiVersion = "rbac.authorization.k8s.io/v1"
      kind       = "RoleBinding"
      metadata   = merge(local.meta, { name = "dispatcher" })
      roleRef    = { apiGroup = "rbac.authorization.k8s.io", kind = "Role", name = "dispatcher" }
      subjects   = [{ kind = "ServiceAccount", name = "dispatcher", namespace = var.control_namespace }]
    },
    # Nobody calls a build. A build calls names and the world, but no other
    # pod, and of the link-local addresses only the one that gives it its own
    # identity's token.
    {
      apiVersion = "networking.k8s.io/v1"
      kind       = "NetworkPolicy"
      metadata   = merge(local.meta, { name = "builds" })
      spec = {
        podSelector = {}
        policyTypes = ["Ingress", "Egress"]
        egress = [
          { ports = [{ port = 53, protocol = "UDP" }, { port = 53, protocol = "TCP" }] },
          { to = [{ ipBlock = { cidr = "169.254.169.252/32" } }], ports = [{ port = 988, protocol = "TCP" }] },
          { to = [{ ipBlock = { cidr = "169.254.169.254/32" } }], ports = [{ port = 80, protocol = "TCP" }, { port = 8080, protocol = "TCP" }] },
          { to = [{ ipBlock = { cidr = "0.0.0.0/0", except = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"] } }] },
        ]
      }
    },
  ]
}
