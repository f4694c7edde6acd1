# An Autopilot cluster where every build is a Job with an identity of its own,
# one tenant, webhooks of two forges, and a key of yours for all that is stored.
#
# The identity, the namespaces and the cluster are made here. The dispatcher
# itself is applied from knative/; see README.md for what of it exists.

module "kiln" {
  source = "../.."

  project_id = var.project_id
  region     = var.region
  launcher   = "kubernetes"
  forges     = ["github", "gitlab"]
  images     = { git_push = var.git_push_image }
  tenants    = { app = { context_prefix = "", secrets = ["npm-token"] } }
  kms_key    = var.kms_key

  alerts              = { thresholds = { silence_seconds = 86400 - 3600 } }
  deletion_protection = var.deletion_protection
}
