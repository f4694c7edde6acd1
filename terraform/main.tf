# The common case: one installation in one region of one project. Every module
# can be used alone; examples/bucket-only does.

module "plan" {
  source = "./modules/plan"

  project_id      = var.project_id
  region          = var.region
  install         = var.install
  bucket_location = var.bucket_location
  contexts_bucket = var.contexts_bucket
  ledger_bucket   = var.ledger_bucket
  output_buckets  = var.output_buckets
  watched_prefix  = var.watched_prefix
  launcher        = var.launcher
  tenants         = var.tenants
  forges          = var.forges
  notify          = var.notify_url != null
  use_eventarc    = var.use_eventarc
  subscribers     = { for name, s in var.subscribers : name => s.endpoint != null }
  retention       = var.retention
  delivery        = var.delivery
  kms_key         = var.kms_key
}

locals {
  labels = merge({ app = "kiln", install = var.install }, var.labels)
}

module "services" {
  source = "./modules/services"

  project_id = var.project_id
  services   = module.plan.services
}

module "identity" {
  source = "./modules/identity"

  project_id = module.services.project_id
  accounts   = module.plan.accounts
  grants     = module.plan.control_grants
  kms_key    = module.plan.kms_key
}

module "bus" {
  source = "./modules/bus"

  project_id = module.services.project_id
  names      = module.plan.names
  grants     = module.plan.control_grants
  members    = module.identity.members
  retention  = module.plan.retention
  delivery   = module.plan.delivery
  kms_key    = module.identity.kms_key
  labels     = local.labels
  filters = merge(
    { notify = "attributes.\"ce-type\" = \"dev.kilnhook.build.finished.v1\"" },
    { for name, s in var.subscribers : name => s.filter if s.filter != null },
  )
  push = local.push

  eventarc = !var.use_eventarc ? null : {
    bucket   = module.storage.contexts
    location = module.plan.location
    service  = module.control.names["upload"]
    region   = var.region
    path     = "/"
  }
}

module "storage" {
  source = "./modules/storage"

  project_id          = module.services.project_id
  location            = module.plan.location
  contexts            = module.plan.names.contexts
  ledger              = module.plan.names.ledger
  grants              = module.plan.control_grants
  members             = module.identity.members
  retention           = module.plan.retention
  notify              = !var.use_eventarc
  topic               = module.bus.changes
  watched_prefix      = module.plan.watched_prefix
  kms_key             = module.identity.kms_key
  deletion_protection = var.deletion_protection
  labels              = local.labels
}

module "registry" {
  source = "./modules/registry"

  project_id      = module.services.project_id
  region          = var.region
  names           = module.plan.names
  grants          = module.plan.control_grants
  members         = module.identity.members
  retention       = module.plan.retention
  immutable_tags  = var.immutable_tags
  cleanup_dry_run = var.cleanup_dry_run
  kms_key         = module.identity.kms_key
  labels          = local.labels
}

module "secrets" {
  source = "./modules/secrets"

  project_id = module.services.project_id
  region     = var.region
  secrets    = module.plan.names.secrets
  grants     = module.plan.control_grants
  members    = module.identity.members
  kms_key    = module.identity.kms_key
  labels     = local.labels
}

module "control" {
  source = "./modules/control-cloudrun"

  project_id          = module.services.project_id
  region              = var.region
  services            = local.services
  grants              = module.plan.control_grants
  members             = module.identity.members
  kms_key             = module.identity.kms_key
  deletion_protection = var.deletion_protection
  labels              = local.labels
}

module "cluster" {
  source = "./modules/cluster-autopilot"
  count  = var.launcher == "kubernetes" ? 1 : 0

  project_id           = module.services.project_id
  region               = var.region
  name                 = module.plan.names.cluster
  network              = var.cluster.network
  node_member          = module.identity.members["nodes"]
  dispatcher           = module.identity.account_names["dispatcher"]
  dispatcher_email     = module.identity.emails["dispatcher"]
  control_namespace    = module.plan.names.control
  authorized_networks  = var.cluster.authorized_networks
  release_channel      = var.cluster.release_channel
  binary_authorization = var.cluster.binary_authorization
  kms_key              = module.identity.kms_key
  deletion_protection  = var.deletion_protection
  labels               = local.labels
}

module "tenant" {
  source   = "./modules/tenant"
  for_each = var.launcher == "kubernetes" ? module.plan.tenants : {}

  project_id        = module.services.project_id
  region            = var.region
  name              = each.key
  settings          = each.value
  buckets           = { contexts = module.storage.contexts, ledger = module.storage.ledger }
  repositories      = module.registry.repositories
  secrets           = module.secrets.ids
  workload_pool     = module.cluster[0].workload_pool
  control_namespace = module.plan.names.control
  quota             = { for k, v in var.tenants[each.key].quota : k => v if v != null }
  pod_security      = coalesce(var.tenants[each.key].pod_security, "baseline")
}

module "observability" {
  source = "./modules/observability"

  project_id    = module.services.project_id
  install       = var.install
  subscriptions = module.plan.names.subscriptions
  dead          = module.plan.names.dead
  services      = module.plan.names.services
  cluster       = one(module.cluster[*].name)
  emails        = var.alerts.emails
  channels      = var.alerts.channels
  thresholds    = var.alerts.thresholds
  labels        = local.labels
}
