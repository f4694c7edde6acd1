# Several teams in one cluster on a shared VPC. Each has a prefix of the bucket, a
# repository, an identity, a namespace with a quota, and nothing of the others'.

module "kiln" {
  source = "../.."

  project_id      = var.project_id
  region          = var.region
  bucket_location = "EU"
  install         = "builds"
  launcher        = "kubernetes"
  forges          = ["github", "gitlab", "gitea", "bitbucket"]
  images          = { git_push = var.git_push_image }
  cluster         = { network = var.network, binary_authorization = true }
  immutable_tags  = true

  tenants = {
    shop = {
      secrets = ["npm-token"]
      pushers = ["group:shop@example.com"]
      quota   = { builds = 50, cpu = "100" }
    }
    data = {
      pushers = ["group:data@example.com"]
    }
    # Others' code: only Dockerfiles that need no RUN.
    guests = {
      context_prefix = "incoming/guests/"
      pod_security   = "restricted"
      quota          = { builds = 2, cpu = "4", memory = "16Gi" }
    }
  }

  subscribers = {
    portal = { endpoint = "https://portal.example.com/kiln" }
    shop   = { filter = "attributes.\"ce-tenant\" = \"shop\"" }
  }
  retention           = { contexts_days = 7, ledger_days = 365 }
  deletion_protection = var.deletion_protection
}
