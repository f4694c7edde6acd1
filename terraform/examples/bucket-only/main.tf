# A bucket, its announcements and a ledger, for a dispatcher that runs outside
# of Google Cloud: on a laptop, in another cloud, in a cluster of yours. It pulls
# the announcements, so that it needs no address that the world can reach.

module "plan" {
  source = "../../modules/plan"

  project_id = var.project_id
  region     = var.region
  launcher   = "elsewhere"
}

module "services" {
  source = "../../modules/services"

  project_id = var.project_id
  services   = module.plan.services
}

module "identity" {
  source = "../../modules/identity"

  project_id = module.services.project_id
  accounts   = module.plan.accounts
  grants     = module.plan.control_grants
}

locals {
  members = merge(module.identity.members, { dispatcher = var.dispatcher_member })
}

module "bus" {
  source = "../../modules/bus"

  project_id = module.services.project_id
  names      = module.plan.names
  grants     = module.plan.control_grants
  members    = local.members
  retention  = module.plan.retention
  delivery   = module.plan.delivery
}

module "storage" {
  source = "../../modules/storage"

  project_id = module.services.project_id
  location   = module.plan.location
  contexts   = module.plan.names.contexts
  ledger     = module.plan.names.ledger
  grants     = module.plan.control_grants
  members    = local.members
  retention  = module.plan.retention
  topic      = module.bus.changes
}
